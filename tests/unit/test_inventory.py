"""Encoders as things: listed, shown, fetched, verified; by the command as its users type it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hub_stand_in
import numpy as np
import orjson
import pytest
import toys
from typer.testing import CliRunner, Result

import pixdex
from pixdex import _inventory as inventory
from pixdex import cli
from pixdex.encoders import classic
from pixdex.encoders.compose import CONFIG_FILE, ComposedEncoder
from pixdex.errors import ConfigError, NotFound

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The hub's cache of this test: empty."""
    folder = tmp_path / "hub"
    monkeypatch.setattr(inventory.hub, "cache_folder", lambda: folder)
    return folder


@pytest.fixture
def run(toy_plugin: None) -> Run:
    return lambda *words: CliRunner().invoke(cli.app, ["encoders", *map(str, words)])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved encoder on a tiny network."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(3)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    model = tmp_path_factory.mktemp("tiny") / "model"
    transformers.ViTModel(transformers.ViTConfig(**sizes, image_size=32, patch_size=8)).save_pretrained(model)
    processor = {
        "do_resize": True, "do_rescale": True, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
        "resample": 3, "size": {"height": 32, "width": 32},
    }  # fmt: skip
    (model / "preprocessor_config.json").write_bytes(orjson.dumps(processor))
    encoder = pixdex.encoders.load(f"{model}?pooling=mean&tokens=4&runtime=torch")
    assert isinstance(encoder, ComposedEncoder)
    encoder.save(model.parent / "saved")
    return model.parent


@pytest.fixture
def photos(tmp_path: Path, toy: toys.ToyEncoder) -> str:
    """The address of a collection of the toy encoder, with tokens."""
    url = f"pq://{tmp_path / 'photos.pix'}"
    with pixdex.open(url, encoder=toy, tokens=True) as index:
        index.add(toys.folder(tmp_path / "in", 2))
    return url


# --- list -------------------------------------------------------------------------------------------


def test_without_a_verb_the_names_are_listed(run: Run) -> None:
    result = run()
    assert (result.exit_code, result.stderr) == (0, "")
    assert {"classic", "hf", "onnx", "toy"} <= set(result.stdout.split())


def test_installed_encoders_and_their_fingerprints(run: Run) -> None:
    entries = {entry["reference"]: entry for entry in json.loads(run("list", "--json").stdout)["encoders"]}
    assert entries["classic"]["digest"] == classic.load("").fingerprint.digest
    assert entries["toy:48"]["note"] == "48 x cosine"
    assert entries["hf:..."]["digest"] is None
    assert entries["hf:..."]["note"] == "a model folder, or a name of the hub"
    shown = run("list").stdout
    assert f"classic   installed  {entries['classic']['digest'][:16]}" in shown


def test_folders_hold_saved_encoders_and_models(run: Run, saved: Path) -> None:
    entries = {Path(e.reference).name: e for e in inventory.in_folders([saved])}
    document = orjson.loads((saved / "saved" / CONFIG_FILE).read_bytes())
    assert (entries["saved"].kind, entries["saved"].digest) == ("saved", document["fingerprint"])
    assert entries["saved"].note == "model, mean"
    assert (entries["model"].kind, entries["model"].digest, entries["model"].note) == ("model", None, "vit")
    assert entries["model"].size == sum(file.stat().st_size for file in (saved / "model").iterdir())
    assert [entry.reference for entry in inventory.in_folders([saved / "saved"])] == [str(saved / "saved")]
    assert document["fingerprint"][:16] in run("list", saved).stdout


def test_folders_without_encoders_are_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder, message in (("empty", "neither is nor holds an encoder"), ("nowhere", "is no folder")):
        result = run("list", tmp_path / folder)
        assert isinstance(result.exception, ConfigError)
        assert message in str(result.exception)


# --- show -------------------------------------------------------------------------------------------


