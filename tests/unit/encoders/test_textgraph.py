"""Towers for texts as files: as transformers' own, and read without it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import orjson
import pytest
import tiny_duals
import tiny_models

from pixdex import encoders
from pixdex.encoders import _models
from pixdex.encoders.compose import ComposedEncoder, DualEncoder
from pixdex.encoders.export import export
from pixdex.encoders.text import Network, TrunkText
from pixdex.encoders.textgraph import GraphText
from pixdex.errors import ConfigError, MissingDependency

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from pixdex.encoders import _textwriting

TEXTS = ["a cat", "Two  DOGS on a beach", "", "cat " * 40, "ΟΔΟΣ, ÉCLAIR & İstanbul: 日本"]


@pytest.fixture(autouse=True)
def _runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """For pictures: nothing is measured."""
    monkeypatch.setenv("PIXDEX_RUNTIME", "onnx")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> DualEncoder:
    folder = tiny_duals.save("clip", tmp_path_factory.mktemp("duals") / "clip")
    encoder = encoders.load(f"hf:{folder}?runtime=torch")
    assert isinstance(encoder, DualEncoder)
    return encoder


@pytest.fixture(scope="module")
def exported(clip: DualEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "clip"
    export(clip, folder)
    return folder


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copy"))


def test_texts_are_searched_for_without_torch(clip: DualEncoder, exported: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "pictures.npy", tiny_models.photographs())
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['torch', 'transformers', 'safetensors', 'onnx', 'onnxscript']))\n"
        "import numpy as np, pixdex\n"
        f"folder = {str(tmp_path)!r}\n"
        "pictures = list(np.load(folder + '/pictures.npy'))\n"
        f"index = pixdex.open('memory://photos', encoder={str(exported)!r})\n"
        "index.add(pictures, ids=list('abcd'))\n"
        "np.save(folder + '/pictures-vectors.npy', index.encoder.encode(pictures).vectors)\n"
        f"np.save(folder + '/vectors.npy', index.encoder.encode_text({TEXTS!r}))\n"
        "found = index.search(text='a cat', k=4, threshold=-1)\n"
        "print(index.encoder.fingerprint.digest, *(hit.id for hit in found))\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, stdout=subprocess.PIPE, text=True)
    digest, *found = done.stdout.split()
    assert digest == clip.fingerprint.digest
    made, expected = np.load(tmp_path / "vectors.npy"), clip.encode_text(TEXTS)
    assert (made * expected).sum(axis=1).min() >= 0.9999
    assert (expected @ expected.T).min() < 0.99, "texts that all look alike show nothing"
    pictures = np.load(tmp_path / "pictures-vectors.npy")
    assert found == ["abcd"[row] for row in np.argsort(-(pictures @ clip.encode_text(["a cat"])[0]))]


@pytest.mark.parametrize("kind", tiny_duals.KINDS)
def test_a_text_has_the_tokens_that_it_had(kind: str, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    folder = tiny_duals.save(kind, tmp_path / "model")
    network = TrunkText(_models.ModelFolder.read(folder, name="model")).network
    _textwriting.write_tokenizer(network, tmp_path / "tokenizer.json")
    ours = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    texts = [text.lower() for text in TEXTS] if network.fixed else TEXTS
    for given in (texts, texts[:1]):
        theirs = network.tokenizer(
            given, padding="max_length" if network.fixed else True, max_length=network.length, truncation=True
        )
        assert [made.ids for made in ours.encode_batch(given)] == theirs["input_ids"]


def test_a_tower_of_siglip_for_openvino(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    folder = tiny_duals.save("siglip 2", tmp_path / "model")
    truth = TrunkText(_models.ModelFolder.read(folder, name="model"))
    out = tmp_path / "out"
    out.mkdir()
    files = _textwriting.write(truth.network, "openvino", out)
    assert sorted(file.name for file in out.iterdir()) == ["text.bin", "text.xml", "tokenizer.json"]
    tower = GraphText(files)
    assert (tower.encode(TEXTS) * truth.encode(TEXTS)).sum(axis=1).min() >= 0.9999
    assert tower.encode([]).shape == (0, truth.encode(["a"]).shape[1])


def test_an_exported_encoder_of_texts_can_be_exported(clip: DualEncoder, exported: Path, tmp_path: Path) -> None:
    loaded = encoders.load(str(exported))
    export(loaded, tmp_path / "again")
    again = encoders.load(str(tmp_path / "again"))
    assert isinstance(again, DualEncoder)
    assert np.array_equal(again.encode_text(TEXTS), loaded.encode_text(TEXTS))
    pytest.importorskip("openvino")
    export(loaded, tmp_path / "openvino", format="openvino")
    other = encoders.load(str(tmp_path / "openvino"))
    assert isinstance(other, DualEncoder)
    assert (other.encode_text(TEXTS) * clip.encode_text(TEXTS)).sum(axis=1).min() >= 0.9999


def test_the_side_of_the_pictures_alone(exported: Path, tmp_path: Path) -> None:
    export(encoders.load(str(exported)), tmp_path / "pictures", text=False)
    alone = encoders.load(str(tmp_path / "pictures"))
    assert not hasattr(alone, "encode_text")
    assert sorted(file.name for file in (tmp_path / "pictures").iterdir()) == ["model.onnx", "pixdex.json"]


@pytest.mark.parametrize("name", ["tokenizer.json", "text.onnx"])
def test_files_that_are_not_what_they_were(name: str, copy: Path) -> None:
    """What texts need is looked at with the first text: pictures don't wait for it."""
    contents = bytearray((copy / name).read_bytes())
    contents[len(contents) // 2] ^= 1
    (copy / name).write_bytes(contents)
    encoder = encoders.load(str(copy))
    assert encoder.encode(list(tiny_models.photographs())).vectors.shape == (4, encoder.dim)
    with pytest.raises(ConfigError, match="was changed after it was exported"):
        encoder.encode_text(["a cat"])
    (copy / name).unlink()
    with pytest.raises(ConfigError, match=f"{name} is missing, export the encoder again"):
        encoder.encode_text(["a cat"])


def test_a_description_without_sense(copy: Path) -> None:
    file = copy / "pixdex.json"
    file.write_bytes(orjson.dumps(orjson.loads(file.read_bytes()) | {"text": {"graph": "text.onnx"}}))
    with pytest.raises(ConfigError, match="is not an exported encoder"):
        encoders.load(str(copy))


def test_the_library_of_tokenizers_is_named(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingDependency, match=r'pip install "pixdex\[onnx\]"'):
        encoders.load(str(exported)).encode_text(["a cat"])


def test_a_model_without_a_tokenizer_that_others_can_run(clip: DualEncoder, tmp_path: Path) -> None:
    """What has none is told so, before anything long begins."""
    assert isinstance(clip.text, TrunkText)
    slow = Network(tokenizer=object(), module=clip.text.network.module, fixed=False)
    with pytest.raises(ConfigError, match=r"runs in transformers only: put the tokenizer\.json"):
        _textwriting.write(slow, "onnx", tmp_path)
    bare = Path(shutil.copytree(clip.reference.removeprefix("hf:").partition("?")[0], tmp_path / "bare"))
    for file in bare.glob("tokenizer*"):
        file.unlink()
    encoder = encoders.load(str(bare))
    assert isinstance(encoder, ComposedEncoder)
    with pytest.raises(ConfigError, match=r"no tokenizer: copy tokenizer\.json"):
        export(encoder, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
