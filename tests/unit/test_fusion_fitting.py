"""Fusion fitted on collections: what asks, what is right, what is printed."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import toys
from test_captions import ToyWords
from typer.testing import CliRunner

import pixdex
from pixdex import cli, encoders, fusion_fitting
from pixdex.errors import ConfigError, Unsupported
from pixdex.fusion import Decay
from pixdex.fusion_fitting import Sought, fit_fusion
from pixdex.types import Batch

KINDS = ("car", "boat", "dog", "tree")
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.fixture
def words(monkeypatch):
    toy, load = ToyWords(), encoders.load_text
    monkeypatch.setattr(encoders, "load_text", lambda name: toy if name == "words:" else load(name))
    return toy


def filled(index, *, spread=4.0, named=0.6, count=40):
    """Records of four kinds: pictures that tell them a little, captions that name ``named`` of them, places and times."""
    rng = np.random.default_rng(3)
    centres = rng.standard_normal((4, 48))
    index.add(toys.pixels(0), ids=["first"], fields={"kind": "none", "caption": "x", "says": "x"}, text="caption")
    index.declare({"spot": "geo", "made": "time"})
    kinds = np.arange(count) % 4
    vectors = (centres[kinds] + spread * rng.standard_normal((count, 48))).astype(np.float32)
    payloads = []
    for row, kind in enumerate(kinds.tolist()):
        caption = f"the {KINDS[kind]} number {row}" if rng.random() < named else None
        values = {"kind": KINDS[kind], "caption": caption, "says": KINDS[kind]}
        values |= {
            "spot": {"lat": 10.0 * kind + rng.normal() / 9, "lon": 5.0},
            "made": NOON + timedelta(days=int(kind)),
        }
        payloads.append(values)
    batch = Batch(tuple(f"r{row:02}" for row in range(count)), {"image": vectors}, tuple(payloads))
    index.collection.upsert(index._captions.writer(index.collection).written(batch))
    index.delete("first")
    return index


def test_weights_are_fitted_on_what_a_collection_holds(toy, words):
    with pixdex.open("memory://", encoder=toy, text_encoder=words) as index:
        filled(index)
        fitted = fit_fusion(index, label="kind", query_text="says", progress=False)
        found = {name: each.mean for name, each in fitted.intervals.items()}
        assert fitted.labels.count("car") == 10
        assert fitted.chosen.weights["text"] > 1, "captions say more than these pictures"
        assert found["fitted"] > max(found["image"], found["text"])
        assert found["text"] == pytest.approx(0.6, abs=0.2), "as many as have a caption"
        hits = index.search("r00", text="car", k=5, exclude_self=True, weights=fitted.chosen.weights)
        assert sum(hit.payload["kind"] == "car" for hit in hits) >= 4


def test_place_and_time_are_evidence_too(toy, words):
    with pixdex.open("memory://", encoder=toy, text_encoder=words) as index:
        filled(index)
        sought = Sought(names=("image", "near"), near=Decay(scale=100), place="spot")
        fitted = fit_fusion(index, label="kind", evidence=sought, progress=False)
        assert fitted.chosen.weights["near"] > 0
        assert fitted.gain.low > 0
        sought = Sought(names=("image", "at"), at=Decay(scale=43_200), time="made")
        assert fit_fusion(index, label="kind", evidence=sought, progress=False).chosen.weights["at"] > 0
        with pytest.raises(ConfigError, match="at: collection .* has no time field 'gone'"):
            fit_fusion(index, label="kind", evidence=Sought(names=("image", "at"), time="gone"), progress=False)


def test_records_ask_with_their_own_captions_and_do_not_find_themselves(toy, words):
    with pixdex.open("memory://", encoder=toy, text_encoder=words) as index:
        filled(index, named=1.0)
        words.asked.clear()
        fitted = fit_fusion(index, label="kind", limit=12, progress=False)
        assert words.asked == [], "vectors of captions are there"
        assert len(fitted.labels) == 12
        assert fitted.intervals["text"].mean > 0.9


def test_pictures_ask_with_the_text_of_their_table(toy, words, tmp_path):
    with pixdex.open("memory://", encoder=toy, text_encoder=words) as index:
        filled(index)
        lines = []
        for row in range(8):
            toys.write(tmp_path / f"{row}.png", 100 + row)
            lines.append(json.dumps({"path": f"{row}.png", "kind": KINDS[row % 4], "says": KINDS[row % 4]}))
        (tmp_path / "q.jsonl").write_text("\n".join(lines))
        fitted = fit_fusion(index, label="kind", queries=tmp_path / "q.jsonl", query_text="says", progress=False)
        assert len(fitted.labels) == 8
        assert fitted.intervals["text"].mean > fitted.intervals["image"].mean
        with pytest.raises(ConfigError, match="no query has a text under 'caption'"):
            fit_fusion(index, label="kind", queries=tmp_path / "q.jsonl", progress=False)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("image",), "two kinds"),
        (("near", "at"), "two kinds"),
        (("image", "smell"), "'smell'"),
        (("image",) * 2, "once"),
    ],
)
def test_evidence_that_there_is_not(names, says):
    with pytest.raises(ConfigError, match=says):
        Sought(names=names)


@pytest.mark.parametrize("methods", [["sum"], []])
def test_methods_are_known_before_anything_is_searched(methods):
    with pytest.raises(ConfigError, match="rrf, z, dbsf"):
        fusion_fitting.fit_fusion("memory://#nothing-there", label="kind", methods=methods)


def test_texts_need_captions_or_an_encoder_of_both(toy):
    with pixdex.open("memory://", encoder=toy) as index:
        index.add([toys.pixels(n) for n in range(4)], ids=list("abcd"), fields={"kind": "x", "says": "y"})
        with pytest.raises(Unsupported, match="knows pictures only, and collection .* has no captions"):
            fit_fusion(index, label="kind", query_text="says", progress=False)
        with pytest.raises(ConfigError, match="--query-text"):
            fit_fusion(index, label="kind", progress=False)


def test_the_command_prints_options_that_search_takes(words, toy_plugin, tmp_path):
    url = f"pq://{tmp_path / 's.pix'}"
    with pixdex.open(url, encoder="toy", text_encoder=words) as index:
        filled(index)
    run = CliRunner().invoke
    asked = ["eval", url, "--label", "kind", "--fit-weights", "image,text", "--query-text", "says"]
    done = run(cli.app, asked)
    assert done.exit_code == 0, done.output
    assert "fitted on other labels (cross-validation)" in done.stdout
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith(f"pixdex search {url} ... --fusion ")
    options = last.partition(" ... ")[2].split()
    found = run(cli.app, ["search", url, "r00", "--text", "car", *options, "--json"])
    assert found.exit_code == 0, found.output
    said = json.loads(run(cli.app, [*asked, "--json"]).stdout)
    assert said["options"] == [f"{a} {b}" for a, b in zip(options[::2], options[1::2], strict=True)]
    assert said["map"]["fitted"]["mean"] > said["map"]["image"]["mean"]
    assert run(cli.app, [*asked, "--exact"]).exit_code == 2
    assert run(cli.app, ["eval", url, "-l", "kind", "--fit-weights", "image,near:x"]).exit_code == 2


def test_options_say_how_far_place_and_time_reach():
    from pixdex._cli_fusion import as_options, sought

    wanted = sought("image,text,near:25,at:90")
    chosen = fusion_fitting.Choice(method="z", weights={"image": 1.0, "text": 0.5, "near": 2.0, "at": 1.0})
    assert as_options(chosen, wanted) == [
        "--fusion z", "--weight text=0.5", "--weight near=2", "--near LAT,LON,25", "--at TIME,90",
    ]  # fmt: skip
    alone = fusion_fitting.Choice(method="z", weights={"image": 1.0})
    assert as_options(alone, wanted) == []
