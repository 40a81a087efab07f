"""Pictures that a collection holds more than once: grouped, the best of each kept, nothing removed unasked."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import toys
from PIL import ImageOps

import pixdex
from pixdex import Batch, Collection
from pixdex._linkage import Pairs
from pixdex._looking import Looking
from pixdex._originals import picture_of
from pixdex._twins import OnDuplicate, Twins
from pixdex.alignment import align
from pixdex.connectors.memory import MemoryConnector
from pixdex.dedup import Keep, Near, find_duplicates, remove_duplicates, usual
from pixdex.encoders.decoding import Decoding
from pixdex.encoders.port import Features
from pixdex.errors import ConfigError, MissingDependency, Unsupported
from pixdex.jobs import Job
from pixdex.rerankers.port import Candidate, Query
from pixdex.spec import Field, Fingerprint, Kind, Metric, Spec, TokenSpec, Vector
from pixdex.types import Want

MARK = Fingerprint(encoder="toy", digest="0123abcd" * 4)
FIELDS = (
    Field(name="width", kind=Kind.INT),
    Field(name="height", kind=Kind.INT),
    Field(name="taken", kind=Kind.TIME),
)


def made(vectors: Any, payloads: Sequence[dict[str, Any]] | None = None, tokens: Any = None, **spec: Any) -> Collection:
    declared = TokenSpec(count=4, dim=2, fingerprint=MARK) if tokens is not None else None
    vector = Vector(dim=len(vectors[0]), fingerprint=MARK, **spec)
    collection = Collection.create(MemoryConnector(), "photos", Spec(vectors=(vector,), fields=FIELDS, tokens=declared))
    ids = tuple(f"r{row:02}" for row in range(len(vectors)))
    rows = tuple(payloads or ({} for _ in ids))
    collection.upsert(Batch(ids, {"image": np.asarray(vectors, np.float32)}, rows, tokens))
    return collection


def groups(found: Any) -> list[list[str]]:
    return [[group.keep.id, *(one.id for one in group.others)] for group in found.groups]


def planted(count: int, every: int, seed: int = 0) -> tuple[np.ndarray, dict[int, int]]:
    """Random vectors, and of each ``every``-th a copy a little beside it: copy row -> row."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, 32)).astype(np.float32)
    copies = {count + place: row for place, row in enumerate(range(0, count, every))}
    beside = vectors[list(copies.values())] + 0.05 * rng.standard_normal((len(copies), 32)).astype(np.float32)
    return np.concatenate([vectors, beside]), copies


def test_planted_copies_are_found_and_nothing_else() -> None:
    vectors, copies = planted(1200, 7)
    told: list[tuple[int, int]] = []
    found = find_duplicates(made(vectors), progress=lambda done, total: told.append((done, total)))
    assert set(map(frozenset, groups(found))) == {
        frozenset((f"r{row:02}", f"r{copy:02}")) for copy, row in copies.items()
    }
    assert found.records == len(vectors)
    assert told[-1] == (len(vectors), len(vectors))
    assert len(found.superfluous) == len(copies)


def test_more_copies_than_neighbours_are_one_group() -> None:
    rng = np.random.default_rng(1)
    one = rng.standard_normal(16)
    vectors = np.concatenate([np.tile(one, (40, 1)), rng.standard_normal((30, 16))])
    assert [len(some) for some in groups(find_duplicates(made(vectors), Near(k=16)))] == [40]


def test_one_mistaken_pair_does_not_join_two_groups() -> None:
    pairs = Pairs()
    for some in ("abcd", "wxyz"):
        for one in some:
            pairs.hear(one, [(other, 3.0) for other in some if other > one])
    pairs.hear("d", [("w", 2.5)])
    assert sorted(map(sorted, pairs.sets(-4.0))) == [list("abcd"), list("wxyz")]
    assert sorted(map(sorted, pairs.sets(0.1))) == [list("abcdwxyz")]  # single linkage, as it were


def test_edits_that_only_know_their_original_are_one_group() -> None:
    pairs = Pairs()
    pairs.hear("original", [(edit, 5.0) for edit in "abcd"])
    pairs.hear("a", [("b", -1.0), ("c", -2.0)])
    pairs.hear("stranger", [("a", 2.0)])  # one of five, and not its original
    assert sorted(map(sorted, pairs.sets(-4.0))) == [["a", "b", "c", "d", "original"]]


