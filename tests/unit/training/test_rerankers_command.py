"""``python -m pixdex.training.rerankers`` in miniature: what it learns from, what it writes, and how it goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pixdex import encoders, rerankers
from pixdex.encoders import mini
from pixdex.rerankers.port import Candidate, Query
from pixdex.training import pairing, tokenviews
from pixdex.training import rerankers as command

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

SETS = {"caltech101": "split", "caltech101_more": "split", "grocery_store": "zero_shot_split"}
FEW = ["--views", "3", "--seconds", "0.4", "--queries", "4", "--device", "cpu"]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Threads only wait for each other at such sizes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """In each set four classes of two pictures, and one of the tests; of one picture a copy was made. 23 are left."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name, column in SETS.items():
        lines = [f"path,label,{column}"]
        for place in range(10):
            lines.append(f"images/{place}.png,class {place // 2},{'test' if place > 7 else 'train'}")
            (root / name / "images").mkdir(parents=True, exist_ok=True)
            pixels = np.kron(rng.integers(0, 256, (6, 6, 3)), np.ones((16, 16, 1))).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"images/{place}.png")
        (root / name / "labels.csv").write_text("\n".join(lines))
    for name, source in (("copies", "grocery_store/images/1.png"), ("smoke", "")):
        (root / name).mkdir()
        (root / name / "labels.csv").write_text(f"path,source\nimages/a.jpg,{source}\n")
    return root


@pytest.fixture(scope="module")
def bank(tmp_path_factory) -> Path:
    """Views of the pictures by ``mini``, as the first run leaves them for the others."""
    return tmp_path_factory.mktemp("bank")


def train(pictures: Path, output: Path, *more: object, encoder: object = "mini", kind: str = "transport") -> int:
    line = ["--pictures", pictures, "--encoder", encoder, "--kind", kind, "--output", output, *FEW, *more]
    return command.main([str(word) for word in line])


def test_it_writes_a_reranker_that_loads(pictures: Path, bank: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    target, learned = tmp_path / "mine", []
    training = pairing.fit
    monkeypatch.setattr(pairing, "fit", lambda *a, **more: (learned.append(a[1]), training(*a, **more))[1])
    assert train(pictures, target, "--bank", bank) == 0
    assert f"transport:{target}" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.partial"))
    made = rerankers.load(f"transport:{target}")
    assert made.trained["pictures"] == len(learned[0]) == 23 - 5
    assert made.trained["steps"] > 0
    encoder = encoders.load("mini")
    made.check(encoder.token_spec)
    files = sorted(pictures.glob("*/images/*.png"))[:8]
    seen = [encoder.prepare(np.asarray(Image.open(file).convert("RGB"))) for file in files]
    found = encoder.encode(seen, tokens=True)
    cosines = found.vectors @ found.vectors[0]
    candidates = [Candidate(str(n), float(cosines[n]), tokens) for n, tokens in enumerate(found.tokens)]
    assert made.rerank(Query(found.vectors[0], found.tokens[0]), candidates).argmax() == 0
    # Never over what is there, and the error is a line.
    assert train(pictures, target, "--bank", bank) == 1
    assert "there already" in capsys.readouterr().err


def test_it_goes_on_after_ctrl_c_and_from_another(
    pictures: Path, bank: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    def stopped(*_, **__):
        raise KeyboardInterrupt

    target = tmp_path / "mine"
    with monkeypatch.context() as patch:
        patch.setattr(pairing, "fit", stopped)
        assert train(pictures, target) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert not target.exists()
    with monkeypatch.context() as patch:
        patch.setattr(tokenviews, "bank_of", stopped)
        assert train(pictures, target) == 0  # which made no views again
    onward = ("--bank", bank, "--start", target)
    assert train(pictures, tmp_path / "again", *onward) == 0
    assert rerankers.load(f"transport:{tmp_path / 'again'}").trained["started from"] == "mine"
    assert train(pictures, tmp_path / "cross", *onward, kind="cross") == 1
    assert "no reranker of the kind cross" in capsys.readouterr().err
    assert train(pictures, tmp_path / "two", *onward, "--views", 2) == 1
    assert "views of other pictures" in capsys.readouterr().err


def test_classes_and_a_projection_of_its_own(pictures: Path, tmp_path: Path, monkeypatch) -> None:
    """Of an encoder that brings none."""
    monkeypatch.setenv("PIXDEX_RUNTIME", "onnx")
    plain, target = tmp_path / "plain", tmp_path / "mine"
    shutil.copytree(mini.FOLDER, plain, ignore=shutil.ignore_patterns("*.py", "*.md", "__pycache__", "token_*"))
    about = json.loads((plain / "pixdex.json").read_text())
    projection = about.pop("token_projection")
    (plain / "pixdex.json").write_text(json.dumps(about))
    assert train(pictures, target, "--labels", encoder=plain, kind="cross") == 0
    made = rerankers.load(f"cross:{target}")
    assert made.name == "cross-classes"
    assert made.trained["pictures"] < 23
    shutil.copyfile(target / "token_projection.safetensors", plain / projection)
    (plain / "pixdex.json").write_text(json.dumps({**about, "token_projection": projection}))
    spec = encoders.load(str(plain)).token_spec
    assert spec.dim == 64
    made.check(spec)
