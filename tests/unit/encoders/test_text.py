"""Dual encoders, tiny and random, with tiny tokenizers, through the real loading code: texts and pictures meet as in
transformers' own model.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import tiny_duals

from pixdex import encoders
from pixdex.encoders.port import TextEncoder
from pixdex.errors import ConfigError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TEXTS = ["a cat", "Two  DOGS on a beach", "", "cat " * 40, "a photo of a b, c and d!"]


@pytest.fixture(autouse=True)
def _runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference: these tests compare with the library's own figures."""
    monkeypatch.setenv("PIXDEX_RUNTIME", "torch")


@pytest.fixture(scope="module", params=tiny_duals.KINDS)
def dual(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A kind, and a folder with such a model."""
    return request.param, tiny_duals.save(
        request.param, tmp_path_factory.mktemp("duals") / request.param.replace(" ", "-")
    )


def _theirs(kind: str, folder: Path) -> np.ndarray:
    """The library's way, as its documentation shows it for each."""
    texts = TEXTS if kind == "clip" else [text.lower() for text in TEXTS]  # as Siglip2Tokenizer does; Gemma's doesn't
    loader = transformers.PreTrainedTokenizerFast if kind == "siglip" else transformers.AutoTokenizer
    tokenizer = loader.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    if kind == "clip":
        given = tokenizer(texts, padding=True, truncation=True, max_length=12, return_tensors="pt")
    else:
        made = tokenizer(texts, padding="max_length", truncation=True, max_length=16, return_tensors="pt")
        given = {"input_ids": made["input_ids"]}
    with torch.inference_mode():
        vectors = model.get_text_features(**given).pooler_output.numpy()
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_texts_are_those_of_the_library(dual: tuple[str, Path]) -> None:
    kind, folder = dual
    encoder = encoders.load(str(folder))
    assert isinstance(encoder, TextEncoder)
    ours, theirs = encoder.encode_text(TEXTS), _theirs(kind, folder)
    assert ours.dtype == np.float32
    assert ours.shape == (len(TEXTS), encoder.dim)
    assert np.sum(ours * theirs, axis=1).min() >= 0.99999
    assert (theirs @ theirs.T)[~np.eye(len(theirs), dtype=bool)].max() < 0.999


def _pictures() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)


def _vectors(encoder: Any) -> np.ndarray:
    return encoder.encode([encoder.prepare(picture) for picture in _pictures()]).vectors


def test_a_picture_is_as_near_to_a_text_as_the_model_says(dual: tuple[str, Path]) -> None:
    kind, folder = dual
    encoder = encoders.load(str(folder))
    texts = ["a cat", "dogs"]
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    pixels = torch.from_numpy(encoder.trunk.preprocess.normalize(_pictures()))
    with torch.inference_mode():
        pictures = model.get_image_features(pixel_values=pixels).pooler_output
    expected = torch.nn.functional.normalize(pictures).numpy() @ encoder.encode_text(texts).T
    assert _vectors(encoder) @ encoder.encode_text(texts).T == pytest.approx(expected, abs=1e-5)
    loader = transformers.PreTrainedTokenizerFast if kind == "siglip" else transformers.AutoTokenizer
    padding = {"padding": True} if kind == "clip" else {"padding": "max_length", "max_length": 16}
    given = loader.from_pretrained(folder)(texts, return_tensors="pt", **padding)
    given = {name: given[name] for name in (("input_ids", "attention_mask") if kind == "clip" else ("input_ids",))}
    with torch.inference_mode():
        output = model(pixel_values=pixels, **given)
        logits = (output.logits_per_image - (model.logit_bias if kind != "clip" else 0)) / model.logit_scale.exp()
    assert _vectors(encoder) @ encoder.encode_text(texts).T == pytest.approx(logits.numpy(), abs=1e-5)


