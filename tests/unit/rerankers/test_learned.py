from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import orjson
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

from pixdex import rerankers  # noqa: E402
from pixdex.errors import AlreadyExists, ConfigError, FingerprintMismatch  # noqa: E402
from pixdex.rerankers.learned import CONFIG_FILE, Learned, load, shipped  # noqa: E402
from pixdex.rerankers.port import Candidate, Query, Reranker  # noqa: E402
from pixdex.spec import Fingerprint, TokenSpec  # noqa: E402
from pixdex.training.pairfolder import read_net, save_reranker  # noqa: E402
from pixdex.training.pairnets import PairNet, made  # noqa: E402

VECTOR = np.ones(4, dtype=np.float32)
KINDS = ["cross", "transport"]


def spec(encoder: str = "toy", digest: str = "0" * 8, **values) -> TokenSpec:
    fingerprint = Fingerprint(encoder=encoder, digest=digest, parts={"weights": digest})
    return TokenSpec(**{"count": 6, "dim": 8, "fingerprint": fingerprint, **values})


def net_of(kind: str) -> PairNet:
    torch.manual_seed(2)
    values = {"token_dim": 8, "dim": 16, "hidden": 16}
    net = made(kind, {**values, "heads": 2} if kind == "cross" else values)
    # As the weights are stored, so that results are equal.
    return net.half().float().eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made_at = {}
    for kind in KINDS:
        made_at[kind] = tmp_path_factory.mktemp("rerankers") / kind
        save_reranker(net_of(kind), made_at[kind], [spec(), spec(digest="1" * 8)], trained={"map": 0.5})
    return made_at