def test_a_pair_both_speak_of_has_the_mean() -> None:
    pairs = Pairs()
    pairs.hear("a", [("b", 3.0)])
    pairs.hear("b", [("a", -4.0)])
    assert pairs.sets(-1.0) == []
    pairs.hear("a", [("b", 9.0)])
    assert pairs.sets(-1.0) == [{"a": pytest.approx(8 / 3), "b": pytest.approx(8 / 3)}]


@pytest.mark.parametrize(("keep", "first"), [(Keep.LARGEST, "r02"), (Keep.OLDEST, "r01"), (Keep.NEWEST, "r03")])
def test_which_is_kept(keep: Keep, first: str) -> None:
    day = datetime(2020, 5, 17, tzinfo=UTC)
    payloads = [
        {"width": 100, "height": 100},
        {"width": 100, "height": 100, "taken": day},
        {"width": 400, "height": 300, "taken": day.replace(day=18)},
        {"width": 100, "height": 100, "taken": day.replace(day=19)},
    ]
    found = find_duplicates(made(np.ones((4, 8)), payloads), keep=keep)
    assert found.groups[0].keep.id == first


def test_removing_takes_what_need_not_be_kept_and_no_group_whose_kept_one_is_gone() -> None:
    vectors, _ = planted(30, 10)
    collection = made(vectors)
    found = find_duplicates(collection)
    assert len(found.groups) == 3
    collection.delete([found.groups[0].keep.id])
    assert remove_duplicates(collection, found) == 2
    assert collection.count() == 33 - 1 - 2


class Same:
    """Says that pictures with one first token are the same."""

    name, uses_tokens, uses_vectors = "same", True, False

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale
        self.lists: list[int] = []

    def rerank(self, query: Query, candidates: Sequence[Candidate]) -> Any:
        self.lists.append(len(candidates))
        assert query.tokens is not None
        said = [
            np.nan if c.tokens is None else 0.99 if np.array_equal(c.tokens, query.tokens) else 0.01 for c in candidates
        ]
        return np.array(said, np.float32) * np.float32(self.scale)


