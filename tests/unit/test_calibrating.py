"""A reranker calibrated to a collection: what is fitted and saved, what a search with it gives; ``pixdex calibrate``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import toys
from test_cli_eval import Elements
from test_evaluating import CLASSES, filled, shelf
from typer.testing import CliRunner, Result

import pixdex
from pixdex import _plots, calibrating, cli, rerankers
from pixdex._calibrating import _pictures, _readable
from pixdex._originals import roots_of
from pixdex.calibrating import calibrate
from pixdex.encoders.edits import EDITS, edited
from pixdex.errors import AlreadyExists, ConfigError, FingerprintMismatch, PixdexError, Unsupported
from pixdex.fields import CONTENT
from pixdex.index import ImageIndex
from pixdex.rerankers.calibrated import Calibrated, Record
from pixdex.rerankers.calibration import Calibration
from pixdex.rerankers.choosing import Choice
from pixdex.rerankers.port import Candidate, Query, Reranker

QUERY = "class1/3.png"
LENGTH = 12


class Knowing:
    """Says by its id what is of the first hit's class, or with ``sense`` -1 what is not; a count of calls."""

    name = "knowing"
    uses_tokens = False

    def __init__(self, sense: float = 1.0) -> None:
        self.sense, self.calls = sense, 0

    def rerank(self, query: Query, candidates: Sequence[Candidate]) -> np.ndarray:
        self.calls += 1
        ids = np.array([each.id.split("/")[0] for each in candidates])
        noise = np.random.default_rng(self.calls).standard_normal(len(ids))
        return (self.sense * 2 * (ids == ids[0]) + noise).astype(np.float32)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shelf(tmp_path_factory.mktemp("shelf"))


@pytest.fixture
def index(root: Path) -> Iterator[ImageIndex]:
    """Twenty pictures of four classes, with tokens."""
    with pixdex.open("memory://", encoder=toys.ToyEncoder(), fields={"kind": "text"}, tokens=True) as made:
        yield filled(made, root)


@pytest.mark.parametrize("rerank", ["maxsim", "k-reciprocal"])
def test_every_record_asks_and_is_judged(index: ImageIndex, rerank: str) -> None:
    done = calibrate(index, rerank, label="kind", candidates=LENGTH)
    assert (done.queries, done.held.queries) == (20, 20)
    assert len(done.held.matches) == 20 * LENGTH
    assert 0 <= done.held.ece <= 1
    assert set(done.over) <= {Choice.RERANKER, Choice.BOTH}
    assert done.held.matches.sum() <= 20 * 4
    assert done.held.recall[0] > 0.9  # nobody finds itself, which would be wrong
    tokens = index.collection.spec.tokens
    assert tokens is not None
    assert done.reranker.record.tokens == (tokens.fingerprint if rerank == "maxsim" else None)


def test_where_the_first_stage_is_not_beaten_its_order_stays(index: ImageIndex, tmp_path: Path) -> None:
    done = calibrate(index, Knowing(sense=-1.0), label="kind", candidates=LENGTH)
    assert done.choice is Choice.FIRST
    assert done.held.over.low == done.held.over.high == 0
    useless = Knowing()
    reranker = Calibrated(useless, done.reranker.record)
    assert not reranker.uses_tokens
    hits = index.search(QUERY, k=LENGTH, rerank=reranker)
    plain = index.search(QUERY, k=LENGTH)
    assert [hit.id for hit in hits] == [hit.id for hit in plain]
    assert useless.calls == 0
    assert all(0 <= hit.score <= 1 for hit in hits)
    assert [hit.trace["first"] for hit in hits] == [hit.score for hit in plain]


def test_a_search_gives_probabilities_and_a_threshold_is_one(index: ImageIndex) -> None:
    record = calibrate(index, "maxsim", label="kind", candidates=LENGTH).reranker.record
    blend = Record(**{**fields(record), "calibration": Calibration(4.0, 3.0, -5.0)})
    reranker = Calibrated(rerankers.load("maxsim"), blend)
    hits = index.search(QUERY, k=LENGTH, rerank=reranker)
    plain = {hit.id: hit for hit in index.search(QUERY, k=20, rerank="maxsim")}
    for hit in hits:
        own = plain[hit.id]
        said = 1 / (1 + np.exp(-(4 * own.trace["first"] + 3 * own.score - 5)))
        assert hit.score == hit.trace["maxsim"] == pytest.approx(said, abs=1e-5)
    scores = [hit.score for hit in hits]
    assert scores == sorted(scores, reverse=True)
    kept = index.search(QUERY, k=LENGTH, rerank=reranker, threshold=scores[3])
    assert [hit.id for hit in kept] == [hit.id for hit in hits[:4]]


