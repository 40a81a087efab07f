from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from pixdex.errors import ConfigError  # noqa: E402
from pixdex.rerankers.learned import LOOKS, SCORES  # noqa: E402
from pixdex.spec import Fingerprint, TokenSpec  # noqa: E402
from pixdex.training.pairfolder import read_net, save_reranker  # noqa: E402
from pixdex.training.pairnets import (  # noqa: E402
    FORMS,
    CrossNet,
    CrossShape,
    TransportNet,
    TransportShape,
    described,
    made,
)

KINDS = ["cross", "both", "symmetric", "transport"]


def net_of(kind: str):
    torch.manual_seed(3)
    if kind == "transport":
        return TransportNet(TransportShape(token_dim=8, dim=16, hidden=16)).eval()
    attention = "query" if kind == "cross" else kind
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


def test_the_symmetric_form_gives_a_pair_one_score() -> None:
    """The others need not, and do not."""
    query, query_mask, candidates, mask, first = lists(queries=1, count=1)
    pair = (query, query_mask, candidates, mask, first)
    turned = (candidates[:, 0], mask[:, 0], query[:, None], query_mask[:, None], first)
    with torch.no_grad():
        one, other = net_of("symmetric")(*pair), net_of("symmetric")(*turned)
        assert torch.allclose(one, other, atol=1e-5)
        assert not torch.allclose(net_of("both")(*pair), net_of("both")(*turned), atol=1e-4)


@pytest.mark.parametrize("seed", range(8))
def test_transport_begins_by_liking_what_matches(seed: int) -> None:
    """And a higher cosine of the first stage: where it began by the contrary it learned nothing."""
    torch.manual_seed(seed)
    net = TransportNet(TransportShape(token_dim=8)).eval()
    query, query_mask, candidates, mask, first = lists(count=2, tq=6)
    candidates[:, 0] = query
    with torch.no_grad():
        scores = net(query, query_mask, candidates, mask, torch.full_like(first, 0.5))
        assert (scores[:, 0] > scores[:, 1]).all()
        assert (net(query, query_mask, candidates, mask, torch.full_like(first, 0.9)) > scores).all()


@pytest.mark.parametrize("form", FORMS)
def test_every_form_as_a_graph_is_the_network(form: str, tmp_path: Path) -> None:
    """With masks, and lists of other lengths than that of the export."""
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    torch.manual_seed(3)
    net = made("cross", {"token_dim": 8, "dim": 16, "heads": 2, "hidden": 16, **FORMS[form]})
    spec = TokenSpec(count=6, dim=8, fingerprint=Fingerprint(encoder="toy", digest="0" * 32))
    save_reranker(net, tmp_path / "made", [spec])
    again = read_net(tmp_path / "made").eval()
    query, query_mask, candidates, mask, first = lists(queries=1, count=5, tq=6, td=7)
    query_mask[:, 4:] = 0
    mask[:, 1:, 5:] = 0
    names = ("query", "query_mask", "candidates", "candidate_mask", "first")
    feed = {n: t.numpy() for n, t in zip(names, (query, query_mask, candidates, mask, first), strict=True)}
    with torch.no_grad():
        expected = again(query, query_mask, candidates, mask, first)
        looks = again.correspondences(query, query_mask, candidates, mask)
    session = runtime.InferenceSession(str(tmp_path / "made" / SCORES))
    assert session.run(None, feed)[0] == pytest.approx(expected.numpy(), abs=1e-4)
    del feed["first"]
    session = runtime.InferenceSession(str(tmp_path / "made" / LOOKS))
    assert session.run(None, feed)[0] == pytest.approx(looks.numpy(), abs=1e-4)


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
