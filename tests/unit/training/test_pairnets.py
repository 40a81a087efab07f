from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from pixdex.errors import ConfigError  # noqa: E402
from pixdex.training.pairnets import CrossNet, CrossShape, TransportNet, TransportShape, described, made  # noqa: E402

KINDS = ["cross", "both", "transport"]


def net_of(kind: str):
    torch.manual_seed(3)
    if kind == "transport":
        return TransportNet(TransportShape(token_dim=8, dim=16, hidden=16)).eval()
    attention = "both" if kind == "both" else "query"
    return CrossNet(CrossShape(token_dim=8, dim=16, heads=2, hidden=16, attention=attention)).eval()


def lists(queries: int = 2, count: int = 3, tq: int = 5, td: int = 6):
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(queries, tq, 8, generator=generator),
        torch.ones(queries, tq),
        torch.randn(queries, count, td, 8, generator=generator),
        torch.ones(queries, count, td),
        torch.rand(queries, count, generator=generator),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_candidate_is_judged_by_itself(kind: str) -> None:
    """Not by those beside it in the batch, whichever query they belong to."""
    query, query_mask, candidates, mask, first = lists()
    net = net_of(kind)
    with torch.no_grad():
        whole = net(query, query_mask, candidates, mask, first)
        one = net(query[1:], query_mask[1:], candidates[1:, 2:], mask[1:, 2:], first[1:, 2:])
    assert whole.shape == (2, 3)
    assert torch.allclose(whole[1:, 2:], one, atol=1e-5)
    assert whole.std() > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_masked_counts_for_nothing(kind: str) -> None:
    query, query_mask, candidates, mask, first = lists()
    net = net_of(kind)
    with torch.no_grad():
        expected = net(query[:, :3], query_mask[:, :3], candidates[:, :, :4], mask[:, :, :4], first)
        query_mask[:, 3:] = 0
        mask[:, :, 4:] = 0
        masked = net(query, query_mask, candidates, mask, first)
    assert torch.allclose(masked, expected, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_neither_the_length_of_tokens_nor_their_order_counts(kind: str) -> None:
    query, query_mask, candidates, mask, first = lists()
    net = net_of(kind)
    with torch.no_grad():
        expected = net(query, query_mask, candidates, mask, first)
        turned = net(query.flip(1) * 3, query_mask, candidates.flip(2) * 100, mask, first)
    assert torch.allclose(turned, expected, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_correspondences_are_shares_of_each_token_of_the_query(kind: str) -> None:
    query, query_mask, candidates, mask, _ = lists()
    with torch.no_grad():
        look = net_of(kind).correspondences(query, query_mask, candidates, mask)
    assert look.shape == (2, 3, 5, 6)
    assert look.min() >= 0
    assert look.sum(dim=3).max() <= 1.001


def test_the_plan_carries_what_the_tokens_hold() -> None:
    """Every token sends and gets one: the rest of it goes to the dustbins."""
    torch.manual_seed(0)
    net = TransportNet(TransportShape(token_dim=8, dim=16, hidden=16, iterations=100)).eval()
    query, query_mask, candidates, mask, _ = lists()
    query = candidates[:, 0, :5].clone()  # the first candidate has all of it
    with torch.no_grad():
        plan = net.correspondences(query, query_mask, candidates, mask)
    assert plan.sum(dim=2).max() <= 1.001
    assert (plan[:, 0].argmax(dim=2) == torch.arange(5)).all()
    best = plan.amax(dim=3).sum(dim=2)
    assert (best[0, 0] > 1.5 * best[0, 1:]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_what_describes_a_network_makes_it_again(kind: str) -> None:
    net = net_of(kind)
    values = described(net)
    again = made(values["kind"], values["shape"])
    again.load_state_dict(net.state_dict())
    with torch.no_grad():
        assert torch.equal(again.eval()(*lists()), net(*lists()))


@pytest.mark.parametrize(
    ("kind", "values", "named"),
    [
        ("maxsim", {}, "no network 'maxsim'"),
        ("cross", {"token_dim": 8, "depth": 2}, "depth"),
        ("cross", {"token_dim": 8, "dim": 10, "heads": 4}, "heads=4"),
        ("cross", {"token_dim": 8, "attention": "all"}, "attention='all'"),
        ("cross", {"token_dim": 8, "layers": 0}, "layers=0"),
    ],
)
def test_what_cannot_be_made_is_named(kind: str, values: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        made(kind, values)


@pytest.mark.parametrize("kind", ["cross", "transport"])
@pytest.mark.filterwarnings("ignore")
def test_the_default_shapes_are_small(kind: str) -> None:
    count = sum(p.numel() for p in made(kind, {"token_dim": 64}).parameters())
    assert count * 2 < {"cross": 4 << 20, "transport": 300_000}[kind]