def fields(record: Record) -> dict[str, object]:
    return {name: getattr(record, name) for name in Record.__slots__}


def test_what_was_saved_gives_the_same_again(index: ImageIndex, tmp_path: Path) -> None:
    folder = tmp_path / "fitted"
    done = calibrate(index, "maxsim", label="kind", candidates=LENGTH, output=folder)
    document = json.loads((folder / "calibration.json").read_bytes())
    assert (document["version"], document["inner"], document["metric"]) == (1, "maxsim", "cosine")
    assert document["fit"]["held"]["ece"] == pytest.approx(done.held.ece)
    assert document["fit"]["choice"] == done.choice.value
    loaded = rerankers.load(f"calibrated:{folder}")
    assert isinstance(loaded, Reranker)
    assert loaded.record.calibration == done.calibration
    by_name = index.search(QUERY, rerank=f"calibrated:{folder}")
    assert [(hit.id, hit.score) for hit in by_name] == [
        (hit.id, hit.score) for hit in index.search(QUERY, rerank=done.reranker)
    ]
    with pytest.raises(AlreadyExists, match="choose another folder"):
        calibrate(index, "maxsim", label="kind", output=folder)


def test_another_encoder_is_refused_with_the_remedy(index: ImageIndex, root: Path) -> None:
    record = calibrate(index, "maxsim", label="kind", candidates=LENGTH).reranker.record
    for calibration in (Calibration(1.0, 1.0, 0.0), Calibration(1.0, 0.0, 0.0)):
        reranker = Calibrated(rerankers.load("maxsim"), Record(**{**fields(record), "calibration": calibration}))
        with pixdex.open("memory://", encoder=toys.ToyEncoder("other"), tokens=True) as other:
            other.add(root / "class1")
            with pytest.raises(FingerprintMismatch, match=r"of toy; these are of other .* pixdex calibrate"):
                other.search(str(root / "class1" / "3.png"), rerank=reranker)


def test_copies_ask_where_nobody_says_what_matches(index: ImageIndex, root: Path, tmp_path: Path) -> None:
    done = calibrate(index, "maxsim", copies=True, candidates=LENGTH, limit=20)
    assert done.queries == 20
    assert done.held.matches.sum() <= 20
    assert done.held.first.mean > 0.5
    with pixdex.open("memory://", encoder=toys.ToyEncoder(), tokens=True) as arrays:
        arrays.add([toys.pixels(seed) for seed in range(4)])
        with pytest.raises(ConfigError, match="no record whose picture lies where .* calibrate by a label"):
            calibrate(arrays, "maxsim", copies=True)


