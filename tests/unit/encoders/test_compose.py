from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import orjson
import pytest

from pixdex import encoders
from pixdex.encoders.port import Encoder
from pixdex.errors import AlreadyExists, ConfigError, MissingDependency, Unsupported
from pixdex.spec import Metric

RNG = np.random.default_rng(11)
PREPROCESSOR = {
    "do_resize": True, "do_rescale": True, "do_normalize": True, "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5], "resample": 3, "rescale_factor": 1 / 255, "size": {"height": 32, "width": 32},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference: these tests compare with the library's own figures."""
    monkeypatch.setenv("PIXDEX_RUNTIME", "torch")


@pytest.fixture(scope="session")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ViT with random weights, saved as transformers saves it."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=48, image_size=32, patch_size=8,
        num_labels=3,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("models") / "tiny-vit"
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_bytes(orjson.dumps(PREPROCESSOR))
    return folder


@pytest.fixture(scope="session")
def cnn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ResNet with random weights."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    folder = tmp_path_factory.mktemp("models") / "tiny-cnn"
    transformers.ResNetModel(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_bytes(orjson.dumps(PREPROCESSOR))
    return folder


def pictures(count: int, height: int = 40, width: int = 50) -> list[np.ndarray]:
    return list(RNG.integers(0, 256, (count, height, width, 3), dtype=np.uint8))


def encode(encoder: Encoder, images: list[np.ndarray], *, tokens: bool = False):
    return encoder.encode([encoder.prepare(p) for p in images], tokens=tokens)


def test_a_vit_is_an_encoder(vit: Path) -> None:
    encoder = encoders.load(f"hf:{vit}?tokens=5")
    assert isinstance(encoder, Encoder)
    assert (encoder.name, encoder.dim, encoder.metric) == ("tiny-vit", 24, Metric.COSINE)
    assert encoder.reference == f"hf:{vit}?pooling=cls&tokens=5"
    assert set(encoder.fingerprint.parts) == {"config", "weights", "preprocessing"}
    assert encoder.token_spec is not None
    assert (encoder.token_spec.count, encoder.token_spec.dim, encoder.token_spec.dtype) == (5, 24, "int8")
    features = encode(encoder, pictures(3), tokens=True)
    assert features.vectors.dtype == np.float32
    assert np.linalg.norm(features.vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert features.tokens is not None
    assert [(t.shape, t.dtype) for t in features.tokens] == [((5, 24), np.int8)] * 3


def test_vectors_are_those_of_the_library(vit: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from pixdex.encoders.preprocess import Preprocess

    images = pictures(2)
    preprocess = Preprocess.from_transformers(PREPROCESSOR)
    batch = torch.from_numpy(np.stack([preprocess.apply(p) for p in images]))
    with torch.inference_mode():
        state = transformers.ViTForImageClassification.from_pretrained(vit).vit(batch).last_hidden_state.numpy()
    for pooling, expected in (("cls", state[:, 0]), ("mean", state[:, 1:].mean(axis=1))):
        ours = encode(encoders.load(f"hf:{vit}?pooling={pooling}"), images).vectors
        assert ours == pytest.approx(expected / np.linalg.norm(expected, axis=1, keepdims=True), abs=1e-5)


def test_a_cnn_is_pooled_by_its_mean(cnn: Path) -> None:
    encoder = encoders.load(str(cnn))
    assert encoder.reference.endswith("?pooling=mean&tokens=16")
    gem = encoders.load(f"hf:{cnn}?pooling=gem&p=2.5")
    assert gem.reference.endswith("?pooling=gem&p=2.5&tokens=16")
    images = pictures(2)
    assert not np.allclose(encode(encoder, images).vectors, encode(gem, images).vectors)
    assert encoder.fingerprint.difference(gem.fingerprint) == "config"
    with pytest.raises(ConfigError, match="no class token"):
        encoders.load(f"hf:{cnn}?pooling=cls")


def test_more_tokens_than_cells_means_all(vit: Path) -> None:
    encoder = encoders.load(f"hf:{vit}?tokens=999")
    assert encoder.token_spec is not None
    assert encoder.token_spec.count == 16
    assert encoder.reference.endswith("tokens=16")


def test_without_tokens(vit: Path) -> None:
    encoder = encoders.load(f"hf:{vit}?tokens=0")
    assert encoder.token_spec is None
    assert encode(encoder, pictures(1)).tokens is None
    with pytest.raises(Unsupported, match="tokens=64"):
        encode(encoder, pictures(1), tokens=True)


def test_tokens_within_a_budget_of_bytes(vit: Path) -> None:
    for query, count in [
        ("token_bytes=100", 4),
        ("token_bytes=100&tokens=3", 3),
        ("token_bytes=100&tokens=9", 4),
        ("token_bytes=9999", 16),
    ]:
        encoder = encoders.load(f"hf:{vit}?{query}")
        assert encoder.token_spec is not None
        assert encoder.token_spec.count == count
        assert encoder.token_spec.max_bytes == 24 * count
        assert encoder.reference == f"hf:{vit}?pooling=cls&tokens={count}"
    with pytest.raises(ConfigError, match="less than one token, 24 bytes"):
        encoders.load(f"hf:{vit}?token_bytes=23")


def test_tokens_of_bits(vit: Path, cnn: Path, tmp_path: Path) -> None:
    """An eighth of the bytes, or eight times the tokens; another identity, and none of older versions."""
    from pixdex.rerankers.maxsim import MaxSim
    from pixdex.rerankers.port import Candidate, Query

    plain = encoders.load(f"hf:{vit}?token_bytes=240")
    encoder = encoders.load(f"hf:{vit}?token_dtype=bits&token_bytes=30")
    assert encoder.token_spec is not None
    assert plain.token_spec is not None
    assert (encoder.token_spec.count, encoder.token_spec.dim, encoder.token_spec.dtype) == (10, 24, "bits")
    assert encoder.token_spec.max_bytes == 30
    assert encoder.fingerprint == plain.fingerprint
    assert encoder.token_spec.fingerprint.difference(plain.token_spec.fingerprint) == "config"
    assert encoder.reference == f"hf:{vit}?pooling=cls&tokens=10&token_dtype=bits"
    with pytest.raises(ConfigError, match="less than one token, 3 bytes"):
        encoders.load(f"hf:{vit}?token_dtype=bits&token_bytes=2")
    images = pictures(6)
    made, whole = encode(encoder, images, tokens=True), encode(plain, images, tokens=True)
    assert made.tokens is not None
    assert whole.tokens is not None
    for bits, values in zip(made.tokens, whole.tokens, strict=True):
        assert bits.dtype == np.uint8
        kept = values != 0  # what int8 rounds to zero has a sign still
        assert np.array_equal(np.unpackbits(bits, axis=1)[kept], values[kept] > 0)
    query = Query(made.vectors[2], made.tokens[2])
    scores = MaxSim().rerank(query, [Candidate(str(i), 0.0, t) for i, t in enumerate(made.tokens)])
    assert int(scores.argmax()) == 2
    assert scores[2] == pytest.approx(1, abs=1e-6)
    encoder.save(tmp_path / "saved")
    assert orjson.loads((tmp_path / "saved" / "pixdex.json").read_bytes())["version"] == 3
    for again in (encoders.load(encoder.reference), encoders.load(str(tmp_path / "saved"))):
        assert again.token_spec == encoder.token_spec
        assert all(map(np.array_equal, encode(again, images, tokens=True).tokens or (), made.tokens))


@pytest.mark.parametrize("pooling", ["cls", "mean", "own"])
def test_the_choice_of_tokens_is_part_of_their_identity(vit: Path, cnn: Path, pooling: str) -> None:
    folder = cnn if pooling == "own" else vit
    images = pictures(2)
    made = {
        by: encoders.load(f"hf:{folder}?pooling={pooling}&tokens=5&token_by={by}") for by in ("diverse", "cls", "norm")
    }
    assert len({encoder.fingerprint.digest for encoder in made.values()}) == 1
    assert len({encoder.token_spec.fingerprint.digest for encoder in made.values() if encoder.token_spec}) == 3
    assert made["norm"].reference.endswith("&tokens=5&token_by=norm")
    assert made["diverse"].reference.endswith("&tokens=5")
    tokens = {by: encode(encoder, images, tokens=True).tokens for by, encoder in made.items()}
    assert all(t.shape[0] == 5 for each in tokens.values() for t in each)
    assert not np.array_equal(tokens["cls"][0], tokens["norm"][0])
    assert not np.array_equal(tokens["cls"][0], tokens["diverse"][0])


def test_projected_tokens(vit: Path, tmp_path: Path) -> None:
    from pixdex.encoders.tokens import fit_projection

    images = pictures(4)
    plain = encoders.load(f"hf:{vit}?tokens=16")
    cells = plain.trunk.forward(np.stack([plain.prepare(p) for p in images])).cells
    file = tmp_path / "a projection.safetensors"
    fit_projection(cells, 12).save(file)
    encoder = encoders.load(f"hf:{vit}?token_projection={file}&token_dim=8&token_bytes=64")
    assert encoder.token_spec is not None
    assert (encoder.token_spec.count, encoder.token_spec.dim, encoder.token_spec.max_bytes) == (8, 8, 64)
    assert encoder.fingerprint == plain.fingerprint
    ours = encode(encoder, images, tokens=True)
    assert [(t.shape, t.dtype) for t in ours.tokens or ()] == [((8, 8), np.int8)] * 4
    again = encoders.load(encoder.reference)
    assert again.token_spec == encoder.token_spec
    encoder.save(tmp_path / "saved")
    file.unlink()
    loaded = encoders.load(str(tmp_path / "saved"))
    assert loaded.token_spec == encoder.token_spec
    for other in (again, loaded):
        theirs = encode(other, images, tokens=True)
        assert all(np.array_equal(a, b) for a, b in zip(ours.tokens or (), theirs.tokens or (), strict=True))
    with pytest.raises(ConfigError, match="not a projection"):
        encoders.load(encoder.reference)
    fit_projection(cells[..., :20], 4).save(file)
    with pytest.raises(ConfigError, match="20 values"):
        encoders.load(f"hf:{vit}?token_projection={file}")


def test_the_runtime_is_no_part_of_an_encoder(vit: Path, tmp_path: Path) -> None:
    plain, chosen = encoders.load(str(vit)), encoders.load(f"hf:{vit}?runtime=torch")
    assert chosen.reference == plain.reference
    assert chosen.fingerprint == plain.fingerprint
    assert chosen.to_json() == plain.to_json()
    plain.save(tmp_path / "saved")
    saved = encoders.load(f"{tmp_path / 'saved'}?runtime=torch")
    assert saved.reference == str(tmp_path / "saved")
    images = pictures(2)
    assert np.array_equal(encode(saved, images).vectors, encode(chosen, images).vectors)
    for reference in (f"hf:{vit}?runtime=warp", f"{tmp_path / 'saved'}?runtime=warp"):
        with pytest.raises(ConfigError, match="no runtime 'warp'"):
            encoders.load(reference)


def test_how_much_of_a_picture_an_encoder_needs(vit: Path, cnn: Path, tmp_path: Path) -> None:
    assert encoders.load(str(vit)).min_side == 64
    edged = tmp_path / "edged"
    copy(cnn, edged)
    values = {**PREPROCESSOR, "size": {"shortest_edge": 40}, "do_center_crop": True, "crop_size": 32}
    (edged / "preprocessor_config.json").write_bytes(orjson.dumps(values))
    assert encoders.load(str(edged)).min_side == 80
    (edged / "preprocessor_config.json").write_bytes(orjson.dumps({**values, "do_resize": False}))
    assert encoders.load(str(edged)).min_side is None


def test_the_fingerprint_tells_what_shapes_a_vector(vit: Path, tmp_path: Path) -> None:
    base = encoders.load(f"hf:{vit}")
    assert encoders.load(base.reference).fingerprint == base.fingerprint
    fewer = encoders.load(f"hf:{vit}?tokens=3")
    assert fewer.fingerprint.digest == base.fingerprint.digest
    assert fewer.token_spec is not None
    assert base.token_spec is not None
    assert fewer.token_spec.fingerprint.difference(base.token_spec.fingerprint) == "config"
    assert encoders.load(f"hf:{vit}?pooling=mean").fingerprint.difference(base.fingerprint) == "config"
    other = tmp_path / "tiny-vit"
    copy(vit, other)
    assert encoders.load(str(other)).fingerprint.digest == base.fingerprint.digest
    (other / "preprocessor_config.json").write_bytes(orjson.dumps({**PREPROCESSOR, "resample": 2}))
    assert encoders.load(str(other)).fingerprint.difference(base.fingerprint) == "preprocessing"
    change_a_weight(other / "model.safetensors")
    assert set(encoders.load(str(other)).fingerprint.difference(base.fingerprint).split(", ")) == {
        "weights",
        "preprocessing",
    }


def copy(source: Path, target: Path) -> None:
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())


def change_a_weight(file: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(file)
    name = next(n for n in sorted(tensors) if "layernorm" in n and n.startswith("vit"))
    tensors[name] = tensors[name] + np.float32(0.001)
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize("kind", ["vit", "cnn"])
def test_a_saved_encoder_is_the_same_encoder(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    original = encoders.load(f"hf:{request.getfixturevalue(kind)}?pooling=gem&p=2&tokens=4")
    folder = tmp_path / "saved"
    original.save(folder)
    moved = tmp_path / "elsewhere"
    folder.rename(moved)
    images = pictures(2)
    for reference in (str(moved), f"hf:{moved}"):
        loaded = encoders.load(reference)
        assert loaded.fingerprint == original.fingerprint
        assert loaded.token_spec == original.token_spec
        assert loaded.name == original.name
        assert loaded.reference == str(moved)
        ours, theirs = encode(loaded, images, tokens=True), encode(original, images, tokens=True)
        assert np.array_equal(ours.vectors, theirs.vectors)
        assert all(np.array_equal(a, b) for a, b in zip(ours.tokens, theirs.tokens, strict=True))
    with pytest.raises(AlreadyExists):
        original.save(moved)
    with pytest.raises(ConfigError, match="takes no options"):
        encoders.load(f"hf:{moved}?pooling=mean")


def test_a_tampered_save_is_refused(vit: Path, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    encoders.load(str(vit)).save(folder)
    file = folder / "pixdex.json"
    document = orjson.loads(file.read_bytes())
    for change, reason in [
        ({"pooling": "mean"}, "changed"),
        ({"version": 99}, "newer pixdex"),
        ({"pooling": "max"}, "cls, mean, gem, own"),
    ]:
        file.write_bytes(orjson.dumps({**document, **change}))
        with pytest.raises(ConfigError, match=reason):
            encoders.load(str(folder))
    file.write_bytes(orjson.dumps({"version": 1}))
    with pytest.raises(ConfigError, match="lacks"):
        encoders.load(str(folder))
    file.write_text("{")
    with pytest.raises(ConfigError, match="not a saved encoder"):
        encoders.load(str(folder))


def test_folders_that_are_no_model(vit: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ConfigError, match=r"no config\.json"):
        encoders.load(str(empty))
    with pytest.raises(ConfigError, match="no such folder"):
        encoders.load(f"hf:{tmp_path / 'absent'}")
    pickled = tmp_path / "pickled"
    copy(vit, pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="only pickled weights"):
        encoders.load(str(pickled))
    unknown = tmp_path / "unknown"
    copy(vit, unknown)
    (unknown / "preprocessor_config.json").unlink()
    with pytest.raises(ConfigError, match=r"no preprocessor_config\.json"):
        encoders.load(str(unknown))
    (unknown / "config.json").write_text("[]")
    with pytest.raises(ConfigError, match="model_type"):
        encoders.load(str(unknown))
    broken = tmp_path / "broken"
    copy(vit, broken)
    (broken / "model.safetensors").write_bytes((broken / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(ConfigError, match="cannot be loaded"):
        encoders.load(str(broken))


def test_where_a_folder_says_what_its_input_looks_like(vit: Path, tmp_path: Path) -> None:
    """In a file of its own, or in that of a processor for pictures and texts; there the part for pictures counts."""
    folder = tmp_path / "model"
    copy(vit, folder)
    expected = encoders.load(str(vit)).fingerprint.parts["preprocessing"]
    (folder / "processor_config.json").write_bytes(orjson.dumps({"processor_class": "CLIPProcessor"}))
    assert encoders.load(str(folder)).fingerprint.parts["preprocessing"] == expected
    (folder / "preprocessor_config.json").write_bytes(orjson.dumps({**PREPROCESSOR, "resample": 2}))
    nested = {"processor_class": "CLIPProcessor", "image_processor": PREPROCESSOR}
    (folder / "processor_config.json").write_bytes(orjson.dumps(nested))
    assert encoders.load(str(folder)).fingerprint.parts["preprocessing"] == expected
    (folder / "preprocessor_config.json").unlink()
    assert encoders.load(str(folder)).fingerprint.parts["preprocessing"] == expected
    for content in (b"{", b"[]"):
        (folder / "processor_config.json").write_bytes(content)
        with pytest.raises(ConfigError, match=r"processor_config\.json is not JSON of a preprocessor"):
            encoders.load(str(folder))
    (folder / "processor_config.json").write_bytes(b"{}")
    with pytest.raises(ConfigError, match=r"no preprocessor_config\.json"):
        encoders.load(str(folder))


def test_weights_that_do_not_fit_are_not_made_up(vit: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    partial = tmp_path / "partial"
    copy(vit, partial)
    tensors = load_file(partial / "model.safetensors")
    dropped = next(name for name in tensors if name.endswith("layernorm.weight"))
    save_file(
        {n: t for n, t in tensors.items() if n != dropped}, partial / "model.safetensors", metadata={"format": "pt"}
    )
    with pytest.raises(ConfigError, match="layernorm"):
        encoders.load(str(partial))


@pytest.mark.parametrize(
    "options",
    [
        "color=1",
        "p=3",
        "pooling=max",
        "tokens=many",
        "tokens=-1",
        "pooling=gem&p=0",
        "token_dim=4",
        "token_by=chance",
        "token_bytes=some",
        "token_projection=absent",
        "pooling=own",
    ],
)
def test_options_without_a_meaning_are_refused(vit: Path, options: str) -> None:
    with pytest.raises(ConfigError):
        encoders.load(f"hf:{vit}?{options}")


def test_a_hub_name_offline_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE"):
        encoders.load("hf:nobody/no-such-model")


def test_a_folder_never_touches_the_network(vit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert encode(encoders.load(str(vit)), pictures(1)).vectors.shape == (1, 24)


def test_without_torch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, vit: Path) -> None:
    for package in ("torch", "transformers"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            with pytest.raises(MissingDependency, match=r'pip install "pixdex\[torch\]"'):
                encoders.load(str(vit))


def test_loading_says_nothing(vit: Path, capfd: pytest.CaptureFixture[str]) -> None:
    encoders.load(str(vit))
    assert capfd.readouterr() == ("", "")


def test_batches_do_not_change_vectors(vit: Path) -> None:
    encoder = encoders.load(str(vit))
    images = pictures(2 * encoder.batch_size + 3)
    together = encode(encoder, images).vectors
    for row in (0, encoder.batch_size, len(images) - 1):
        assert encode(encoder, [images[row]]).vectors[0] == pytest.approx(together[row], abs=1e-5)
    empty = encode(encoder, [], tokens=True)
    assert empty.vectors.shape == (0, 24)
    assert empty.tokens == ()


def test_names() -> None:
    assert {"classic", "hf"} <= set(encoders.available())
    assert encoders.load("classic").name == "classic"
    with pytest.raises(ConfigError, match="did you mean 'classic'"):
        encoders.load("clasic")
    with pytest.raises(ConfigError, match="no folder or encoder"):
        encoders.load("/no/such/folder")


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        (
            "pixdex.encoders, pixdex.rerankers, pixdex.encoders.port",
            ("torch", "transformers", "PIL", "faiss", "simplejpeg"),
        ),
        (  # an exported encoder is composed without them
            "pixdex.encoders.compose, pixdex.encoders.text",
            ("torch", "transformers", "huggingface_hub", "safetensors", "onnxruntime", "openvino", "faiss"),
        ),
    ],
)
def test_importing_encoders_loads_no_library(modules: str, absent: tuple[str, ...]) -> None:
    code = f"import sys, {modules}; print([m for m in {absent!r} if m in sys.modules])"
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["vit-tiny-16-224", "mobilenet-v2-imagenet", "mobilenet-v2-backbone"])
def test_real_weights_load(name: str, shared: Path) -> None:
    pytest.importorskip("torch")
    folder = shared / "models" / name
    if not folder.is_dir():
        pytest.skip(f"no {name} in shared/models")
    encoder = encoders.load(str(folder))
    assert encoder.dim == (192 if name.startswith("vit") else 1280)
    assert encoder.reference.startswith(f"hf:{folder}?pooling={'cls' if name.startswith('vit') else 'mean'}")


def test_copies_are_found_by_vit_tiny(copies_figures, shared: Path) -> None:
    """The measured figures with a little room: R@1 .91, mAP .817; MaxSim over 64 int8 tokens R@1 .98, mAP .957."""
    pytest.importorskip("torch")
    first, reranked = copies_figures(encoders.load(f"{shared / 'models' / 'vit-tiny-16-224'}?runtime=torch"))
    assert first.recall_at_1 == pytest.approx(0.91, abs=0.015)
    assert first.mean_average_precision == pytest.approx(0.8165, abs=0.005)
    assert reranked.recall_at_1 >= 0.97
    assert reranked.mean_average_precision >= 0.95


def test_no_picture_is_lost_when_the_size_of_batches_changes(vit: Path) -> None:
    """As when ``auto`` has chosen another runtime."""
    from pixdex.encoders.backbones import Activations, Trunk
    from pixdex.encoders.compose import ComposedEncoder, Composition
    from pixdex.encoders.pooling import Pooling

    class Switching(Trunk):
        calls = 0

        @property
        def batch_size(self) -> int:
            return 3 if self.calls else 8

        def forward(self, batch: np.ndarray) -> Activations:
            self.calls += 1
            return super().forward(batch)

    trunk = Switching.load(vit, runtime="torch")
    encoder = ComposedEncoder.on(trunk, Composition(pooling=Pooling.CLS, tokens=0), name="n", reference="r")
    pictures = list(RNG.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8))
    one_by_one = np.concatenate([encoder.encode([picture]).vectors for picture in pictures])
    trunk.calls = 0
    assert encoder.encode(pictures).vectors == pytest.approx(one_by_one, abs=1e-5)
