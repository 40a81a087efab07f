"""Heads: applied with numpy, saved with the encoder, part of its fingerprint, cut to what they were trained for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson
import pytest
import tiny_models

from pixdex import encoders
from pixdex.encoders.compose import ComposedEncoder
from pixdex.encoders.export import export
from pixdex.encoders.heads import Head, KernelHead, LinearHead, MLPHead
from pixdex.encoders.kernelmaps import ChiSquare, Kernel, Landmarks, Waves
from pixdex.encoders.tokens import unit
from pixdex.errors import ConfigError

DIM, WIDTH = 32, 12
PICTURES = list(tiny_models.photographs())


def arrays(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def linear(dim: int = WIDTH, *, into: int = DIM) -> LinearHead:
    return LinearHead(arrays(into, dim), arrays(dim) / 10, (4, 8))


def mlp() -> MLPHead:
    return MLPHead(arrays(DIM, WIDTH), arrays(WIDTH), arrays(DIM, 6), arrays(6), arrays(6, WIDTH), (4, 8))


def kernel() -> KernelHead:
    points = Landmarks(kernel=Kernel.POLYNOMIAL, points=arrays(5, DIM), mixing=arrays(5, 5), degree=2)
    return KernelHead(points, LinearHead(arrays(5, WIDTH), arrays(WIDTH), (4, 8)))


HEADS = {
    "linear": linear(),
    "mlp": mlp(),
    "landmarks": kernel(),
    "waves": KernelHead(Waves(weight=arrays(DIM, 7), phase=arrays(7))),
    "chi2": KernelHead(ChiSquare(width=DIM)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    return tiny_models.save("vit", tmp_path_factory.mktemp("vit") / "tiny")


@pytest.fixture(scope="module")
def frozen(folder: Path) -> ComposedEncoder:
    encoder = encoders.load(f"hf:{folder}?runtime=torch&tokens=4")
    assert isinstance(encoder, ComposedEncoder)
    return encoder


def vectors(encoder: ComposedEncoder) -> np.ndarray:
    return encoder.encode([encoder.prepare(picture) for picture in PICTURES]).vectors


@pytest.mark.parametrize("name", HEADS)
def test_a_saved_head_is_the_same(name: str, tmp_path: Path) -> None:
    head = HEADS[name]
    head.save(tmp_path)
    loaded = Head.load(tmp_path)
    rows = unit(arrays(3, DIM))
    assert type(loaded) is type(head)
    assert (loaded.digest(), loaded.prefixes, loaded.in_dim, loaded.dim) == (
        head.digest(),
        head.prefixes,
        DIM,
        head.dim,
    )
    assert loaded.apply(rows).dtype == np.float32
    assert np.array_equal(loaded.apply(rows), head.apply(rows))


def test_digests_tell_heads_apart() -> None:
    changed = LinearHead(linear().weight, linear().bias + 1)
    assert len({head.digest() for head in (*HEADS.values(), changed)}) == len(HEADS) + 1
    assert LinearHead(linear().weight, linear().bias).digest() == linear().digest()  # prefixes shape no vector


def test_an_mlp_is_what_torch_makes_of_it() -> None:
    torch = pytest.importorskip("torch")
    head, rows = mlp(), arrays(5, DIM)
    x, weight, inner, outer = map(torch.from_numpy, (rows, head.weight, head.inner, head.outer))
    hidden = torch.nn.functional.gelu(x @ inner + torch.from_numpy(head.inner_bias), approximate="tanh")
    expected = x @ weight + torch.from_numpy(head.bias) + hidden @ outer
    assert head.apply(rows) == pytest.approx(expected.numpy(), abs=1e-4)


@pytest.mark.parametrize("name", ["linear", "mlp", "landmarks"])
def test_a_prefix_is_the_first_values(name: str) -> None:
    head, rows = HEADS[name], unit(arrays(3, DIM))
    cut = head.first(8)
    assert (cut.dim, cut.prefixes) == (8, (4,))
    assert cut.apply(rows) == pytest.approx(head.apply(rows)[:, :8], abs=1e-5)
    assert head.first(WIDTH) is head
    with pytest.raises(ConfigError, match="4, 8, 12"):
        head.first(5)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="do not fit"):
        LinearHead(arrays(4, 3), arrays(4))
    with pytest.raises(ConfigError, match="NaN"):
        LinearHead(np.full((4, 3), np.nan, np.float32), arrays(3))
    with pytest.raises(ConfigError, match="not a head"):
        Head.load(tmp_path)


# --- behind a network ------------------------------------------------------------------------------------------------


def test_an_encoder_without_a_head_is_what_it_was(folder: Path, frozen: ComposedEncoder, tmp_path: Path) -> None:
    """Its fingerprint was written into collections: it must not change."""
    assert frozen.composition.vector_values()["head"] == "identity"
    frozen.save(tmp_path / "saved")
    document = orjson.loads((tmp_path / "saved" / "pixdex.json").read_bytes())
    assert document["version"] == 1
    assert "head" not in document


def test_a_head_is_applied_saved_and_part_of_the_fingerprint(frozen: ComposedEncoder, tmp_path: Path) -> None:
    headed = frozen.with_head(linear())
    assert vectors(headed) == pytest.approx(unit(linear().apply(vectors(frozen))), abs=1e-6)
    assert headed.dim == WIDTH
    assert headed.fingerprint.digest != frozen.fingerprint.digest
    assert headed.fingerprint.difference(frozen.fingerprint) == "config"
    headed.save(tmp_path / "saved")
    loaded = encoders.load(str(tmp_path / "saved"))
    assert loaded.fingerprint.digest == headed.fingerprint.digest
    assert isinstance(loaded, ComposedEncoder)
    assert vectors(loaded) == pytest.approx(vectors(headed), abs=1e-6)
    linear(WIDTH + 1).save(tmp_path / "saved")
    with pytest.raises(ConfigError, match="changed after it was saved"):
        encoders.load(str(tmp_path / "saved"))


def test_tokens_do_not_go_through_a_head(frozen: ComposedEncoder) -> None:
    headed = frozen.with_head(linear())
    prepared = [frozen.prepare(picture) for picture in PICTURES]
    before, after = frozen.encode(prepared, tokens=True).tokens, headed.encode(prepared, tokens=True).tokens
    assert headed.token_spec == frozen.token_spec
    assert before is not None
    assert after is not None
    assert all(np.array_equal(one, two) for one, two in zip(before, after, strict=True))


def test_the_first_values_of_a_saved_encoder(frozen: ComposedEncoder, tmp_path: Path) -> None:
    frozen.with_head(linear()).save(tmp_path / "saved")
    whole, cut = encoders.load(str(tmp_path / "saved")), encoders.load(f"{tmp_path / 'saved'}?dim=8")
    assert isinstance(whole, ComposedEncoder)
    assert isinstance(cut, ComposedEncoder)
    assert vectors(cut) == pytest.approx(unit(linear().first(8).apply(vectors(frozen))), abs=1e-6)
    assert cut.dim == 8
    assert cut.fingerprint.digest != whole.fingerprint.digest
    again = encoders.load(cut.reference)
    assert again.fingerprint.digest == cut.fingerprint.digest
    shorter = cut.first(4)
    assert encoders.load(shorter.reference).fingerprint.digest == shorter.fingerprint.digest
    with pytest.raises(ConfigError, match="4, 8, 12"):
        encoders.load(f"{tmp_path / 'saved'}?dim=7")


def test_dim_needs_a_head(folder: Path, frozen: ComposedEncoder, tmp_path: Path) -> None:
    frozen.save(tmp_path / "saved")
    for reference in (f"{tmp_path / 'saved'}?dim=8", f"hf:{folder}?dim=8"):
        with pytest.raises(ConfigError, match="pixdex train head"):
            encoders.load(reference)


def test_an_exported_encoder_keeps_its_head(frozen: ComposedEncoder, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    headed = frozen.with_head(linear())
    export(headed, tmp_path / "onnx")
    loaded = encoders.load(f"{tmp_path / 'onnx'}?runtime=onnx")
    assert isinstance(loaded, ComposedEncoder)
    assert loaded.fingerprint.digest == headed.fingerprint.digest
    assert vectors(loaded) == pytest.approx(vectors(headed), abs=1e-3)
    assert encoders.load(f"{tmp_path / 'onnx'}?dim=4&runtime=onnx").dim == 4


def test_class_token_and_average_side_by_side(folder: Path) -> None:
    both, one, two = (encoders.load(f"hf:{folder}?pooling={name}") for name in ("cls_mean", "cls", "mean"))
    assert isinstance(both, ComposedEncoder)
    assert isinstance(one, ComposedEncoder)
    assert isinstance(two, ComposedEncoder)
    assert both.dim == 2 * DIM
    assert vectors(both) == pytest.approx(np.hstack([vectors(one), vectors(two)]) / np.sqrt(2), abs=1e-6)
    assert both.token_spec is not None  # chosen by the class token
    with pytest.raises(ConfigError, match="takes vectors of 32"):
        both.with_head(linear())
