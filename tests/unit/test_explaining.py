"""Explanations: regions of a crop answer where it was cut out, whatever happened to picture, record and store."""

from __future__ import annotations

import asyncio
import io
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import toys
from PIL import Image
from typer.testing import CliRunner

import pixdex
from pixdex import aio, cli, encoders
from pixdex.errors import FingerprintMismatch, NotFound, PixdexError, Unsupported
from pixdex.explaining import Explanation, in_words
from pixdex.index import ImageIndex
from pixdex.rerankers.maxsim import MaxSim
from pixdex.rerankers.port import Candidate, Query

WHOLE = toys.pixels(3, (96, 128))
"""4 x 4 blocks of 24 x 32 pixels."""
CROP = WHOLE[24:72, 64:128]
"""Rows 1 and 2, columns 2 and 3 of the blocks: the upper left corner at .5, .25, half as wide and half as high."""


class Placed(toys.ToyEncoder):
    """The toy, which says where its tokens lie: its cells, row by row."""

    def token_places(self, pictures: Any) -> tuple[np.ndarray, ...]:
        y, x = np.divmod(np.arange(16), 4)
        boxes = np.stack([x / 4, y / 4, np.full(16, 0.25), np.full(16, 0.25)], axis=1).astype(np.float32)
        return tuple(boxes for _ in pictures)


class Turned(Placed):
    """One whose boxes are transposed: what tests must not overlook."""

    def token_places(self, pictures: Any) -> tuple[np.ndarray, ...]:
        return tuple(boxes[:, [1, 0, 3, 2]] for boxes in super().token_places(pictures))


def index_of(folder: Path, encoder: Any = None, *, tokens: bool = True) -> ImageIndex:
    """An index of two pictures: ``<folder>/a.png``, which is WHOLE, and another."""
    folder.mkdir(exist_ok=True)
    (folder / "a.png").write_bytes(toys.encoded(WHOLE))
    (folder / "b.png").write_bytes(toys.encoded(toys.pixels(4, (96, 128))))
    index = pixdex.open("memory://", encoder=encoder or Placed(), tokens=tokens)
    index.add(folder)
    return index


@pytest.fixture
def index(tmp_path: Path) -> ImageIndex:
    return index_of(tmp_path / "in")


def astray(done: Explanation, cut: tuple[float, float, float, float], n: int) -> float:
    """How far, in sides of a cell, the strongest pairs lead from where their regions were cut out: the median."""
    off = []
    for pair in done.pairs(n):
        assert pair.query is not None
        assert pair.hit is not None
        for axis in (0, 1):
            middle = pair.query[axis] + pair.query[axis + 2] / 2
            found = pair.hit[axis] + pair.hit[axis + 2] / 2
            off.append(abs(cut[axis] + middle * cut[axis + 2] - found) / pair.hit[axis + 2])
    return float(np.median(np.array(off).reshape(-1, 2).max(axis=1)))


# --- places --------------------------------------------------------------------------------------------------------


def test_regions_of_a_crop_answer_where_it_was_cut_out(index: ImageIndex) -> None:
    done = index.explain(CROP, "in/a.png")
    assert astray(done, (0.5, 0.25, 0.5, 0.5), 16) < 0.5
    assert done.correspondences.shape == (16, 16)
    assert done.correspondences.dtype == np.float32
    assert done.notices == ()
    assert (done.id, done.reranker, done.matched_by) == ("in/a.png", "maxsim", "maxsim")


def test_transposed_boxes_would_be_noticed(tmp_path: Path) -> None:
    done = index_of(tmp_path / "in", Turned()).explain(CROP, "in/a.png")
    assert astray(done, (0.5, 0.25, 0.5, 0.5), 16) > 0.5


def photograph() -> np.ndarray:
    """One that ships inside scikit-image, 400 x 600: mini and what was trained for it know photographs, not blocks."""
    spec = find_spec("skimage")
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("scikit-image is not installed")
    return np.asarray(Image.open(Path(spec.submodule_search_locations[0]) / "data" / "coffee.png").convert("RGB"))


@pytest.mark.parametrize("rerank", ["maxsim", "transport"])
def test_mini_and_what_comes_with_it_find_the_place_of_a_crop(tmp_path: Path, rerank: str) -> None:
    pytest.importorskip("onnxruntime")
    whole = photograph()
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(toys.encoded(whole, "JPEG", quality=92))
    index = pixdex.open("memory://", tokens=True)
    index.add(folder)
    done = index.explain(whole[40:280, 210:510], "in/a.jpg", rerank=rerank)
    cut = (210 / 600, 40 / 400, 300 / 600, 240 / 400)
    assert astray(done, cut, 12) < 1.5
    assert astray(done, (cut[1], cut[0], cut[3], cut[2]), 12) > astray(done, cut, 12) + 0.5
    assert done.matched_by == rerank


