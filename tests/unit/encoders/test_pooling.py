from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pixdex.encoders.pooling import Pooling, as_tokens, gem_pool, mean_pool
from pixdex.encoders.tokens import Choice, Coding, Projection, fit_projection, pack_signs, quantize, select, unit
from pixdex.errors import ConfigError

RNG = np.random.default_rng(3)
MAP = RNG.uniform(0.1, 2, (2, 5, 3, 4)).astype(np.float32)


def test_feature_maps_and_token_sequences_pool_alike() -> None:
    tokens = as_tokens(MAP)
    assert tokens.shape == (2, 12, 5)
    assert np.array_equal(tokens[1, 4 + 2], MAP[1, :, 1, 2])
    assert as_tokens(tokens) is tokens
    assert mean_pool(MAP) == pytest.approx(MAP.mean(axis=(2, 3)), abs=1e-6)
    assert mean_pool(tokens) == pytest.approx(mean_pool(MAP), abs=1e-6)
    assert gem_pool(tokens) == pytest.approx(gem_pool(MAP), abs=1e-6)


def test_the_generalized_mean_lies_between_mean_and_maximum() -> None:
    assert gem_pool(MAP, 1) == pytest.approx(mean_pool(MAP), abs=1e-5)
    assert gem_pool(MAP, 3) == pytest.approx((MAP.astype(float) ** 3).mean(axis=(2, 3)) ** (1 / 3), abs=1e-5)
    assert gem_pool(MAP, 60) == pytest.approx(MAP.max(axis=(2, 3)), rel=0.06)
    assert np.isfinite(gem_pool(-MAP)).all()
    with pytest.raises(ConfigError, match="positive"):
        gem_pool(MAP, 0)


def test_poolings_have_names() -> None:
    assert Pooling.named("gem") is Pooling.GEM
    with pytest.raises(ConfigError, match="cls, mean, gem, own"):
        Pooling.named("max")


def test_select_prefers_what_differs() -> None:
    sky, tree, sun = np.eye(3, 8, dtype=np.float32)
    cells = np.stack([sky, sky, tree, sky, sky, sun, sky])[None]
    chosen = select(cells, unit(cells.mean(axis=1)), 3)[0]
    assert np.array_equal(chosen, [sky, tree, sun])
    assert select(cells, cells[:, 0], 99) is cells


def test_select_never_takes_a_cell_twice() -> None:
    parallel = np.arange(1, 7, dtype=np.float32)[:, None] * np.ones(4, dtype=np.float32)
    chosen = select(np.stack([parallel, parallel]), unit(parallel[:2]), 5)
    assert len(set(chosen[0, :, 0])) == 5
    assert len(set(chosen[1, :, 0])) == 5


def test_select_is_the_same_for_a_picture_alone_and_in_a_batch() -> None:
    cells = RNG.normal(size=(5, 30, 8)).astype(np.float32)
    pooled = unit(cells.mean(axis=1))
    together = select(cells, pooled, 7)
    for row in range(5):
        assert np.array_equal(select(cells[row : row + 1], pooled[row : row + 1], 7)[0], together[row])


def test_select_by_likeness_and_by_length() -> None:
    cells = np.array([[[3, 0], [1, 1], [0, 5], [9, 9.5], [0, 0]]], dtype=np.float32)
    guide = unit(np.array([[1.0, 0.9]], dtype=np.float32))
    assert np.array_equal(select(cells, guide, 2, Choice.CLS)[0], [[1, 1], [9, 9.5]])
    assert np.array_equal(select(cells, guide, 2, Choice.NORM)[0], [[0, 5], [9, 9.5]])
    assert np.array_equal(select(cells, guide, 3, Choice.NORM)[0], [[3, 0], [0, 5], [9, 9.5]])
    with pytest.raises(ConfigError, match="diverse, cls, norm"):
        Choice.named("attention")


def test_a_projection_keeps_what_varies_most(tmp_path: Path) -> None:
    """Of descriptors on a plane, two components keep every angle about the mean; a third adds nothing."""
    plane, _ = np.linalg.qr(RNG.normal(size=(20, 2)))
    angles = RNG.uniform(0, 2 * np.pi, (3, 50))
    cells = (np.stack([np.cos(angles), np.sin(angles)], axis=-1) @ plane.T * RNG.uniform(1, 9, (3, 50, 1))).astype("f4")
    fitted = fit_projection(cells, 3)
    made = fitted.apply(cells)
    assert made.shape == (3, 50, 3)
    assert made.dtype == np.float32
    centred = unit(cells) - fitted.mean
    assert made[..., :2] @ made[0, 0, :2] == pytest.approx(centred @ centred[0, 0], abs=1e-5)
    assert np.abs(made[..., 2]).max() < 1e-5
    spread = made.reshape(-1, 3).var(axis=0)
    assert spread[0] >= spread[1] >= spread[2]
    assert np.array_equal(fitted.first(2).apply(cells), made[..., :2])
    fitted.save(tmp_path / "p.safetensors")
    again = Projection.load(tmp_path / "p.safetensors")
    assert again.digest() == fitted.digest()
    assert again.digest() != fitted.first(2).digest()
    assert np.array_equal(fit_projection(cells[::-1], 2).apply(cells) > 0, made[..., :2] > 0)


def test_projections_that_are_none(tmp_path: Path) -> None:
    cells = RNG.normal(size=(2, 4, 6)).astype(np.float32)
    for dim in (0, 7):
        with pytest.raises(ConfigError, match="projection to"):
            fit_projection(cells, dim)
    with pytest.raises(ConfigError, match="projection to 6"):
        fit_projection(cells[0], 6)
    with pytest.raises(ConfigError, match="1 to 2"):
        fit_projection(cells, 2).first(3)
    with pytest.raises(ConfigError, match=r"basis \[d, k\]"):
        Projection(np.zeros(3, np.float32), np.zeros((4, 2), np.float32))
    with pytest.raises(ConfigError, match="NaN"):
        Projection(np.zeros(3, np.float32), np.full((3, 2), np.nan, np.float32))
    (tmp_path / "p").write_bytes(b"no")
    for name in ("p", "absent"):
        with pytest.raises(ConfigError, match="not a projection"):
            Projection.load(tmp_path / name)


def test_quantize_keeps_directions_and_survives_zeros() -> None:
    tokens = RNG.normal(size=(3, 40, 192)).astype(np.float32)
    tokens[0, 0] = 0
    packed = quantize(tokens)
    assert packed.dtype == np.int8
    assert not packed[0, 0].any()
    cosines = (unit(packed.astype(np.float32)) * unit(tokens)).sum(axis=-1)
    assert np.delete(cosines.ravel(), 0).min() > 0.9995


def test_signs_are_packed_the_first_in_the_highest_bit() -> None:
    tokens = np.full((2, 3, 16), -0.5, np.float32)
    tokens[0, 1, [0, 9]] = (1e-6, 40)
    tokens[1, 2] = 0
    packed = pack_signs(tokens)
    assert packed.dtype == np.uint8
    assert packed[0].tolist() == [[0, 0], [0b10000000, 0b01000000], [0, 0]]
    assert not packed[1].any(), "zero is not positive"
    assert np.array_equal(Coding.BITS.pack(tokens), packed)
    assert Coding.INT8.pack(tokens).dtype == np.int8
    with pytest.raises(ConfigError, match="tokens as 'float16': one of int8, bits"):
        Coding.named("float16")