def test_show_says_what_an_encoder_is(run: Run, saved: Path) -> None:
    facts = json.loads(run("show", saved / "saved", "--json").stdout)
    encoder = pixdex.encoders.load(str(saved / "saved"))
    assert (facts["dim"], facts["metric"], facts["texts"]) == (32, "cosine", False)
    assert facts["fingerprint"] == encoder.fingerprint.digest
    assert facts["parts"] == dict(encoder.fingerprint.parts)
    assert facts["composition"] == {"pooling": "mean", "gem_power": 3.0, "tokens": 4}
    assert facts["preprocessing"]["resize_to"] == [32, 32]
    assert facts["tokens"] == "4 x 32 int8"
    assert facts["network"] == "16 descriptors x 32 of 32 x 32 pixels"
    assert facts["size"] > 10_000
    text = run("show", saved / "saved").stdout
    assert "  resize_to      32, 32" in text
    assert "pooling        mean" in text
    assert "kB" in text


def test_show_of_a_collection_needs_no_encoder(photos: str, toy: toys.ToyEncoder) -> None:
    facts = json.loads(CliRunner().invoke(cli.app, ["encoders", "show", photos, "--json"]).stdout)
    assert facts["reference"] == "toy:48"
    assert facts["vectors"]["image"]["fingerprint"] == toy.fingerprint.digest
    assert facts["vectors"]["image"]["parts"] == dict(toy.fingerprint.parts)


# --- verify -----------------------------------------------------------------------------------------


def failing(result: Result) -> list[str]:
    """What does not hold, as JSON said."""
    found = [check["what"] for check in json.loads(result.stdout) if not check["holds"]]
    assert result.exit_code == (1 if found else 0)
    return found


def test_a_whole_encoder_holds(run: Run, saved: Path) -> None:
    for reference in ("classic", "toy", saved / "saved", saved / "model"):
        assert failing(run("verify", reference, "--json")) == []
    text = run("verify", saved / "saved").stdout
    assert text.splitlines()[0].startswith("holds  fingerprint in pixdex.json: ")
    assert text.splitlines()[1] == "holds  encodes a picture: 32 values, the same twice to 1.00000"


def test_changed_weights_preprocessing_and_files_that_are_gone(run: Run, saved: Path, tmp_path: Path) -> None:
    for what in ("weights", "preprocessing", "gone"):
        copy = Path(shutil.copytree(saved / "saved", tmp_path / what))
        weights = copy / "trunk" / "model.safetensors"
        if what == "weights":
            data = bytearray(weights.read_bytes())
            data[-40:] = np.ones(10, np.float32).tobytes()
            weights.write_bytes(data)
        elif what == "preprocessing":
            document = orjson.loads((copy / CONFIG_FILE).read_bytes())
            document["preprocess"]["mean"] = [0.4, 0.5, 0.5]
            (copy / CONFIG_FILE).write_bytes(orjson.dumps(document))
        else:
            weights.unlink()
        result = run("verify", copy, "--json")
        assert failing(result) == ["loads"]
        assert ("no weights" if what == "gone" else "its fingerprint is another") in result.stdout
    assert run("verify", tmp_path / "gone").stdout.startswith("FAILS  loads: ")


class Moody(toys.ToyEncoder):
    """Encodes a picture otherwise when another is beside it."""

    def encode(self, prepared: Any, *, tokens: bool = False) -> Any:
        found = super().encode(prepared, tokens=tokens)
        return type(found)(found.vectors[:, :: -1 if len(prepared) > 1 else 1], found.tokens)


def test_an_encoder_that_gives_other_vectors_in_a_batch_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory.encoders, "load", lambda _: Moody())
    assert [check.what for check in inventory.verify("moody") if not check.holds] == ["encodes a picture"]


def test_the_encoder_of_a_collection(run: Run, photos: str) -> None:
    result = run("verify", photos)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-2:] == [
        "holds  vectors of 'main': made by this encoder", "holds  tokens of 'main': made by this encoder"
    ]  # fmt: skip
    other = run("verify", photos, "--encoder", "toy:6", "--json")
    assert failing(other) == ["vectors of 'main'", "tokens of 'main'"]
    assert "they differ in: config, weights" in other.stdout


