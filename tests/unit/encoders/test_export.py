from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import orjson
import pytest
import tiny_models

from pixdex import encoders
from pixdex.encoders import export as exporting
from pixdex.encoders.compose import ComposedEncoder
from pixdex.encoders.export import export
from pixdex.encoders.runtimes import finding
from pixdex.encoders.runtimes.graph import files_of
from pixdex.errors import AlreadyExists, ConfigError, Unsupported

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
FORMS = ("onnx", "openvino")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXDEX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PIXDEX_RUNTIME", raising=False)


@pytest.fixture(scope="session")
def vit(tmp_path_factory: pytest.TempPathFactory) -> ComposedEncoder:
    folder = tiny_models.save("vit", tmp_path_factory.mktemp("models") / "tiny")
    encoder = encoders.load(f"hf:{folder}?tokens=5&runtime=torch")
    assert isinstance(encoder, ComposedEncoder)
    return encoder


@pytest.fixture(scope="session")
def folders(vit: ComposedEncoder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The encoder, exported in every format."""
    made = {}
    for form in FORMS:
        if form == "openvino":
            pytest.importorskip("openvino")
        made[form] = tmp_path_factory.mktemp("exported") / form
        export(vit, made[form], format=form)
    return made


@pytest.mark.parametrize("form", FORMS)
def test_an_exported_encoder_is_the_same_encoder(form: str, vit: ComposedEncoder, folders: dict[str, Path]) -> None:
    loaded = encoders.load(str(folders[form]))
    assert loaded.fingerprint == vit.fingerprint
    assert loaded.token_spec == vit.token_spec
    assert (loaded.name, loaded.dim, loaded.metric) == (vit.name, vit.dim, vit.metric)
    assert getattr(loaded, "min_side", None) == vit.min_side
    assert loaded.reference == str(folders[form])
    pictures = list(tiny_models.photographs(50))
    ours, theirs = (e.encode([e.prepare(p) for p in pictures], tokens=True) for e in (loaded, vit))
    assert (ours.vectors * theirs.vectors).sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert ours.tokens is not None
    assert theirs.tokens is not None
    assert [(t.shape, t.dtype) for t in ours.tokens] == [(t.shape, t.dtype) for t in theirs.tokens]


@pytest.mark.parametrize("form", FORMS)
def test_it_loads_without_torch(form: str, vit: ComposedEncoder, folders: dict[str, Path]) -> None:
    pictures = tiny_models.photographs()
    expected = vit.encode(list(pictures)).vectors
    np.save(folders[form].parent / "pictures.npy", pictures)
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['torch', 'transformers', 'safetensors', 'onnx', 'onnxscript']))\n"
        "import numpy as np\n"
        "from pixdex import encoders\n"
        f"encoder = encoders.load({str(folders[form])!r})\n"
        f"vectors = encoder.encode(list(np.load({str(folders[form].parent / 'pictures.npy')!r}))).vectors\n"
        f"np.save({str(folders[form].parent / 'vectors.npy')!r}, vectors)\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
    made = np.load(folders[form].parent / "vectors.npy")
    assert (made * expected).sum(axis=1) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("runtime", ["onnx", "openvino", "auto"])
def test_it_runs_on_what_is_asked_for(runtime: str, vit: ComposedEncoder, folders: dict[str, Path]) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino")
    loaded = encoders.load(f"hf:{folders['onnx']}?runtime={runtime}")
    pictures = list(tiny_models.photographs())
    cosines = (loaded.encode(pictures).vectors * vit.encode(pictures).vectors).sum(axis=1)
    assert cosines == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("form", "runtime"), [("onnx", "torch"), ("openvino", "onnx")])
def test_it_refuses_what_cannot_run_it(form: str, runtime: str, folders: dict[str, Path]) -> None:
    loaded = encoders.load(f"hf:{folders[form]}?runtime={runtime}")
    with pytest.raises(ConfigError, match=f"runtime {runtime} runs no model"):
        loaded.encode(list(tiny_models.photographs()))


def test_a_feature_map_and_its_own_embedding(tmp_path: Path) -> None:
    folder = tiny_models.save("resnet", tmp_path / "cnn")
    source = encoders.load(f"hf:{folder}?pooling=own&runtime=torch")
    export(source, tmp_path / "exported")
    loaded = encoders.load(str(tmp_path / "exported"))
    assert loaded.fingerprint == source.fingerprint
    pictures = list(tiny_models.photographs())
    cosines = (loaded.encode(pictures).vectors * source.encode(pictures).vectors).sum(axis=1)
    assert cosines == pytest.approx(1, abs=1e-5)


def test_an_exported_encoder_can_be_exported(vit: ComposedEncoder, folders: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    export(encoders.load(str(folders["onnx"])), tmp_path / "again", format="openvino")
    loaded = encoders.load(str(tmp_path / "again"))
    assert loaded.fingerprint == vit.fingerprint
    pictures = list(tiny_models.photographs())
    cosines = (loaded.encode(pictures).vectors * vit.encode(pictures).vectors).sum(axis=1)
    assert cosines == pytest.approx(1, abs=1e-5)
    with pytest.raises(Unsupported, match="a graph of openvino"):
        export(loaded, tmp_path / "back", format="onnx")
    assert not list((tmp_path / "back").iterdir())
    with pytest.raises(Unsupported, match="export it, or copy its folder"):
        loaded.save(tmp_path / "saved")


def test_nothing_is_overwritten(vit: ComposedEncoder, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(AlreadyExists, match="is not empty"):
        export(vit, tmp_path)
    with pytest.raises(AlreadyExists):
        export(vit, tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_what_has_no_network(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="classic has no network"):
        export(encoders.load("classic"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_such_format(vit: ComposedEncoder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="format 'tflite': one of onnx, openvino"):
        export(vit, tmp_path / "out", format="tflite")  # type: ignore[arg-type]


def test_a_graph_with_other_vectors_is_no_encoder(
    vit: ComposedEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written is run: here, a file of another network."""
    other = encoders.load(f"hf:{tiny_models.save('dinov2', tmp_path / 'other')}?runtime=torch")
    assert isinstance(other, ComposedEncoder)
    written = exporting._written

    def mixed_up(target: Path, encoder: ComposedEncoder, form: str):
        _, truth = written(target, vit, form)
        for file in files_of(target / "model.onnx"):
            file.unlink()
        network, _ = written(target, other, form)
        return network, truth

    monkeypatch.setattr(exporting, "_written", mixed_up)
    with pytest.raises(ConfigError, match="gives other vectors as a graph of onnx: cosine"):
        export(vit, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.fixture
def copy(folders: dict[str, Path], tmp_path: Path) -> Path:
    target = tmp_path / "copy"
    target.mkdir()
    for file in folders["onnx"].iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def test_a_changed_graph_is_refused(copy: Path) -> None:
    encoders.load(str(copy))
    file = copy / "model.onnx"
    contents = bytearray(file.read_bytes())
    contents[len(contents) // 2] ^= 1
    file.write_bytes(contents)
    with pytest.raises(ConfigError, match="changed after it was exported: its digest"):
        encoders.load(str(copy))
    file.unlink()
    with pytest.raises(ConfigError, match=r"it has no model\.onnx"):
        encoders.load(str(copy))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pooling": "mean"}, "its fingerprint is another"),
        ({"parts": {"config": "0" * 32, "weights": "0" * 32}}, "its fingerprint is another"),
        ({"graph": None}, "is not an exported encoder"),
        ({"graph": {"file": "model.onnx"}}, "is not an exported encoder"),
        ({"parts": {}}, "is not an exported encoder"),
        ({"version": 99}, "newer pixdex"),
    ],
)
def test_a_changed_description_is_refused(change: dict[str, object], message: str, copy: Path) -> None:
    file = copy / "pixdex.json"
    file.write_bytes(orjson.dumps(orjson.loads(file.read_bytes()) | change))
    with pytest.raises(ConfigError, match=message):
        encoders.load(str(copy))


def test_a_file_elsewhere_is_not_read(copy: Path) -> None:
    file = copy / "pixdex.json"
    document = orjson.loads(file.read_bytes())
    document["graph"]["file"] = f"../{copy.name}/../{copy.name}/model.onnx"
    file.write_bytes(orjson.dumps(document))
    encoders.load(str(copy))  # the name alone counts
    (copy.parent / "elsewhere.onnx").write_bytes((copy / "model.onnx").read_bytes())
    document["graph"]["file"] = "../elsewhere.onnx"
    file.write_bytes(orjson.dumps(document))
    with pytest.raises(ConfigError, match=r"it has no elsewhere\.onnx"):
        encoders.load(str(copy))


def test_a_network_of_whole_batches(folders: dict[str, Path]) -> None:
    """A graph that takes 3 pictures at a time, however many come."""
    loaded = encoders.load(str(folders["onnx"]))
    assert isinstance(loaded, ComposedEncoder)
    from dataclasses import replace

    graph = replace(loaded.trunk.graph, batch=3)  # type: ignore[attr-defined]
    runtime = finding.of_graph("onnx", graph)
    pictures = tiny_models.photographs()
    free = loaded.trunk.forward(pictures)
    assert runtime.batch_size == 3
    for count in (1, 3, 4):
        assert runtime.forward(pictures[:count]).cells == pytest.approx(free.cells[:count], abs=1e-4)
