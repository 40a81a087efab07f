"""Models by hub name, from a stand-in of the hub's file protocol, with the real client in processes of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import hub_stand_in
import numpy as np
import pytest

pytest.importorskip("huggingface_hub")

WEIGHTS = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()
FILES = {
    "README.md": b"# tiny",
    "config.json": b'{"model_type": "vit"}',
    "preprocessor_config.json": b"{}",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"pickled",
    "onnx/model.onnx": b"another form",
    "open_clip_model.safetensors": b"the same once more",
}
LOCATE = (
    "import sys\n"
    "from pixdex.encoders._hub import locate\n"
    "from pixdex.errors import ConfigError\n"
    "try:\n"
    "    print(locate(sys.argv[1]))\n"
    "except ConfigError as error:\n"
    "    sys.exit(f'ConfigError: {error}')\n"
)


@pytest.fixture
def hub() -> Iterator[hub_stand_in.Hub]:
    """A hub with the model ``people/tiny``."""
    with hub_stand_in.serve() as served:
        served.models["people/tiny"] = dict(FILES)
        yield served


class Machine:
    """A computer with a cache of its own."""

    def __init__(self, home: Path, endpoint: str) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        self.home = home
        self.environment = {**kept, "HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_TELEMETRY": "1"}

    def run(self, code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *arguments], env={**self.environment, **environment}, capture_output=True,
            text=True, check=False, timeout=120, cwd=Path(__file__).parents[3],
        )  # fmt: skip

    def forget_lists(self) -> None:
        """As older clients, which don't keep what a model consists of: without it they can't tell what is missing."""
        for folder in list(self.home.rglob("trees")):
            shutil.rmtree(folder)

    def locate(self, name: str, **environment: str) -> Path:
        done = self.run(LOCATE, name, **environment)
        assert done.returncode == 0, done.stderr
        return Path(done.stdout.strip())

    def refusal(self, name: str, **environment: str) -> str:
        """The message, which is one line."""
        done = self.run(LOCATE, name, **environment)
        assert done.returncode == 1
        lines = [line for line in done.stderr.splitlines() if line.startswith("ConfigError: ")]
        assert len(lines) == 1, done.stderr
        assert done.stderr.rstrip().endswith(lines[0])
        assert "Traceback" not in done.stderr
        return lines[0].removeprefix("ConfigError: ")


@pytest.fixture
def machine(hub: hub_stand_in.Hub, tmp_path: Path) -> Machine:
    return Machine(tmp_path / "home", hub.url)


def test_a_model_is_fetched_once(hub: hub_stand_in.Hub, machine: Machine) -> None:
    folder = machine.locate("people/tiny")
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    fetched = {
        request.partition("/resolve/")[2].partition("/")[2] for request in hub.requests if "/resolve/" in request
    }
    assert fetched == {"config.json", "preprocessor_config.json", "model.safetensors"}
    hub.requests.clear()
    assert machine.locate("people/tiny") == folder
    assert machine.locate("people/tiny", HF_HUB_OFFLINE="1") == folder
    assert hub.requests == []


def test_offline_without_the_model(hub: hub_stand_in.Hub, machine: Machine) -> None:
    assert "HF_HUB_OFFLINE is set" in machine.refusal("people/tiny", HF_HUB_OFFLINE="1")
    assert hub.requests == []


def test_a_download_that_breaks_off(hub: hub_stand_in.Hub, machine: Machine) -> None:
    """Nothing half-written is taken for whole, neither now nor offline; the next try completes it."""
    hub.broken["model.safetensors"] = [200_000] * 9
    message = machine.refusal("people/tiny")
    assert "'people/tiny'" in message
    assert "try again" in message
    assert not list(machine.home.rglob("model.safetensors"))
    machine.forget_lists()
    assert "nor whole in the Hugging Face cache" in machine.refusal("people/tiny", HF_HUB_OFFLINE="1")
    hub.broken.clear()
    folder = machine.locate("people/tiny")
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_a_connection_that_breaks_once(hub: hub_stand_in.Hub, machine: Machine) -> None:
    hub.broken["model.safetensors"] = [200_000]
    assert (machine.locate("people/tiny") / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.broken["model.safetensors"] == []


def test_a_shard_that_is_missing(hub: hub_stand_in.Hub, machine: Machine) -> None:
    shards = {f"model-0000{i}-of-00002.safetensors": WEIGHTS[i:] for i in (1, 2)}
    index = b'{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}'
    files = {name: FILES[name] for name in ("config.json", "preprocessor_config.json")}
    hub.models["people/big"] = {**files, "model.safetensors.index.json": index, **shards}
    folder = machine.locate("people/big")
    (folder / "model-00002-of-00002.safetensors").unlink()
    machine.forget_lists()
    assert "nor whole" in machine.refusal("people/big", HF_HUB_OFFLINE="1")
    assert machine.locate("people/big") == folder
    assert all((folder / name).read_bytes() == content for name, content in shards.items())


@pytest.mark.parametrize("name", ["people/tinny", "nobody/nothing"])
def test_a_model_that_nobody_knows(hub: hub_stand_in.Hub, machine: Machine, name: str) -> None:
    started = time.perf_counter()
    message = machine.refusal(name)
    assert f"{name!r} is not a folder, and {hub.url} knows no such model" in message
    assert "HF_TOKEN" in message
    assert time.perf_counter() - started < 20


def test_a_model_behind_terms(hub: hub_stand_in.Hub, machine: Machine) -> None:
    hub.gated.add("people/tiny")
    started = time.perf_counter()
    message = machine.refusal("people/tiny")
    assert time.perf_counter() - started < 20
    assert f"is gated: accept its terms at {hub.url}/people/tiny" in message
    assert "hf auth login" in message


def test_a_hub_in_trouble(hub: hub_stand_in.Hub, machine: Machine) -> None:
    hub.down = True
    started = time.perf_counter()
    assert f"{hub.url} refuses model 'people/tiny' (503): try again later" in machine.refusal("people/tiny")
    assert time.perf_counter() - started < 20


def test_a_hub_that_does_not_answer(machine: Machine) -> None:
    """At once, without the half minute of patience that the client has."""
    started = time.perf_counter()
    message = machine.refusal("people/tiny", HF_ENDPOINT="http://127.0.0.1:9")
    assert "could not be fetched from http://127.0.0.1:9" in message
    assert "use a folder" in message
    assert time.perf_counter() - started < 20


def test_models_without_weights_that_can_be_read(hub: hub_stand_in.Hub, machine: Machine) -> None:
    hub.models["people/old"] = {"config.json": b"{}", "pytorch_model.bin": WEIGHTS}
    hub.models["people/text"] = {"README.md": b"words"}
    assert "only pickled weights" in machine.refusal("people/old")
    assert "no weights" in machine.refusal("people/text")
    assert "not a name" in machine.refusal("people/a b")
    assert not [request for request in hub.requests if "/resolve/" in request]


def test_an_encoder_by_its_hub_name(hub: hub_stand_in.Hub, machine: Machine, tmp_path: Path) -> None:
    """From the hub to a vector, of a sentence-transformers folder, the second time without a hub."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    tower = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.CLIPConfig(
        vision_config={**tower, "image_size": 32, "patch_size": 8}, text_config={**tower, "vocab_size": 9},
        projection_dim=24,
    )  # fmt: skip
    transformers.CLIPModel(config).save_pretrained(tmp_path / "clip")
    values = b'{"image_processor_type": "CLIPImageProcessor", "size": 32, "crop_size": 32}'
    files = {f"0_CLIPModel/{file.name}": file.read_bytes() for file in (tmp_path / "clip").iterdir()}
    modules = b'[{"idx": 0, "name": "0", "path": "0_CLIPModel", "type": "sentence_transformers.models.CLIPModel"}]'
    hub.models["people/st-clip"] = {**files, "0_CLIPModel/preprocessor_config.json": values, "modules.json": modules}
    code = (
        "import os, numpy as np\n"
        "from pixdex import encoders\n"
        "for offline in ('0', '1'):\n"
        "    os.environ['HF_HUB_OFFLINE'] = offline\n"
        "    encoder = encoders.load('hf:people/st-clip?runtime=torch')\n"
        "    vector = encoder.encode([encoder.prepare(np.full((40, 50, 3), 90, np.uint8))]).vectors\n"
        "    print(encoder.reference, encoder.name, vector.shape, float(vector[0, 0]))\n"
    )
    done = machine.run(code)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("hf:people/st-clip?pooling=own&tokens=16 st-clip (1, 24) ")
    assert second == first