def test_the_encoder_of_a_collection_that_is_gone(photos: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, ["encoders", "verify", photos, "--json"])  # no plugin "toy" is installed here
    assert failing(result) == ["loads"]
    missing = CliRunner().invoke(cli.app, ["encoders", "verify", f"pq://{tmp_path / 'no.pix'}"])
    assert isinstance(missing.exception, NotFound)
    assert CliRunner().invoke(cli.app, ["encoders", "verify", "classic", "-e", "toy"]).exit_code == 2


# --- the hub ----------------------------------------------------------------------------------------

FILES = {
    "config.json": b'{"model_type": "vit"}',
    "preprocessor_config.json": b"{}",
    "model.safetensors": np.random.default_rng(0).integers(0, 256, 90_000, dtype=np.uint8).tobytes(),
}


@pytest.fixture
def hub() -> Iterator[hub_stand_in.Hub]:
    with hub_stand_in.serve() as served:
        served.models["people/tiny"] = dict(FILES)
        yield served


def command(hub: hub_stand_in.Hub, home: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, with a hub and a cache of its own."""
    pytest.importorskip("huggingface_hub")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment = {**kept, "HF_HOME": str(home), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_TELEMETRY": "1", **more}
    line = [sys.executable, "-m", "pixdex.cli", "encoders", *words]
    return subprocess.run(line, env=environment, capture_output=True, text=True, check=False, timeout=120)


def test_pull_list_and_verify_of_a_model_of_the_hub(run: Run, hub: hub_stand_in.Hub, no_cache: Path) -> None:
    pulled = command(hub, no_cache.parent, "pull", "hf:people/tiny?pooling=mean")
    assert pulled.returncode == 0, pulled.stderr
    folder = Path(pulled.stdout.strip())
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    again = command(hub, no_cache.parent, "pull", "people/tiny", HF_HUB_OFFLINE="1")
    assert again.stdout == pulled.stdout
    (entry,) = inventory.cached()
    assert (entry.reference, entry.kind, entry.place) == ("hf:people/tiny", "cached", str(folder))
    assert entry.size == sum(map(len, FILES.values()))
    assert entry.note.startswith("revision ")

    (folder / "model.safetensors").rename(folder / "gone")
    assert inventory.cached()[0].note == "not whole: pixdex encoders pull fetches the rest"
    (folder / "gone").rename(folder / "model.safetensors")


def test_files_of_the_cache_are_compared_with_the_checksums_of_the_hub(
    run: Run, no_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inventory.encoders, "load", lambda _: toys.ToyEncoder())
    snapshot, blobs = (no_cache / "models--people--tiny" / name for name in ("snapshots/abc", "blobs"))
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for name, content in FILES.items():  # large files are called by their SHA-256, others as git does
        large = hashlib.sha256(content).hexdigest()
        called = large if name.endswith("safetensors") else hub_stand_in._etag(content)
        (blobs / called).write_bytes(content)
        (snapshot / name).symlink_to(blobs / called)
    assert failing(run("verify", "hf:people/tiny", "--json")) == []
    assert len(json.loads(run("verify", "people/tiny", "--json").stdout)) == len(FILES) + 2
    for name in ("model.safetensors", "config.json"):
        blob = (snapshot / name).resolve()
        blob.write_bytes(FILES[name][:-1] + b"x")
        assert name in failing(run("verify", "hf:people/tiny", "--json"))
    assert "pull it again" in run("verify", "hf:people/tiny").stdout


def test_what_cannot_be_pulled(hub: hub_stand_in.Hub, tmp_path: Path) -> None:
    unknown = command(hub, tmp_path, "pull", "people/tinny")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert unknown.stderr.startswith("pixdex: 'people/tinny' is not a folder, and ")
    folder = CliRunner().invoke(cli.app, ["encoders", "pull", str(tmp_path)])
    assert "is here already" in str(folder.exception)