@pytest.mark.parametrize("way", ["query", "hit"])
def test_a_picture_that_lies_on_its_side_is_explained_upright(tmp_path: Path, way: str) -> None:
    """EXIF orientation 6: the file's rows are the upright picture's columns."""
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    upright = CROP if way == "query" else WHOLE
    Image.fromarray(np.rot90(upright)).save(buffer, "PNG", exif=exif)
    index = index_of(tmp_path / "in")
    if way == "query":
        done = index.explain(buffer.getvalue(), "in/a.png")
        assert done.query.picture is not None
        assert done.query.picture.shape == CROP.shape
    else:
        (tmp_path / "in" / "turned.png").write_bytes(buffer.getvalue())
        index.add(tmp_path / "in")
        done = index.explain(CROP, "in/turned.png")
        assert done.hit.picture is not None
        assert done.hit.picture.shape == WHOLE.shape
    assert astray(done, (0.5, 0.25, 0.5, 0.5), 16) < 0.5


# --- what is asked -------------------------------------------------------------------------------------------------


def test_a_query_of_any_kind(index: ImageIndex, tmp_path: Path) -> None:
    path = tmp_path / "query.png"
    path.write_bytes(toys.encoded(CROP))
    (tmp_path / "in" / "crop.png").write_bytes(toys.encoded(CROP))
    index.add(tmp_path / "in")
    kinds = [path, str(path), path.read_bytes(), CROP, Image.fromarray(CROP), "in/crop.png"]
    done = [index.explain(query, "in/a.png") for query in kinds]
    for each in done:
        assert each.score == pytest.approx(done[0].score, abs=1e-6)
        assert each.first == pytest.approx(done[0].first, abs=1e-5)
        assert each.pairs(3) == done[0].pairs(3)
        assert each.query.picture is not None
    assert [each.query.label for each in done] == [str(path), str(path), *["the query"] * 3, "in/crop.png"]


def test_scores_are_those_of_the_search(index: ImageIndex) -> None:
    hit = index.search(CROP, k=1, rerank="maxsim")[0]
    done = index.explain(CROP, hit)
    assert hit.id == done.id == "in/a.png"
    assert done.score == pytest.approx(hit.score, abs=1e-6)
    assert done.first == pytest.approx(hit.trace["first"], abs=1e-5)


def test_the_strongest_come_first(index: ImageIndex) -> None:
    done = index.explain(CROP, "in/b.png")
    weights = [pair.weight for pair in done.pairs(99)]
    assert weights == sorted(weights, reverse=True)
    assert 0 < len(weights) <= 16
    assert min(weights) > 0
    row, column = done.pairs(1)[0].tokens
    assert done.correspondences[row, column] == done.correspondences.max() == weights[0]


def test_evidence_is_what_the_score_loses_without_a_token(index: ImageIndex) -> None:
    done = index.explain(CROP, "in/a.png")
    encoder = index.encoder
    asked, found = (
        encoder.encode([encoder.prepare(picture)], tokens=True).tokens[0]
        for picture in (CROP, WHOLE)  # type: ignore[index]
    )

    def score(query: np.ndarray, hit: np.ndarray) -> float:
        return float(MaxSim().rerank(Query(np.zeros(1, np.float32), query), [Candidate("", 0, hit)])[0])

    whole = score(asked, found)
    assert done.score == pytest.approx(whole, abs=1e-6)
    assert done.query.evidence[5] == pytest.approx(whole - score(np.delete(asked, 5, 0), found), abs=1e-6)
    assert done.hit.evidence[7] == pytest.approx(whole - score(asked, np.delete(found, 7, 0)), abs=1e-6)
    cut_out = done.hit.evidence.reshape(4, 4)[1:3, 2:]
    assert cut_out.sum() == pytest.approx(np.maximum(done.hit.evidence, 0).sum(), rel=0.01)  # nothing else is missed


def test_evidence_is_about_the_score_beneath_a_probability(index: ImageIndex) -> None:
    """Near 1 a probability does not tell one token from another."""

    class Sure(MaxSim):
        name = "sure"

        def rerank(self, query: Query, candidates: Any) -> np.ndarray:
            return (1 - 1e-9 * super().rerank(query, candidates)).astype(np.float32)

        def uncalibrated(self) -> MaxSim:
            return MaxSim()

    done, plain = (index.explain(CROP, "in/a.png", rerank=each) for each in (Sure(), MaxSim()))
    assert done.score == 1
    assert np.array_equal(done.hit.evidence, plain.hit.evidence)
    assert done.hit.evidence.max() > 0


# --- what is not there ---------------------------------------------------------------------------------------------