def test_a_reranker_that_makes_sure_splits_what_only_looks_alike() -> None:
    vectors = np.tile(np.arange(1, 9.0), (6, 1))
    tokens = tuple(np.full((4, 2), row // 2, np.int8) + 1 for row in range(6))
    collection = made(vectors, tokens=tokens)
    assert len(groups(find_duplicates(collection))) == 1
    found = find_duplicates(collection, Near(cosine=0.5, verify=Same()))
    assert groups(found) == [["r00", "r01"], ["r02", "r03"], ["r04", "r05"]]
    assert found.groups[0].keep.score == pytest.approx(0.99)


class Often(Same):
    """Says so of those with one first token, and that all others are half likely."""

    def rerank(self, query: Query, candidates: Sequence[Candidate]) -> Any:
        assert query.tokens is not None
        said = [0.9 if np.array_equal(c.tokens, query.tokens) else self.scale for c in candidates]
        return np.array(said, np.float32)


def test_where_everything_looks_half_alike_it_takes_more_to_be_the_same() -> None:
    tokens = tuple(np.full((4, 2), row // 2, np.int8) + 1 for row in range(12))
    collection = made(np.ones((12, 4)), tokens=tokens)
    near = Near(cosine=0.5, verify=Often(0.001), k=11)
    assert len(groups(find_duplicates(collection, near))) == 6
    assert groups(find_duplicates(collection, replace(near, verify=Often(0.5)))) == []


def test_a_record_without_tokens_is_no_duplicate_when_verified() -> None:
    tokens = (np.ones((4, 2), np.int8), None, np.ones((4, 2), np.int8))
    found = find_duplicates(made(np.ones((3, 4)), tokens=tokens), Near(cosine=0.5, verify=Same()))
    assert groups(found) == [["r00", "r02"]]


def test_what_cannot_be_done_is_refused() -> None:
    with pytest.raises(Unsupported, match="found by cosine"):
        find_duplicates(made(np.ones((2, 4)), metric=Metric.L2))
    with pytest.raises(Unsupported, match="found by cosine"):  # by inner product everything long would be left out
        Twins(made(np.ones((2, 4)), metric=Metric.DOT), "image", Near(), OnDuplicate.SKIP)
    with pytest.raises(Unsupported, match="keeps no tokens"):
        find_duplicates(made(np.ones((2, 4))), Near(verify="maxsim"))
    tokens = tuple(np.ones((4, 2), np.int8) for _ in range(2))
    with pytest.raises(ConfigError, match="gives no probabilities"):
        find_duplicates(made(np.ones((2, 4)), tokens=tokens), Near(cosine=0.5, verify=Same(scale=9.0)))
    with pytest.raises(ConfigError, match="cosine is"):
        Near(cosine=1.5)
    assert usual(made(np.ones((2, 4)), tokens=tokens)).verify is None  # nothing of pixdex takes these tokens


class Alike(toys.ToyEncoder):
    """To which all pictures look somewhat alike."""

    def encode(self, prepared: Sequence[Any], *, tokens: bool = False) -> Features:
        features = super().encode(prepared, tokens=tokens)
        return replace(features, vectors=features.vectors + 60)


@pytest.fixture
def photos(tmp_path: Path) -> Iterator[pixdex.Index]:
    """Two scenes, of each the original, a cut and a mirrored one, all near one another by their vectors."""
    pytest.importorskip("cv2")
    folder = tmp_path / "pics"
    folder.mkdir()
    for name, seed in (("a", 0), ("b", 1)):
        one = toys.scene(seed)
        one.save(folder / f"{name}0.png")
        one.crop((60, 40, 300, 230)).save(folder / f"{name}1.png")
        ImageOps.mirror(one).convert("L").save(folder / f"{name}2.png")
    with pixdex.open(f"pq://{tmp_path}/photos.pix", encoder=Alike()) as index:
        index.add(folder, progress=False)
        yield index


LOOK = Near(cosine=0.5, look=True)


def test_looking_at_pictures_tells_edits_from_others(photos: pixdex.Index) -> None:
    assert len(groups(find_duplicates(photos.collection, Near(cosine=0.5)))) == 1  # by vectors all are alike
    found = find_duplicates(photos.collection, LOOK)
    assert [sorted(some) for some in groups(found)] == [[f"pics/{name}{n}.png" for n in range(3)] for name in "ab"]
    assert all(member.score > 0.9 for group in found.groups for member in group.others)
    assert (found.looked_at, found.unopened) == (15, 0)


def test_what_cannot_be_opened_is_judged_without(photos: pixdex.Index, tmp_path: Path) -> None:
    """A file that is gone, and one that is another picture by now."""
    (tmp_path / "pics" / "a2.png").unlink()
    toys.scene(7).save(tmp_path / "pics" / "b2.png")
    found = find_duplicates(photos.collection, LOOK)
    assert found.unopened == 2
    assert [sorted(some) for some in groups(found)] == [[f"pics/{name}{n}.png" for n in range(2)] for name in "ab"]
    assert found.looked_at == 6
    photos.add(toys.scene(0), ids=["again"], progress=False)  # nobody knows where it lies, and its vector is the same
    assert {"again", "pics/a0.png"} <= set(groups(find_duplicates(photos.collection, LOOK))[0])


def test_what_cannot_be_opened_is_tried_once(
    photos: pixdex.Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However little is kept of those that can be."""
    tried: list[str] = []
    monkeypatch.setattr("pixdex._looking._KEPT", 1)
    monkeypatch.setattr("pixdex._looking.picture_of", lambda record, *_: tried.append(record) or picture_of(record, *_))
    (tmp_path / "pics" / "a2.png").unlink()
    find_duplicates(photos.collection, LOOK)
    assert tried.count("pics/a2.png") == 1
    assert len(tried) > 6  # others were opened again


def test_pictures_are_opened_as_they_were_added(photos: pixdex.Index, tmp_path: Path) -> None:
    """On another background they are others, be they opaque."""
    how = Decoding(background=(0, 0, 9))
    coming = tmp_path / "new"
    coming.mkdir()
    toys.scene(5).save(coming / "other.png")
    toys.scene(0).rotate(10, expand=True).save(coming / "turned.png")
    with pixdex.open(f"pq://{tmp_path}/dark.pix", encoder=Alike()) as dark:
        dark.add(tmp_path / "pics", decoding=how, progress=False)
        assert find_duplicates(dark.collection, LOOK).unopened == 6
        found = find_duplicates(dark.collection, LOOK, decoding=how)
        assert (found.looked_at, found.unopened) == (15, 0)
        dark.add(coming, decoding=how, job=Job(on_duplicate="skip", near=LOOK), progress=False)
        assert dark.collection.fetch(["new/other.png", "new/turned.png"]).ids == ("new/other.png",)


def test_records_without_tokens_are_looked_at_all_the_same(photos: pixdex.Index) -> None:
    """As where tokens were asked for later: some have them, which tell here that nothing is the same."""
    want = Want(vectors=("image",))
    batch = photos.collection.fetch([f"pics/a{n}.png" for n in range(3)], want=want)
    tokens = (np.ones((16, 3), np.int8), None, np.zeros((16, 3), np.int8))
    with pixdex.open("memory://some-tokens", encoder=Alike(), tokens=True) as index:
        index.add(toys.scene(9), ids=["other"], tokens=True, progress=False)
        index.collection.upsert(replace(batch, tokens=tokens, revs=None))
        near = replace(LOOK, verify=Same(), k=16)
        assert [sorted(some) for some in groups(find_duplicates(index.collection, near))] == [list(batch.ids)]
        assert groups(find_duplicates(index.collection, replace(near, look=False))) == []


def test_of_equal_sizes_the_file_with_more_in_it_is_kept(photos: pixdex.Index, tmp_path: Path) -> None:
    """Which is the original, and not its grey copy that comes first by name."""
    ImageOps.mirror(toys.scene(1)).convert("L").save(tmp_path / "pics" / "a-grey.png")
    photos.add(tmp_path / "pics", progress=False)
    kept = {group.keep.id for group in find_duplicates(photos.collection, LOOK).groups}
    assert kept == {"pics/a0.png", "pics/b0.png"}


def test_what_is_gone_meanwhile_is_not_judged(photos: pixdex.Index) -> None:
    looking = Looking(photos.collection)
    assert looking.said("pics/a0.png", ["gone", "pics/a1.png"], {})[0] is None
    assert looking.shut == {"gone"}


def test_a_pair_is_looked_at_once_though_both_ask(photos: pixdex.Index, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("pixdex._looking.align", lambda *pair: seen.append(pair) or align(*pair))
    find_duplicates(photos.collection, LOOK)
    assert len(seen) == 15


def test_what_comes_is_looked_at_too(photos: pixdex.Index, tmp_path: Path) -> None:
    """By the vector alone it would be left out."""
    coming = tmp_path / "new"
    coming.mkdir()
    toys.scene(5).save(coming / "other.png")
    toys.scene(0).rotate(10, expand=True).save(coming / "turned.png")
    twins = Twins(photos.collection, "image", LOOK, OnDuplicate.SKIP)
    batch = made_of(photos, coming)
    assert twins.of(batch).keys() == {"new/turned.png"}
    assert Twins(photos.collection, "image", replace(LOOK, look=False), OnDuplicate.SKIP).of(batch).keys() == set(
        batch.ids
    )


def made_of(index: pixdex.Index, folder: Path) -> Batch:
    """What an add of a folder would write."""
    with pixdex.open(f"pq://{folder}.pix", encoder=Alike()) as other:
        other.add(folder, progress=False)
        ids = [hit.id for hit in other.collection.search(np.ones((1, 48)), k=10)[0]]
        return other.collection.fetch(sorted(ids), want=Want(vectors=("image",)))


def test_what_fits_a_collection(photos: pixdex.Index, monkeypatch: pytest.MonkeyPatch) -> None:
    assert usual(photos.collection) == Near(cosine=0.5, look=True)
    assert usual(photos.collection, look=False) == Near()
    monkeypatch.setattr("pixdex._sameness.can_align", lambda: False)
    assert usual(photos.collection) == Near()


def test_without_opencv_looking_names_the_extra(photos: pixdex.Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingDependency, match="pixdex\\[dedup\\]"):
        find_duplicates(photos.collection, LOOK)


def test_by_the_shell(tmp_path: Path) -> None:
    folder = toys.folder(tmp_path / "pics", 6)
    toys.write(folder / "copies" / "00-again.png", 0)
    url = f"pq://{tmp_path / 'photos.pix'}"

    def run(*arguments: str, answer: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, toys.__file__, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, input=answer)

    assert run("add", url, str(folder), "-e", "toy").returncode == 0
    found = orjson.loads(run("dedup", url, "--json", "--html", str(tmp_path / "page.html")).stdout)
    assert [[group["keep"]["id"], *(one["id"] for one in group["others"])] for group in found["groups"]] == [
        ["pics/00.png", "pics/copies/00-again.png"]
    ]
    assert "pics/copies/00-again.png" in (tmp_path / "page.html").read_text()
    assert "removed" not in run("dedup", url, "--delete", answer="n\n").stderr
    assert "1 records removed" in run("dedup", url, "--delete", answer="y\n").stderr
    assert (folder / "copies" / "00-again.png").exists()
    with pixdex.open(url, encoder=toys.ToyEncoder()) as index:
        assert index.count() == 6