def tokens(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.integers(-127, 128, (count, 8)).astype(np.int8)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_the_network_at_any_length(kind: str, folders: dict[str, Path]) -> None:
    reranker = rerankers.load(f"{kind}:{folders[kind]}")
    assert isinstance(reranker, Reranker)
    assert (reranker.name, reranker.uses_tokens) == (kind, True)
    rng = np.random.default_rng(0)
    query = tokens(rng, 5)
    candidates = [Candidate(str(i), i / 9, tokens(rng, count)) for i, count in enumerate((6, 1, 4, 6))]
    scores = reranker.rerank(Query(VECTOR, query), candidates)
    assert scores.dtype == np.float32
    net = net_of(kind)
    for score, candidate in zip(scores, candidates, strict=True):
        q, c = torch.tensor(query)[None].float(), torch.tensor(candidate.tokens)[None, None].float()
        ones = torch.ones(q.shape[:2]), torch.ones(c.shape[:3])
        with torch.no_grad():
            expected = net(q, ones[0], c, ones[1], torch.tensor([[candidate.score]]))
        assert score == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_what_has_no_tokens_has_no_score(kind: str, folders: dict[str, Path]) -> None:
    reranker = Learned(folders[kind], kind)
    rng = np.random.default_rng(1)
    candidates = [Candidate("a", 0.5), Candidate("b", 0.5, tokens(rng, 3)), Candidate("c", 0.5, tokens(rng, 0))]
    assert np.isnan(reranker.rerank(Query(VECTOR, tokens(rng, 4)), candidates)).tolist() == [True, False, True]
    assert np.isnan(reranker.rerank(Query(VECTOR), candidates)).all()
    assert np.isnan(reranker.rerank(Query(VECTOR, tokens(rng, 0)), candidates)).all()
    assert reranker.rerank(Query(VECTOR, tokens(rng, 4)), []).shape == (0,)


@pytest.mark.parametrize("kind", KINDS)
def test_many_candidates_are_scored_as_few(
    kind: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    reranker = Learned(folders[kind], kind)
    rng = np.random.default_rng(2)
    query = Query(VECTOR, tokens(rng, 4))
    candidates = [Candidate("", 0.1, tokens(rng, int(rng.integers(1, 7)))) for _ in range(9)]
    whole = reranker.rerank(query, candidates)
    monkeypatch.setattr("pixdex.rerankers.learned._AT_ONCE", 2)
    assert reranker.rerank(query, candidates) == pytest.approx(whole, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_packed_signs_are_vectors_of_one_and_minus_one(kind: str, folders: dict[str, Path]) -> None:
    reranker = Learned(folders[kind], kind)
    rng = np.random.default_rng(3)
    signs = np.where(tokens(rng, 5) > 0, 1, -1).astype(np.int8)
    packed = np.packbits(signs > 0, axis=1)
    query = Query(VECTOR, tokens(rng, 4))
    one, other = reranker.rerank(query, [Candidate("", 0.1, signs), Candidate("", 0.1, packed)])
    assert one == pytest.approx(other, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_correspondences_find_the_tokens_again(kind: str, folders: dict[str, Path]) -> None:
    reranker = Learned(folders[kind], kind)
    rng = np.random.default_rng(4)
    shared = tokens(rng, 5)
    looks = reranker.correspondences(Query(VECTOR, shared), Candidate("", 0.1, shared[::-1]))
    assert looks.shape == (5, 5)
    assert looks.sum(axis=1).max() <= 1.001
    if kind == "transport":  # even one that learned nothing compares tokens
        assert looks.argmax(axis=1).tolist() == [4, 3, 2, 1, 0]
    with pytest.raises(ConfigError, match="both pictures"):
        reranker.correspondences(Query(VECTOR), Candidate("", 0.1, shared))
    with pytest.raises(ConfigError, match="both pictures"):
        reranker.correspondences(Query(VECTOR, shared), Candidate("", 0.1, tokens(rng, 0)))
    with pytest.raises(ConfigError, match="both pictures"):
        reranker.correspondences(Query(VECTOR, tokens(rng, 0)), Candidate("", 0.1, shared))


def test_tokens_of_another_encoder_are_refused_by_name(folders: dict[str, Path]) -> None:
    reranker = Learned(folders["cross"], "cross")
    reranker.check(spec())
    reranker.check(spec(digest="1" * 8, count=3))
    with pytest.raises(FingerprintMismatch, match=r"'cross' was trained for tokens of toy; these are of other: rerank"):
        reranker.check(spec("other", digest="2" * 8))
    with pytest.raises(FingerprintMismatch, match="toy, but weights differ"):
        reranker.check(spec(digest="2" * 8))
    with pytest.raises(ConfigError, match="takes 8 values each"):
        reranker.rerank(Query(VECTOR, np.ones((3, 16), np.int8)), [])
    with pytest.raises(ConfigError, match=r"tokens of 'a' are \[2, 4\]"):
        reranker.rerank(Query(VECTOR, np.ones((3, 8), np.int8)), [Candidate("a", 0.0, np.ones((2, 4), np.int8))])


def test_what_is_no_such_folder_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        rerankers.load(f"cross:{tmp_path}")
    with pytest.raises(ConfigError, match="of the kind cross: load it as cross:"):
        rerankers.load(f"transport:{folders['cross']}")
    with pytest.raises(ConfigError, match="no such folder"):
        rerankers.load("cross:no-encoder")
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folders["cross"].iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    rerankers.load(f"cross:{copy}")
    document = orjson.loads((copy / "reranker.json").read_bytes())
    (copy / "reranker.json").write_bytes(orjson.dumps({**document, "version": 9}))
    with pytest.raises(ConfigError, match="newer pixdex"):
        rerankers.load(f"cross:{copy}")
    (copy / "reranker.json").write_bytes(orjson.dumps(document))
    (copy / "looks.onnx").write_bytes(b"something else")
    with pytest.raises(ConfigError, match="was changed"):
        rerankers.load(f"cross:{copy}")


def test_saving_keeps_the_network_and_overwrites_nothing(folders: dict[str, Path], tmp_path: Path) -> None:
    net, again = net_of("cross"), read_net(folders["cross"])
    assert again.shape == net.shape
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True))
    with pytest.raises(AlreadyExists):
        save_reranker(net, folders["cross"], [spec()])
    with pytest.raises(ConfigError, match="tokens of 8 values"):
        save_reranker(net, tmp_path / "wide", [spec(dim=16)])


@pytest.mark.parametrize("kind", KINDS)
def test_the_one_that_comes_with_pixdex_is_found_by_the_tokens(
    kind: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pixdex.rerankers.learned.shipped", lambda _: {"toy": folders[kind]})
    reranker = rerankers.load(kind)
    query, candidates = Query(VECTOR, np.ones((3, 8), np.int8)), [Candidate("a", 0.3, np.ones((3, 8), np.int8))]
    with pytest.raises(ConfigError, match=f"by name: {kind}:toy"):
        reranker.rerank(query, candidates)
    with pytest.raises(FingerprintMismatch, match=r"no reranker .* of other, only for tokens of toy"):
        reranker.check(spec("other", digest="2" * 8))
    reranker.check(spec())
    assert reranker.for_tokens(spec()).rerank(query, candidates) == Learned(folders[kind], kind).rerank(
        query, candidates
    )
    started: list[Path] = []
    monkeypatch.setattr("pixdex.rerankers.learned._started", started.append)
    for each in (reranker, rerankers.load(kind)):  # as every search does
        each.check(spec())
    assert not started


def test_those_that_come_with_pixdex_load_and_are_small() -> None:
    for kind in KINDS:
        for name, folder in shipped(kind).items():
            assert isinstance(rerankers.load(f"{kind}:{name}"), Learned)
            assert sum(file.stat().st_size for file in folder.iterdir()) < 4 << 20


def test_a_folder_is_started_once_and_anew_when_it_was_written_anew(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(folders["cross"], folder)
    first = load("cross", str(folder))
    assert load("cross", str(folder)) is first
    values = orjson.loads((folder / CONFIG_FILE).read_bytes())
    (folder / CONFIG_FILE).unlink()
    (folder / CONFIG_FILE).write_bytes(orjson.dumps({**values, "name": "other"}))
    assert load("cross", str(folder)).name == "other"