def test_the_tower_for_texts_waits_until_it_is_asked(dual: tuple[str, Path], tmp_path: Path) -> None:
    """Pictures need neither its weights nor a tokenizer."""
    from safetensors.numpy import load_file, save_file

    _, folder = dual
    whole = encoders.load(str(folder))
    without = tmp_path / "without"
    without.mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        (without / name).write_bytes((folder / name).read_bytes())
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("text_")}
    assert len(kept) < len(tensors)
    save_file(kept, without / "model.safetensors", metadata={"format": "pt"})
    encoder = encoders.load(str(without))
    assert encoder.fingerprint.digest == whole.fingerprint.digest
    assert np.array_equal(_vectors(encoder), _vectors(whole))
    with pytest.raises(ConfigError, match=r"no tokenizer: copy tokenizer\.json"):
        encoder.encode_text(["a cat"])
    for file in folder.glob("tokenizer*"):
        (without / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ConfigError, match="weights and config.json don't fit"):
        encoders.load(str(without)).encode_text(["a cat"])


def test_a_saved_dual_encoder_reads_texts_too(dual: tuple[str, Path], tmp_path: Path) -> None:
    _, folder = dual
    original = encoders.load(str(folder))
    original.save(tmp_path / "saved")
    loaded = encoders.load(str(tmp_path / "saved"))
    assert isinstance(loaded, TextEncoder)
    assert loaded.fingerprint == original.fingerprint
    assert np.array_equal(loaded.encode_text(TEXTS), original.encode_text(TEXTS))
    assert np.array_equal(_vectors(loaded), _vectors(original))


def test_another_pooling_has_no_texts(dual: tuple[str, Path]) -> None:
    """Its vectors lie in another space than the texts."""
    encoder = encoders.load(f"hf:{dual[1]}?pooling=mean")
    assert not isinstance(encoder, TextEncoder)
    assert not isinstance(encoders.load("classic"), TextEncoder)


def test_odd_lists_of_texts(dual: tuple[str, Path]) -> None:
    encoder = encoders.load(str(dual[1]))
    assert encoder.encode_text([]).shape == (0, encoder.dim)
    with pytest.raises(ConfigError, match=r"not one string: \['a cat'\]"):
        encoder.encode_text("a cat")
    many = encoder.encode_text(["a cat", *(f"dog {'x' * i}" for i in range(150)), "a cat"])
    assert many[0] == pytest.approx(many[-1], abs=1e-5)
    assert many[0] == pytest.approx(encoder.encode_text(["a cat"])[0], abs=1e-5)


def test_texts_never_touch_the_network(dual: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert encoders.load(str(dual[1])).encode_text(["a cat"]).shape[0] == 1


def test_a_tokenizer_that_cannot_be_read(dual: tuple[str, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in dual[1].iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigError, match="tokenizer of .*broken"):
        encoders.load(str(broken)).encode_text(["a cat"])


def test_a_folder_of_sentence_transformers(tmp_path: Path) -> None:
    """It keeps the model in a folder of its own, which ``modules.json`` names."""
    folder = tmp_path / "st-clip"
    inner = tiny_duals.save("clip", folder / "0_CLIPModel")
    module = {"idx": 0, "name": "0", "path": "0_CLIPModel", "type": "sentence_transformers.models.CLIPModel"}
    (folder / "modules.json").write_bytes(orjson.dumps([module]))
    (folder / "config_sentence_transformers.json").write_text("{}")
    encoder, plain = encoders.load(str(folder)), encoders.load(str(inner))
    assert encoder.name == "st-clip"
    assert encoder.reference == f"hf:{folder}?pooling=own&tokens=16"
    assert encoder.fingerprint.digest == plain.fingerprint.digest
    assert np.array_equal(_vectors(encoder), _vectors(plain))
    assert np.array_equal(encoder.encode_text(TEXTS), plain.encode_text(TEXTS))
    encoder.save(tmp_path / "saved")
    assert np.array_equal(encoders.load(str(tmp_path / "saved")).encode_text(TEXTS), plain.encode_text(TEXTS))
    for modules, reason in [
        ([], r"modules\.json does not name"),
        ([{**module, "path": "../other"}], r"within: \.\./other"),
        ([module, {"path": "1_Dense", "type": "sentence_transformers.models.Dense"}], "module Dense"),
    ]:
        (folder / "modules.json").write_bytes(orjson.dumps(modules))
        with pytest.raises(ConfigError, match=reason):
            encoders.load(str(folder))