def test_a_picture_that_is_gone_is_explained_without_places(index: ImageIndex, tmp_path: Path) -> None:
    before = index.explain(CROP, "in/a.png")
    (tmp_path / "in" / "a.png").unlink()
    done = index.explain(CROP, "in/a.png")
    assert (done.hit.places, done.hit.picture) == (None, None)
    assert done.query.places is not None
    assert np.array_equal(done.correspondences, before.correspondences)
    assert done.score == before.score
    assert done.pairs(1)[0].hit is None
    assert done.pairs(1)[0].tokens == before.pairs(1)[0].tokens
    assert [notice for notice in done.notices if "in/a.png" in notice and "no such file" in notice]


def test_a_picture_that_is_another_by_now_is_not_taken_for_the_one_that_was_added(
    index: ImageIndex, tmp_path: Path
) -> None:
    shutil.copy(tmp_path / "in" / "b.png", tmp_path / "in" / "a.png")
    done = index.explain(CROP, "in/a.png")
    assert (done.hit.places, done.hit.picture) == (None, None)
    assert "another picture" in done.notices[0]


def test_tokens_that_were_not_kept_are_made_of_the_picture(tmp_path: Path) -> None:
    index = index_of(tmp_path / "in", tokens=False)
    assert astray(index.explain(CROP, "in/a.png"), (0.5, 0.25, 0.5, 0.5), 16) < 0.5
    (tmp_path / "in" / "a.png").unlink()
    with pytest.raises(Unsupported, match=r"'in/a.png' keeps no tokens, and its picture gives none: .*no such file"):
        index.explain(CROP, "in/a.png")


def test_places_belong_to_tokens_and_not_to_rows(tmp_path: Path) -> None:
    """Another runtime may choose other cells, or the same in another order: tokens are looked for among today's."""

    class Drifting(Placed):
        drifted = False

        def encode(self, prepared: Any, *, tokens: bool = False) -> Any:
            made = super().encode(prepared, tokens=tokens)
            if not self.drifted or made.tokens is None:
                return made
            return type(made)(made.vectors, tuple(matrix[::-1][3:] for matrix in made.tokens))

        def token_places(self, pictures: Any) -> tuple[np.ndarray, ...]:
            boxes = super().token_places(pictures)
            return tuple(each[::-1][3:] for each in boxes) if self.drifted else boxes

    encoder = Drifting()
    index = index_of(tmp_path / "in", encoder)
    before = index.explain("in/b.png", "in/a.png").hit.places
    encoder.drifted = True
    done = index.explain("in/b.png", "in/a.png")
    assert before is not None
    assert done.hit.places is not None
    lost = np.isnan(done.hit.places[:, 0])
    assert 0 < lost.sum() <= 3  # of the three that are not among today's, those that look like no other
    assert np.array_equal(done.hit.places[:13], before[:13])
    assert f"{lost.sum()} of 16 regions of 'in/a.png'" in " ".join(done.notices)


def test_an_encoder_that_does_not_say_where_leaves_the_correspondences(tmp_path: Path) -> None:
    done = index_of(tmp_path / "in", toys.ToyEncoder()).explain(CROP, "in/a.png")
    assert done.query.places is None
    assert done.hit.places is None
    assert done.hit.picture is not None
    assert done.correspondences.max() > 0.99
    assert len(done.notices) == 2
    assert "encoder 'toy' does not say" in done.notices[0]


def test_errors_name_the_thing_and_the_remedy(index: ImageIndex, tmp_path: Path) -> None:
    class Global:
        name, uses_tokens, uses_vectors = "global", False, True

        def rerank(self, query: Query, candidates: Any) -> np.ndarray:
            return np.zeros(len(candidates), np.float32)

    with pytest.raises(NotFound, match="'in/zzz' is neither a file nor an id"):
        index.explain(CROP, "in/zzz")
    with pytest.raises(NotFound, match="'nobody' is neither a file nor an id"):
        index.explain("nobody", "in/a.png")
    with pytest.raises(NotFound, match="does not exist"):
        index.explain(tmp_path / "gone.png", "in/a.png")
    with pytest.raises(Unsupported, match="a vector has no tokens"):
        index.explain(np.zeros(48, np.float32), "in/a.png")
    with pytest.raises(Unsupported, match="reranker 'global' does not say .*: explain with maxsim, cross, transport"):
        index.explain(CROP, "in/a.png", rerank=Global())
    with pytest.raises(FingerprintMismatch, match="no reranker 'cross' for these tokens of toy"):
        index.explain(CROP, "in/a.png", rerank="cross")
    bare = index_of(tmp_path / "other", toys.ToyEncoder(with_tokens=False), tokens=False)
    with pytest.raises(Unsupported, match="encoder 'toy' makes no tokens"):
        bare.explain(CROP, "other/a.png")


