from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tiny_models

from pixdex import encoders
from pixdex.encoders import runtimes
from pixdex.encoders.backbones import Activations, Trunk
from pixdex.encoders.runtimes import choosing
from pixdex.encoders.runtimes.patient import settled
from pixdex.encoders.runtimes.probes import probes, worst_cosine
from pixdex.errors import ConfigError, MissingDependency

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
PACKAGES = {"onnx": "onnxruntime", "onnx-int8": "onnxruntime", "openvino": "openvino"}


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are made once for all tests here, and nobody's real cache is touched."""
    monkeypatch.setenv("PIXDEX_CACHE", str(cache))
    monkeypatch.delenv("PIXDEX_RUNTIME", raising=False)


@pytest.fixture(scope="session")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trunk]:
    loaded: dict[str, Trunk] = {}

    def load(family: str) -> Trunk:
        if family not in loaded:
            loaded[family] = Trunk.load(tiny_models.save(family, tmp_path_factory.mktemp("models") / family))
        return loaded[family]

    return load


def started(name: str, trunk: Trunk) -> runtimes.Runtime:
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name])
    return runtimes.runtime_of(name, trunk.tower, trunk.preprocess)


def truth(trunk: Trunk, pictures: np.ndarray) -> Activations:
    """The network itself on pictures normalized beforehand."""
    with torch.inference_mode():
        made = trunk.tower(torch.from_numpy(trunk.preprocess.normalize(pictures)))
    return Activations(**{name: t.numpy() for name, t in zip(trunk.tower.outputs, made, strict=True)})


@pytest.mark.parametrize(
    ("name", "family"),
    [
        *(("torch", family) for family in tiny_models.FAMILIES),
        *(("onnx", family) for family in ("vit", "resnet", "swin")),
        *(("openvino", family) for family in ("vit", "resnet")),
    ],
)
def test_a_runtime_does_not_move_a_vector(name: str, family: str, trunk: Callable[[str], Trunk]) -> None:
    network = trunk(family)
    pictures = tiny_models.photographs()
    expected, made = truth(network, pictures), started(name, network).forward(pictures)
    assert worst_cosine(expected, made) >= 0.99999
    assert made.cells == pytest.approx(expected.cells, abs=1e-3)
    for role in ("cells", "cls", "own"):
        array = getattr(made, role)
        assert (array is None) == (role not in network.outputs)
        assert array is None or array.dtype == np.float32


@pytest.mark.parametrize("family", ["vit", "dinov2", "siglip"])
def test_bfloat16_keeps_the_tolerance(family: str, trunk: Callable[[str], Trunk]) -> None:
    pictures = tiny_models.photographs()
    made = started("torch-bf16", trunk(family)).forward(pictures)
    cosine = worst_cosine(truth(trunk(family), pictures), made)
    assert runtimes.TOLERANCE <= cosine < 0.9999999  # it did compute in fewer bits


@pytest.mark.parametrize("name", ["torch-bf16", "openvino"])
def test_trained_weights_on_photographs(name: str, shared: Path) -> None:
    """Activations of trained networks have outliers that random ones lack."""
    network = Trunk.load(shared / "models" / "vit-tiny-16-224", runtime="torch")
    pictures = np.stack([network.preprocess.fit(p) for p in tiny_models.photographs(256)[:3]])
    made = started(name, network).forward(pictures)
    assert worst_cosine(truth(network, pictures), made) >= runtimes.TOLERANCE


