"""``train_head``: from pictures with classes to an encoder folder with a report, never worse than what it began with."""

from __future__ import annotations

import errno
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import tiny_models
from PIL import Image
from typer.testing import CliRunner

import pixdex
from pixdex import encoders
from pixdex.cli import app
from pixdex.encoders.compose import ComposedEncoder
from pixdex.encoders.export import export
from pixdex.encoders.heads import KernelHead, LinearHead, MLPHead
from pixdex.errors import AlreadyExists, ConfigError, Unsupported
from pixdex.training import train_head
from pixdex.training.choosing import NO_HEAD, choose, fit
from pixdex.training.fitting import Recipe
from pixdex.training.kernels import fit_map

CLASSES, EACH = 10, 8
RECIPE = Recipe(losses=("cosine",), epochs=6, dim=16, prefixes=(4, 8))


def blobs(seed: int, *, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Classes that lie apart in some directions, under large differences within them in others; unit vectors."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(20), 12).astype(np.int64)
    rows = np.hstack([rng.standard_normal((20, 8))[labels], noise * rng.standard_normal((240, 8))])
    rows += 0.3 * rng.standard_normal(rows.shape)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), labels


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save("vit", tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders: where a stripe is makes the class, and the colours of a picture hide it."""
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("pictures") / "things"
    for number in range(CLASSES):
        for copy in range(EACH):
            colour = rng.integers(40, 216, 3)
            pixels = np.full((40, 40, 3), colour) + rng.integers(-20, 20, (40, 40, 3))
            pixels[:, 4 * number : 4 * number + 4] = 255 - colour
            file = root / f"class{number}" / f"{copy}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file)
    return root


@pytest.fixture(autouse=True)
def _runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXDEX_RUNTIME", "torch")


# --- the choice --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["cosine", "triplet", "contrastive", "multi-similarity"])
def test_a_head_finds_what_tells_classes_apart(loss: str) -> None:
    rows, labels = blobs(0, noise=2.0)
    found = choose(rows[:, None], rows, labels, Recipe(losses=(loss,), epochs=5, dim=16))
    frozen, best = found.candidates[0].metrics["map@r"], found.candidate.metrics["map@r"]
    assert found.candidates[0].name == NO_HEAD
    assert isinstance(found.head, LinearHead)
    assert best > frozen + 0.2
    assert best == max(one.metrics["map@r"] for one in found.candidates)


def test_no_head_is_taken_where_none_is_better() -> None:
    """Vectors that say everything already: training can only forget."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(12), 6).astype(np.int64)
    rows = np.repeat(np.eye(12, dtype=np.float32), 6, axis=0) + 0.01 * rng.standard_normal((72, 12)).astype(np.float32)
    found = choose(rows[:, None], rows, labels, Recipe(epochs=2, dim=2, prefixes=()))
    assert found.candidate.name == NO_HEAD
    assert found.head is None
    assert found.after["map@r"] is found.frozen["map@r"]


def test_the_same_seed_gives_the_same_head() -> None:
    rows, labels = blobs(1, noise=1.0)
    recipe = Recipe(epochs=2, dim=8, prefixes=(4,), drop=0.2)
    once, again, other = (fit(rows[:, None], labels, replace(recipe, seed=seed)) for seed in (0, 0, 1))
    assert once.digest() == again.digest() != other.digest()
    assert once.prefixes == (4,)
    found = [choose(rows[:, None], rows, labels, recipe).candidate for _ in range(2)]
    assert found[0] == found[1]


def test_an_mlp_and_a_kernel_are_heads_too() -> None:
    rows, labels = blobs(2, noise=1.0)
    mlp = choose(rows[:, None], rows, labels, Recipe(losses=("cosine",), epochs=3, dim=8, hidden=12)).head
    points = fit_map("gaussian", rows, width=40)
    kernel = choose(rows[:, None], rows, labels, Recipe(losses=("cosine",), epochs=3, dim=8), before=points).head
    assert isinstance(mlp, MLPHead)
    assert isinstance(kernel, KernelHead)
    assert (mlp.in_dim, mlp.dim, kernel.in_dim, kernel.dim) == (16, 8, 16, 8)


# --- pictures in, a folder out -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(model: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out") / "things"
    encoder = f"hf:{model}?runtime=torch"
    train_head(
        pictures, folder, encoder=encoder, recipe=RECIPE, share=0.4, cache=folder.parent / "cache", progress=False
    )
    return folder


def test_the_folder_is_an_encoder_that_searches(trained: Path, pictures: Path, model: Path) -> None:
    encoder = encoders.load(str(trained))
    assert isinstance(encoder, ComposedEncoder)
    assert isinstance(encoder.composition.head, LinearHead)
    assert encoder.dim == 16
    assert encoder.fingerprint.digest != encoders.load(f"hf:{model}").fingerprint.digest
    assert encoders.load(f"{trained}?dim=4").dim == 4
    with pixdex.open("memory://", encoder=str(trained)) as index:
        index.add(pictures, progress=False)
        hits = index.search(pictures / "class3" / "0.png", k=4)
    assert hits[0].id == "things/class3/0.png"
    assert len(hits) == 4


def test_the_report_says_what_was_gained(trained: Path) -> None:
    report = orjson.loads((trained / "report.json").read_bytes())
    assert report["classes"] == {"all": CLASSES, "kept_back": 4}
    assert report["pictures"] == CLASSES * EACH
    gain = report["metrics"]["map@r"]
    assert gain["head"]["mean"] >= gain["frozen"]["mean"]
    assert gain["head"]["mean"] == pytest.approx(report["candidates"][report["chosen"]]["map@r"])
    assert gain["frozen"]["mean"] == pytest.approx(report["candidates"][NO_HEAD]["map@r"])
    page = (trained / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert len(re.findall("data:image/jpeg;base64", page)) > 20
    assert not re.search(r"""(src|href)=["']?(?!data:)\w""", page)  # it needs nothing but itself


def test_it_goes_on_from_what_was_encoded(
    trained: Path, pictures: Path, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("encoded again")

    encoder = encoders.load(f"hf:{model}?runtime=torch")
    monkeypatch.setattr(ComposedEncoder, "encode", never)
    again = train_head(
        pictures,
        tmp_path / "out",
        encoder=encoder,
        recipe=RECIPE,
        share=0.4,
        cache=trained.parent / "cache",
        progress=False,
    )
    assert again.encoder.fingerprint.digest == encoders.load(str(trained)).fingerprint.digest


def test_a_collection_with_a_field_of_classes(pictures: Path, model: Path, tmp_path: Path) -> None:
    url = f"pq://{tmp_path / 'store.pix'}"
    rows = [f"{p.relative_to(pictures)},{p.parent.name}" for p in sorted(pictures.rglob("*.png"))]
    (pictures / "list.csv").write_text("\n".join(["path,kind", *rows, ""]))
    with pixdex.open(url, encoder=f"hf:{model}?runtime=torch") as index:
        index.add(pictures / "list.csv", progress=False)
    found = train_head(url, tmp_path / "out", label="kind", recipe=RECIPE, share=0.4, progress=False)
    assert found.pictures == CLASSES * EACH
    assert found.encoder.composition.pooled_dim(found.encoder.trunk) == 32  # its vectors as they are
    assert encoders.load(found.encoder.reference).fingerprint.digest == found.encoder.fingerprint.digest
    with pytest.raises(ConfigError, match="no record"):
        train_head(url, tmp_path / "other", label="kid", progress=False)


def test_an_exported_encoder_gets_a_head(pictures: Path, model: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    export(encoders.load(f"hf:{model}?runtime=torch"), tmp_path / "onnx")
    base = encoders.load(f"{tmp_path / 'onnx'}?runtime=onnx")
    found = train_head(
        pictures,
        tmp_path / "out",
        encoder=base,
        recipe=RECIPE,
        share=0.4,
        cache=tmp_path / "cache",
        mirrored=False,
        progress=False,
    )
    loaded = encoders.load(f"{tmp_path / 'out'}?runtime=onnx")
    assert loaded.fingerprint.digest == found.encoder.fingerprint.digest
    assert (tmp_path / "out" / "model.onnx").is_file()


def test_what_cannot_be_trained_is_refused(pictures: Path, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="hf:FOLDER"):
        train_head(pictures, tmp_path / "out", encoder="classic", progress=False)
    with pytest.raises(ConfigError, match="has a head already"):
        train_head(pictures, tmp_path / "out", encoder=str(trained), progress=False)
    with pytest.raises(AlreadyExists, match="there already"):
        train_head(pictures, trained, encoder="classic", progress=False)
    with pytest.raises(ConfigError, match="did you mean 'triplet'"):
        train_head(pictures, tmp_path / "out", encoder="classic", loss="triplets", progress=False)


def test_a_folder_appears_with_its_report_or_not_at_all(
    pictures: Path, model: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full once the encoder is written."""
    write = Path.write_text

    def full(path: Path, *given: Any, **named: Any) -> int:
        if path.name == "report.html":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, *given, **named)

    def train() -> None:
        train_head(
            pictures,
            tmp_path / "out",
            encoder=f"hf:{model}?runtime=torch",
            recipe=RECIPE,
            share=0.4,
            cache=trained.parent / "cache",
            progress=False,
        )

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(ConfigError, match="out cannot be written: No space left"):
        train()
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    monkeypatch.setenv("PIXDEX_RUNTIME", "torch")
    train()
    assert {"pixdex.json", "report.json", "report.html"} <= {file.name for file in (tmp_path / "out").iterdir()}


def test_the_command(pictures: Path, model: Path, tmp_path: Path) -> None:
    line = ["train", "head", str(pictures), "--encoder", f"hf:{model}?runtime=torch", "--output", str(tmp_path / "out")]
    done = CliRunner().invoke(
        app, [*line, "--epochs", "2", "--dim", "8", "--prefix", "4", "--loss", "cosine", "--seed", "3"]
    )
    assert done.exit_code == 0, done.output
    assert "map@r" in done.stdout
    assert encoders.load(f"{tmp_path / 'out'}?dim=4").dim == 4