@pytest.mark.parametrize("hub", [0.0, 0.5])
def test_a_reranker_that_does_not_say_which_leaves_the_pairs_to_maxsim(index: ImageIndex, hub: float) -> None:
    """One that looks everywhere, or from everywhere at the same."""

    class Vague(MaxSim):
        name = "vague"

        def correspondences(self, query: Query, candidate: Candidate) -> np.ndarray:
            looks = np.full((16, 16), (1 - hub) / 16, np.float32)
            looks[:, 3] += hub
            return looks

    done = index.explain(CROP, "in/a.png", rerank=Vague())
    assert (done.reranker, done.matched_by) == ("vague", "maxsim")
    assert astray(done, (0.5, 0.25, 0.5, 0.5), 16) < 0.5
    assert "about the same ones by 'vague': the pairs are those of maxsim" in done.notices[0]


# --- correspondences of maxsim -------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_maxsim_shows_the_best_match_of_each_token(packed: bool) -> None:
    rng = np.random.default_rng(1)
    query, hit = rng.standard_normal((5, 16)), rng.standard_normal((7, 16))
    if packed:
        query, hit = (np.packbits(each > 0, axis=1) for each in (query, hit))
    question, answer = Query(np.zeros(1, np.float32), query), Candidate("a", 0.0, hit)
    looks = MaxSim().correspondences(question, answer)
    assert looks.shape == (5, 7)
    assert ((looks > 0).sum(axis=1) == 1).all()
    assert looks.sum(axis=1).mean() == pytest.approx(float(MaxSim().rerank(question, [answer])[0]), abs=1e-6)


# --- words, JSON, the command, the twin ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ((0.0, 0.0, 0.1, 0.1), "upper left"),
        ((0.9, 0.9, 0.1, 0.1), "lower right"),
        ((0.45, 0.45, 0.1, 0.1), "centre"),
        ((0.45, 0.0, 0.1, 0.1), "top"),
        ((0.45, 0.8, 0.1, 0.1), "bottom"),
        ((0.0, 0.45, 0.1, 0.1), "left"),
        (None, "somewhere"),
    ],
)
def test_places_in_words(box: Any, words: str) -> None:
    assert in_words(box) == words


def test_json_holds_it_all(index: ImageIndex) -> None:
    read = orjson.loads(orjson.dumps(index.explain(CROP, "in/a.png").to_json(3)))
    assert [len(read["pairs"]), len(read["query"]["places"]), len(read["hit"]["evidence"])] == [3, 16, 16]
    assert set(read["pairs"][0]) == {"query", "hit", "weight", "tokens"}
    assert read["hit"]["places"][5] == [0.25, 0.25, 0.25, 0.25]


def test_the_twin_awaits_the_same(tmp_path: Path) -> None:
    index_of(tmp_path / "in")

    async def run() -> Explanation:
        async with await aio.open("memory://", encoder=Placed(), tokens=True) as index:
            await index.add(tmp_path / "in")
            return await index.explain(CROP, "in/a.png")

    assert astray(asyncio.run(run()), (0.5, 0.25, 0.5, 0.5), 16) < 0.5


@pytest.fixture
def stored(tmp_path: Path) -> str:
    """The address of a collection that keeps tokens of classic."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.png").write_bytes(toys.encoded(WHOLE))
    with pixdex.open(url := f"pq://{tmp_path / 'i.pix'}", encoder=encoders.load("classic"), tokens=True) as index:
        index.add(folder)
    (tmp_path / "q.png").write_bytes(toys.encoded(CROP))
    return url


def test_the_command_prints_pairs_and_writes_a_page(stored: str, tmp_path: Path) -> None:
    words = ["explain", stored, str(tmp_path / "q.png"), "in/a.png", "-n", "5", "--html", str(tmp_path / "page.html")]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("in/a.png: maxsim +0.")
    assert lines[1].split() == ["weight", "in", "the", "query", "in", "the", "hit"]
    assert len(lines) == 7
    assert "%" in lines[2]
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    told = CliRunner().invoke(cli.app, [*words[:4], "--json", "-n", "2"])
    assert len(orjson.loads(told.stdout)["pairs"]) == 2


def test_the_command_explains_errors(stored: str, tmp_path: Path) -> None:
    for words, said in (
        (["in/zzz"], "neither a file nor an id"),
        (["in/a.png", "--rerank", "cross"], "rerank with maxsim"),
        (["in/a.png", "--html", str(tmp_path / "no" / "page.html")], "cannot be written"),
    ):
        result = CliRunner().invoke(cli.app, ["explain", stored, str(tmp_path / "q.png"), *words])
        assert isinstance(result.exception, PixdexError), result.output
        assert said in str(result.exception)