def test_integers_are_checked(
    trunk: Callable[[str], Trunk], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from pixdex.encoders.runtimes import quantizing

    pictures = tiny_models.photographs()
    with caplog.at_level(logging.INFO, logger="pixdex"):
        runtime = started("onnx-int8", trunk("resnet"))
    assert runtime.name == "onnx-int8"
    assert "runtime onnx-int8: a cosine of 0.9" in caplog.text
    cosine = worst_cosine(truth(trunk("resnet"), pictures), runtime.forward(pictures))
    assert 0.95 < cosine < 0.99999  # photographs, where the check saw probe pictures
    monkeypatch.setattr(quantizing, "FLOOR", 0.999999)
    with pytest.raises(ConfigError, match="runtime onnx-int8: its vectors have a cosine of 0.9"):
        started("onnx-int8", trunk("resnet"))


def test_pictures_of_a_network_differ(trunk: Callable[[str], Trunk]) -> None:
    """Else the cosines above would say nothing."""
    for family in tiny_models.FAMILIES:
        cells = truth(trunk(family), tiny_models.photographs()).cells.mean(axis=1)
        unit = cells / np.linalg.norm(cells, axis=1, keepdims=True)
        assert (unit @ unit.T).min() < 0.99, family


def test_normalization_goes_into_the_weights_where_that_is_exact(trunk: Callable[[str], Trunk]) -> None:
    from pixdex.encoders.runtimes.fusing import fused

    folded = {family: fused(trunk(family).tower, trunk(family).preprocess).folded for family in ("vit", "resnet")}
    assert folded == {"vit": True, "resnet": False}  # at the border of a padded convolution it would be wrong


@pytest.mark.parametrize("name", ["torch", "torch-bf16"])
@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_the_network_is_left_as_it_was(name: str, family: str, trunk: Callable[[str], Trunk]) -> None:
    before = trunk(family).weights_digest()
    started(name, trunk(family)).forward(tiny_models.photographs())
    assert trunk(family).weights_digest() == before


@pytest.mark.parametrize("name", ["torch", "onnx", "openvino"])
def test_any_number_of_pictures(name: str, trunk: Callable[[str], Trunk]) -> None:
    runtime = started(name, trunk("vit"))
    pictures = probes((tiny_models.SIDE, tiny_models.SIDE), 37)
    pictures.setflags(write=False)
    together = runtime.forward(pictures)
    for count in (1, 3, 16):
        few = runtime.forward(pictures[:count])
        assert few.cells == pytest.approx(together.cells[:count], abs=1e-4)
        assert few.cls == pytest.approx(together.cls[:count], abs=1e-4)


@pytest.mark.parametrize("name", ["torch", "onnx", "openvino"])
def test_threads_do_not_mix_their_pictures(name: str, trunk: Callable[[str], Trunk]) -> None:
    runtime = started(name, trunk("vit"))
    pictures = probes((tiny_models.SIDE, tiny_models.SIDE), 8)
    alone = [runtime.forward(p[None]).cells for p in pictures]
    gate = threading.Barrier(4)

    def work(_: int) -> list[np.ndarray]:
        gate.wait()
        return [runtime.forward(p[None]).cells for p in pictures]

    with ThreadPoolExecutor(4) as pool:
        for made in pool.map(work, range(4)):
            assert np.array_equal(made, alone)


def test_a_reference_names_its_runtime(trunk: Callable[[str], Trunk]) -> None:
    pytest.importorskip("onnxruntime")
    folder = trunk("vit").source.path
    plain, other = encoders.load(f"hf:{folder}?runtime=torch"), encoders.load(f"hf:{folder}?runtime=onnx")
    assert plain.fingerprint == other.fingerprint
    assert plain.reference == other.reference
    pictures = list(tiny_models.photographs())
    made = (plain.encode(pictures).vectors * other.encode(pictures).vectors).sum(axis=1)
    assert made == pytest.approx(1, abs=1e-5)


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert runtimes.requested(None) == "auto"
    monkeypatch.setenv("PIXDEX_RUNTIME", "onnx")
    assert runtimes.requested(None) == "onnx"
    assert runtimes.requested("torch") == "torch"
    with pytest.raises(ConfigError, match="no runtime 'openvno' .did you mean 'openvino'"):
        runtimes.requested("openvno")
    assert set(runtimes.available()) <= set(runtimes.NAMES)
    assert "torch" in runtimes.available()


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_a_runtime_that_is_not_installed(
    name: str, trunk: Callable[[str], Trunk], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, PACKAGES[name], None)
    with pytest.raises(MissingDependency, match=rf'pip install "pixdex\[{name}\]"'):
        runtimes.runtime_of(name, trunk("vit").tower, trunk("vit").preprocess)
    assert name not in runtimes.available()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["cuda", "cuda-compile"])