def test_every_edit_leaves_a_picture(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = set()
    for size in ((24, 32), (1, 1), (9, 300)):
        picture = toys.pixels(1, size)
        for _ in range(60):
            name, made = edited(picture, rng)
            names.update(name.split("+"))
            assert made.dtype == np.uint8
            assert made.ndim == 3
            assert made.shape[2] == 3
            assert min(made.shape) >= 1
    assert names == set(EDITS)


def test_errors_name_the_thing_and_the_remedy(index: ImageIndex, root: Path, tmp_path: Path) -> None:
    for options in ({}, {"label": "kind", "copies": True}):
        with pytest.raises(ConfigError, match=r"label=FIELD \(--label\), or by copies"):
            calibrate(index, "maxsim", **options)
    with pytest.raises(ConfigError, match="did you mean 'kind'"):
        calibrate(index, "maxsim", label="knd")
    with pytest.raises(ConfigError, match="no two records .* have the same path"):
        calibrate(index, "maxsim", label="path")
    with pytest.raises(ConfigError, match="20 queries of three labels at least"):
        calibrate(index, "maxsim", label="kind", limit=12)
    with pytest.raises(ConfigError, match="by reference"):
        calibrate(index, Knowing(), label="kind", output=tmp_path / "x")
    with pytest.raises(Unsupported, match="copies are encoded"):
        calibrate(index.collection, "maxsim", copies=True)
    with pixdex.open("memory://", encoder=toys.ToyEncoder(with_tokens=False), fields={"kind": "text"}) as bare:
        filled(bare, root)
        with pytest.raises(ConfigError, match="keeps no tokens, which 'maxsim' needs: make a new one with tokens=True"):
            calibrate(bare, "maxsim", label="kind")
    with pytest.raises(ConfigError, match="not a calibration"):
        rerankers.load(f"calibrated:{tmp_path}")
    with pytest.raises(ConfigError, match="calibrated:FOLDER"):
        rerankers.load("calibrated")


# --- the command --------------------------------------------------------------------------------------


def test_only_the_very_pictures_ask(index: ImageIndex, root: Path) -> None:
    """One that was overwritten is no answer to what it shows now; one without a path is found by its id."""
    files = sorted(root.rglob("*.png"))
    roots = roots_of(index.collection)
    places, _ = _pictures(index.collection)
    of = {Path(str(values["path"])): record for record, values in places.items()}
    record = of[files[0]]
    assert _readable(record, places[record], roots, index.encoder) is not None
    assert _readable(record, {CONTENT: places[record][CONTENT]}, roots, index.encoder) is not None
    before = files[0].read_bytes()
    try:
        files[0].write_bytes(files[1].read_bytes())
        assert _readable(record, places[record], roots, index.encoder) is None
    finally:
        files[0].write_bytes(before)


@pytest.fixture
def run(toy_plugin: None) -> Callable[..., Result]:
    return lambda *words: CliRunner().invoke(cli.app, [str(word) for word in words])


@pytest.fixture
def url(run: Callable[..., Result], root: Path, tmp_path: Path) -> str:
    address = f"pq://{tmp_path / 'photos.pix'}"
    for label in range(CLASSES):
        words = ("-e", "toy", "-f", f"kind=class{label}", "--tokens")
        assert not run("add", address, root / f"class{label}", *words).exit_code
    return address


def test_the_command_writes_a_folder_a_page_and_json(run: Callable[..., Result], url: str, tmp_path: Path) -> None:
    folder, page = tmp_path / "fitted", tmp_path / "page.html"
    words = ("--rerank", "maxsim", "--label", "kind", "--candidates", LENGTH)
    result = run("calibrate", url, *words, "--output", folder, "--html", page, "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert (facts["reranker"], facts["queries"], facts["output"]) == ("maxsim", 20, str(folder))
    assert set(facts["held"]["map"]) == {"first stage", "calibrated", "difference"}
    assert f"--rerank calibrated:{folder}" in result.stderr
    made = Elements(page.read_text(encoding="utf-8"))
    assert made.open == []
    assert len(made.all("svg")) == 2
    assert f"ECE {facts['held']['ece']:.3f}" in " ".join(made.words)
    table = run("calibrate", url, *words)
    assert "what orders: " in table.stdout
    assert "P(match): ECE" in table.stdout
    assert "recall@1" in table.stdout


def test_the_commands_errors_and_ctrl_c(
    run: Callable[..., Result], url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for words, message in (
        (("-r", "maxsim"), "label=FIELD"),
        (("-r", "maxsim", "-l", "kind", "-o", tmp_path), "choose another folder"),
        (("-r", "maxsm", "-l", "kind"), "did you mean 'maxsim'"),
    ):
        result = run("calibrate", url, *words)
        assert isinstance(result.exception, PixdexError), result.output
        assert message in str(result.exception)

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(calibrating, "calibrate", stopped)
    result = run("calibrate", url, "-r", "maxsim", "-l", "kind")
    assert (result.exit_code, result.stderr) == (130, "stopped; nothing was written\n")


def test_points_lie_where_they_belong() -> None:
    drawn = Elements(_plots.reliability([("one", [(0.0, 0.0, 4), (1.0, 1.0, 1), (0.5, 0.25, 1)])], title="t"))
    (ideal,) = (line for line in drawn.all("line") if line["class"] == "ideal")
    low, high, middle = drawn.all("circle")
    assert (low["cx"], low["cy"]) == (f"{float(ideal['x1']):.1f}", f"{float(ideal['y1']):.1f}")
    assert (high["cx"], high["cy"]) == (f"{float(ideal['x2']):.1f}", f"{float(ideal['y2']):.1f}")
    assert float(middle["cx"]) == pytest.approx((float(low["cx"]) + float(high["cx"])) / 2, abs=0.1)
    assert float(middle["cy"]) == pytest.approx(0.75 * float(low["cy"]) + 0.25 * float(high["cy"]), abs=0.1)
    assert float(low["r"]) > float(high["r"])
