"""``pixdex train reranker`` and ``train_reranker``: from pictures of one's own to a reranker that search takes."""

from __future__ import annotations

import csv
import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

import pixdex
from pixdex import encoders, rerankers
from pixdex.cli import app
from pixdex.errors import AlreadyExists, ConfigError, FingerprintMismatch, MissingDependency, Unsupported
from pixdex.rerankers.port import Candidate, Query
from pixdex.training import RerankerRecipe, _loop, pairfolder, pairing, tokenviews, train_reranker
from pixdex.training._loop import Pace
from pixdex.training.reranking import Mining

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("transformers")

FAST = Pace(steps=2, rounds=1, device="cpu")
LIGHT = RerankerRecipe(kind="transport", views=2, mining=Mining(queries=4, negatives=3))


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Threads only wait for each other at such sizes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six class folders of four pictures, one of which is damaged; a table of them beside."""
    root, rng = tmp_path_factory.mktemp("own") / "things", np.random.default_rng(0)
    for number in range(6):
        pattern = rng.integers(0, 256, (4, 4, 3))
        (root / f"class{number}").mkdir(parents=True)
        for place in range(4):
            pixels = np.kron(pattern, np.ones((12, 12, 1))) + rng.normal(0, 40, (48, 48, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / f"class{number}" / f"{place}.png")
    (root / "class5" / "3.png").write_bytes(b"no picture at all")
    with (root.parent / "list.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "kind", "split"])
        for path in sorted(root.rglob("*.png")):
            rows.writerow([path.relative_to(root.parent), path.parent.name, "test" if path.stem == "0" else "train"])
    return root


def command(*words: object) -> Result:
    few = ("--steps", 2, "--queries", 4, "--negatives", 3, "--device", "cpu", "--kind", "transport")
    return CliRunner().invoke(app, ["train", "reranker", *map(str, (*words, *few))])


def test_classes_to_a_reranker_that_search_takes(pictures: Path, model: str, tmp_path: Path) -> None:
    """The command: what it says, what lies in the folder, and whom it serves."""
    target = tmp_path / "mine"
    done = command(pictures, "--output", target, "--encoder", model)
    assert done.exit_code == 0, done.output
    assert "unusable" in done.stderr
    assert "class5/3.png" in done.stderr
    assert "learned from classes: 15 of 23 pictures in 4 of 6 classes, 2 views of each" in done.stdout
    assert "flatters" in done.stdout  # two classes are too few to choose and to tell
    for name in ("first stage", "maxsim", "transport"):
        assert any(line.startswith(name) and "mAP" in line for line in done.stdout.splitlines())
    assert "than the first stage" in done.stdout
    assert {file.name for file in target.iterdir()} >= {
        "reranker.json", "report.json", "scores.onnx", "looks.onnx", "model.safetensors"
    }  # fmt: skip
    assert not list(tmp_path.glob("*.partial"))
    with pixdex.open("memory://own", encoder=model, tokens=True) as index:
        index.add(pictures)
        hits = index.search(pictures / "class0" / "0.png", k=3, rerank=f"transport:{target}")
        assert len(hits) == 3
    other = encoders.load(f"{model}?tokens=7")
    with pytest.raises(FingerprintMismatch, match="trained for tokens of"):
        rerankers.load(f"transport:{target}").check(other.token_spec)
    with pixdex.open("memory://others", encoder="mini", tokens=True) as index:
        index.add(pictures / "class0")
        with pytest.raises(FingerprintMismatch, match="trained for tokens of"):
            index.search(pictures / "class0" / "0.png", rerank=f"transport:{target}")
    # Never over what is there.
    done = command(pictures, "--output", target, "--encoder", model)
    assert done.exit_code == 1
    assert "there already" in str(done.exception)


def test_a_table_and_json(pictures: Path, model: str, tmp_path: Path) -> None:
    """Chosen rows, a column of another name, its own projection, and without classes."""
    table = pictures.parent / "list.csv"
    with_kinds = ("--label", "kind", "--where", 'split == "train"', "--project", 8, "--views", 1, "--json")
    done = command(table, "-o", tmp_path / "kinds", "-e", model, *with_kinds)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["learned from"].startswith("learned from classes: 11 of 17 pictures")
    assert report["tokens"] == {"dim": 8, "count": 16, "dtype": "int8"}
    assert report["better"] is (report["gain"]["low"] > 0)
    assert report["reference"] == f"transport:{tmp_path / 'kinds'}"
    projected = encoders.load(f"{model}?token_projection={tmp_path / 'kinds' / 'token_projection.safetensors'}")
    made = rerankers.load(report["reference"])
    made.check(projected.token_spec)
    assert made.name == "transport-classes"
    done = command(table, "-o", tmp_path / "plain", "-e", model, "--views", 2)
    assert done.exit_code == 0, done.output  # no column "label"
    assert "learned from copies: 16 of 23 pictures" in done.stdout


def test_a_collection_by_what_it_keeps(pictures: Path, model: str, tmp_path: Path, monkeypatch) -> None:
    """Its tokens and vectors serve as they are; for edits its pictures are opened by their paths."""
    url = f"pq://{tmp_path / 'own.pix'}"
    signs = f"{model}?token_dtype=bits"
    with pixdex.open(url, encoder=signs, tokens=True, fields={"kind": "text"}) as index:
        index.add(pictures.parent / "list.csv")
    with monkeypatch.context() as patch:
        patch.setattr(pairing, "hold", None)
        made = train_reranker(url, tmp_path / "stored", label="kind", recipe=LIGHT_STORED, pace=FAST)
    assert "15 of 23 pictures in 4 of 6 classes; the other" in made.report["learned from"]
    assert made.report["tokens"]["dtype"] == "bits"
    with pixdex.open(url) as index:
        assert index.search(pictures / "class0" / "0.png", k=3, rerank=made.reference)
    made = train_reranker(url, tmp_path / "opened", copies=True, recipe=LIGHT, pace=FAST)
    assert "16 of 23 pictures, 2 views of each" in made.report["learned from"]
    with pytest.raises(ConfigError, match="no field 'knid' of classes"):
        train_reranker(url, tmp_path / "none", label="knid")


LIGHT_STORED = RerankerRecipe(kind="transport", mining=Mining(queries=4, negatives=3))


def test_a_teacher_of_full_tokens(pictures: Path, model: str, tmp_path: Path) -> None:
    """Is trained first, on the descriptors as they are, and stands in the report."""
    recipe = RerankerRecipe(kind="cross", form="symmetric", teacher="full", views=2, project=8, mining=LIGHT.mining)
    made = train_reranker(pictures, tmp_path / "taught", encoder=model, copies=True, recipe=recipe, pace=FAST)
    assert list(made.report["figures"]) == ["first stage", "maxsim", "teacher", "cross"]
    cross = rerankers.load(made.reference)
    one, other = np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)
    scores = [
        cross.rerank(Query(np.zeros(1, np.float32), a), [Candidate("x", 0.3, b)])
        for a, b in ((one, other), (other, one))
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_ctrl_c_and_a_full_disk_lose_nothing(pictures: Path, model: str, tmp_path: Path, monkeypatch) -> None:
    """The same call goes on where it was, and makes no view again."""
    target = tmp_path / "mine"
    call = {"encoder": model, "copies": True, "recipe": LIGHT}
    pace = Pace(steps=6, rounds=3, device="cpu", keep_seconds=0.001)
    whole = train_reranker(pictures, tmp_path / "whole", **call, pace=pace)
    steps, writing = [], _loop.saved

    def follow(facts):
        steps.append(facts["step"])
        if facts["step"] == 2 and len(steps) < 3:
            raise KeyboardInterrupt

    def full(path, values):
        writing(path, values)
        if torch.load(path, weights_only=True)["state"]["step"] == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(KeyboardInterrupt):
        train_reranker(pictures, target, **call, pace=pace, follow=follow)
    assert not target.exists()
    assert list((tmp_path / "mine.partial" / "views").glob("*.pt"))
    with monkeypatch.context() as patch:
        patch.setattr(tokenviews, "bank_of", None)
        patch.setattr(_loop, "saved", full)
        with pytest.raises(ConfigError, match="No space left on device. Make room: the same call goes on"):
            train_reranker(pictures, target, **call, pace=pace)
    with monkeypatch.context() as patch:
        patch.setattr(tokenviews, "bank_of", None)
        made = train_reranker(pictures, target, **call, pace=pace)
    assert made.report["steps"] == 6
    assert made.report["figures"] == whole.report["figures"]
    assert (target / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"label": "kind"}, "its folders are the classes"),
        ({"label": "kind", "copies": True}, "contradict each other"),
        ({"encoder": None}, "say whose tokens"),
        ({"recipe": RerankerRecipe(views=1), "copies": True}, "two views"),
        ({"source": "few", "copies": True}, "4 pictures are too few"),
        ({"source": "few"}, "one class only.*--copies"),
        ({"source": "three"}, "four with two pictures are needed, not 3"),
        ({"source": "nowhere"}, "does not exist"),
        ({"start": "nowhere"}, "is not a reranker"),
    ],
)
def test_what_cannot_be_learned_from_is_named(
    pictures: Path, model: str, tmp_path: Path, given: dict, named: str, monkeypatch
) -> None:
    """Before a picture is decoded, and nothing is left behind."""
    monkeypatch.setattr(pairing, "hold", None)
    for name, classes in (("few", 1), ("three", 3)):
        for number in range(classes):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / str(number)).symlink_to(pictures / f"class{number}")
            folder = tmp_path / name / str(number)
            folder.unlink()
            folder.mkdir()
            for file in (pictures / f"class{number}").iterdir():
                (folder / file.name).write_bytes(file.read_bytes())
    source = tmp_path / given.pop("source") if "source" in given else pictures
    with pytest.raises(ConfigError, match=named):
        train_reranker(source, tmp_path / "out", **{"encoder": model, "pace": FAST, **given})
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()


def test_an_encoder_without_tokens_and_a_folder_in_use(pictures: Path, model: str, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="makes no tokens"):
        train_reranker(pictures, tmp_path / "out", encoder=f"{model}?tokens=0")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").write_text("mine")
    with pytest.raises(AlreadyExists):
        train_reranker(pictures, tmp_path / "used", encoder=model)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"kind": "maxsim"}, "kind='maxsim'"),
        ({"form": "both"}, "form='both'"),
        ({"kind": "transport", "form": "symmetric"}, "one form only"),
        ({"held": 1.0}, "held=1.0"),
        ({"views": 0}, "views=0"),
        ({"rate": 0.0}, "rate=0.0"),
    ],
)
def test_options_without_a_meaning(values: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        RerankerRecipe(**values)


def test_what_the_export_lacks_shows_before_training(pictures: Path, model: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(pairfolder, "find_spec", lambda name: None if name == "onnx" else object())
    with pytest.raises(MissingDependency, match="onnx"):
        train_reranker(pictures, tmp_path / "out", encoder=model)


def test_a_calibration_is_what_search_orders_by(pictures: Path, model: str, tmp_path: Path, monkeypatch) -> None:
    """So it is what the verdict is of: here one that leaves the first stage's order as it is."""
    asked = []

    def fitting(folder: Path, lists, *, seed: int):
        asked.append(len(lists))
        file = folder / "reranker.json"
        keeps = {"weight_first": 1.0, "weight_rerank": 0.0, "bias": 0.0, "weight_last": 0.0, "depth": 100}
        file.write_text(json.dumps({**json.loads(file.read_text()), "calibration": keeps}))
        return {"queries": len(lists), "ece": 0.125}

    monkeypatch.setattr(pairing, "calibrate_folder", fitting)
    made = train_reranker(pictures, tmp_path / "mine", encoder=model, copies=True, recipe=LIGHT, pace=FAST)
    assert made.report["figures"]["calibrated"] == made.report["figures"]["first stage"]
    assert asked == [3]
    assert not made.better
    assert made.summary()[-2] == (
        "transport is no better than the first stage: mAP +0.000, 95 % +0.000 to +0.000; search without it"
    )
    assert made.summary()[-1] == "scores are P(match), calibrated by 3 queries: ECE 0.125"
    assert rerankers.load(made.reference).calibration.weight_rerank == 0