def test_without_a_gpu(name: str, trunk: Callable[[str], Trunk]) -> None:
    with pytest.raises(ConfigError, match="of a GPU: torch finds none"):
        started(name, trunk("vit"))
    assert name not in runtimes.available()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", ["cuda", "cuda-compile"])
def test_on_a_gpu(name: str, trunk: Callable[[str], Trunk]) -> None:
    pictures = probes((tiny_models.SIDE, tiny_models.SIDE), 300)  # several batches, so that copies overlap
    made = started(name, trunk("vit")).forward(pictures)
    assert worst_cosine(truth(trunk("vit"), pictures), made) >= runtimes.TOLERANCE


def test_a_graph_is_made_once(trunk: Callable[[str], Trunk], cache: Path) -> None:
    started("onnx", trunk("vit"))
    graphs = sorted((path, path.stat().st_mtime_ns) for path in (cache / "graphs").rglob("*"))
    started("onnx", trunk("vit"))
    assert sorted((path, path.stat().st_mtime_ns) for path in (cache / "graphs").rglob("*")) == graphs


def test_a_cache_that_cannot_be_written(
    trunk: Callable[[str], Trunk], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("PIXDEX_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="name a folder in PIXDEX_CACHE"):
        started("onnx", trunk("vit"))
    monkeypatch.setattr(choosing, "_FASTER_THAN_DECODING", float("inf"))
    assert settled(started("auto", trunk("vit"))).name in ("torch", "torch-bf16")


def test_auto_measures_once_and_remembers(
    trunk: Callable[[str], Trunk], monkeypatch: pytest.MonkeyPatch, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(cache / "runtimes", ignore_errors=True)
    monkeypatch.setattr(choosing, "_FASTER_THAN_DECODING", float("inf"))
    source, pictures = trunk("vit").source.path, tiny_models.photographs()
    first = Trunk.load(source)
    reference = first.forward(pictures)
    assert not (cache / "runtimes").exists()
    with caplog.at_level(logging.INFO, logger="pixdex"):
        chosen = first.settle()
    assert chosen in runtimes.available()
    assert f"runtime {chosen}, {first.batch_size} pictures at a time" in caplog.text
    assert "remembered" in caplog.text
    assert worst_cosine(reference, first.forward(pictures)) >= runtimes.TOLERANCE
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="pixdex"):
        again = Trunk.load(source, runtime="auto")
        assert (again.batch_size, again.settle()) == (first.batch_size, chosen)
    assert not caplog.text


def test_auto_tries_nothing_where_nobody_waits(
    trunk: Callable[[str], Trunk], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PIXDEX_CACHE", str(tmp_path))
    monkeypatch.setattr(choosing, "_FASTER_THAN_DECODING", 0)
    assert settled(started("auto", trunk("vit"))).name == "torch"
    assert not list(tmp_path.iterdir())


def test_the_cache_is_where_the_system_keeps_such_things(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from pixdex.encoders.runtimes import cache

    monkeypatch.delenv("PIXDEX_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder() == tmp_path / "pixdex"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.folder() == Path.home() / ".cache" / "pixdex"


def test_importing_runtimes_loads_no_library() -> None:
    code = (
        "import sys, pixdex.encoders.runtimes.finding\n"
        "print([m for m in ('torch', 'onnxruntime', 'openvino', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout.strip() == "[]"


def test_openvino_reports_to_nobody() -> None:
    pytest.importorskip("openvino")
    code = "import sys, pixdex.encoders.runtimes.open_vino; assert 'openvino_telemetry' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
