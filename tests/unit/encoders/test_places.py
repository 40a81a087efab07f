"""Where tokens lie in a picture: read off tokens that are the colours of a picture whose colours say where one is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pixdex import encoders
from pixdex.encoders.backbones import Activations
from pixdex.encoders.classic import Classic
from pixdex.encoders.compose import ComposedEncoder
from pixdex.encoders.composition import Composition
from pixdex.encoders.places import Grid, Window, clipped, grid_of
from pixdex.encoders.pooling import Pooling
from pixdex.encoders.preprocess import Preprocess
from pixdex.encoders.tokens import Choice

PATCH = 16
RESIZED = Preprocess(resize_to=(64, 96))
CROPPED = Preprocess(shortest_edge=80, crop=(64, 64))
CROPPED_WIDE = Preprocess(shortest_edge=80, crop=(48, 80))
BORDERED = Preprocess(crop=(96, 96))
WAYS = {"resized": RESIZED, "cropped": CROPPED, "cropped wide": CROPPED_WIDE, "bordered": BORDERED}


class Patches:
    """A network whose descriptors are the mean colours of patches of 16 x 16 pixels, and whose class token is grey."""

    name, outputs, dim, own_dim, batch_size = "patches", ("cells", "cls"), 3, None, 4

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess
        self.rows, self.columns = preprocess.size[0] // PATCH, preprocess.size[1] // PATCH
        self.cells = self.rows * self.columns

    def forward(self, batch: np.ndarray) -> Activations:
        blocks = batch.astype(np.float32).reshape(len(batch), self.rows, PATCH, self.columns, PATCH, 3)
        cells = blocks.mean(axis=(2, 4)).reshape(len(batch), self.cells, 3)
        return Activations(cells=cells, cls=np.ones((len(batch), 3), np.float32))

    def settle(self) -> str:
        return "patches"

    def weights_digest(self) -> str:
        return "00" * 16

    def config_digest(self) -> str:
        return "11" * 16

    def save(self, folder: Path) -> None:
        raise NotImplementedError(folder)


def patches(preprocess: Preprocess, **options: Any) -> ComposedEncoder:
    composition = Composition(pooling=Pooling.CLS, **{"tokens": 999, **options})
    return ComposedEncoder(Patches(preprocess), composition, name="patches", reference="patches")


def slope(height: int, width: int) -> np.ndarray:
    """A picture that is the redder the further to the right, the greener the further down, and evenly blue."""
    red = np.broadcast_to((np.arange(width) + 0.5) / width * 255, (height, width))
    green = np.broadcast_to(((np.arange(height) + 0.5) / height * 255)[:, None], (height, width))
    return np.stack([red, green, np.full((height, width), 255.0)], axis=-1).round().astype(np.uint8)


def middles(boxes: np.ndarray) -> np.ndarray:
    return boxes[:, :2] + boxes[:, 2:] / 2


def read_off(tokens: np.ndarray) -> np.ndarray:
    """Where in a slope tokens were made, ``[t, 2]``: by their direction, whatever their length."""
    values = tokens.astype(float)
    return values[:, :2] / values[:, 2:]


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (64, 900), (700, 64), (65, 97)])
@pytest.mark.parametrize("way", [way for way in WAYS if way != "bordered"])
@pytest.mark.parametrize("choice", Choice)
def test_tokens_lie_where_their_colours_say(size: tuple[int, int], way: str, choice: Choice) -> None:
    """Of any selection, and of pictures so long that they are trimmed before they are resized."""
    encoder = patches(WAYS[way], tokens=7, token_choice=choice)
    picture = slope(*size)
    features = encoder.encode([encoder.prepare(picture)], tokens=True)
    assert features.tokens is not None
    places = encoder.token_places([picture])
    assert places is not None
    (boxes,) = places
    assert boxes.dtype == np.float32
    assert boxes.shape == (7, 4)
    assert middles(boxes) == pytest.approx(read_off(features.tokens[0]), abs=0.015)
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= 1 + 1e-6).all()


def test_a_crop_shows_cells_of_the_middle_only() -> None:
    """80 x 120 of a picture of 200 x 300, of which the middle 64 x 64 are seen."""
    (boxes,) = patches(CROPPED).token_places([slope(200, 300)]) or ()
    assert boxes[0] == pytest.approx([28 / 120, 8 / 80, 16 / 120, 16 / 80], abs=1e-6)
    assert boxes[-1] == pytest.approx([76 / 120, 56 / 80, 16 / 120, 16 / 80], abs=1e-6)
    assert boxes[1, 0] > boxes[0, 0]  # row by row
    assert boxes[1, 1] == boxes[0, 1]


@pytest.mark.parametrize("size", [(64, 300), (70, 61)])
def test_cells_of_a_border_are_cut_off_at_the_picture(size: tuple[int, int]) -> None:
    encoder = patches(BORDERED)
    (boxes,) = encoder.token_places([slope(*size)]) or ()
    tokens = (encoder.encode([encoder.prepare(slope(*size))], tokens=True).tokens or ())[0]
    whole = (boxes[:, 2] >= PATCH / size[1] - 1e-6) & (boxes[:, 3] >= PATCH / size[0] - 1e-6)
    assert 0 < whole.sum() < len(boxes)
    assert middles(boxes[whole]) == pytest.approx(read_off(tokens[whole]), abs=0.015)
    assert not (tokens[boxes[:, 2] * boxes[:, 3] == 0] != 0).any()  # nothing but border


def test_pictures_of_several_sizes_at_once() -> None:
    encoder = patches(CROPPED)
    wide, high = encoder.token_places([slope(100, 300), slope(300, 100)]) or ()
    assert wide[:, [1, 0, 3, 2]][np.lexsort((wide[:, 1], wide[:, 0]))] == pytest.approx(high, abs=1e-6)


@pytest.mark.parametrize(
    ("cells", "size", "grid"),
    [
        (196, (224, 224), Grid(14, 14)),
        (280, (224, 320), Grid(14, 20)),
        (280, (320, 224), Grid(20, 14)),
        (1, (32, 32), Grid(1, 1)),
        (100, (160, 160), Grid(10, 10)),
        (81, (150, 150), Grid(9, 9)),
        (197, (224, 224), None),
        (201, (224, 224), None),
    ],
)
def test_the_grid_is_the_squarest_that_there_is(cells: int, size: tuple[int, int], grid: Grid | None) -> None:
    assert grid_of(cells, size) == grid


def test_without_a_grid_or_tokens_places_are_not_known() -> None:
    encoder = patches(RESIZED)
    encoder.trunk.cells = 23  # type: ignore[misc]  # as of a model that puts a class token among its patches
    assert encoder.token_places([slope(100, 100)]) is None
    assert patches(RESIZED, tokens=0).token_places([slope(100, 100)]) is None


def test_boxes_of_a_window() -> None:
    boxes = Grid(2, 4).boxes(np.array([0, 3, 6]), Window(0.5, -0.25, 0.5, 1.0))
    expected = [[0.5, 0, 0.125, 0.25], [0.875, 0, 0.125, 0.25], [0.75, 0.25, 0.125, 0.5]]
    assert boxes == pytest.approx(np.array(expected))
    assert clipped(np.array([1.5, 0.5, 1, 1])) == pytest.approx([1, 0.5, 0, 0.5])


def test_the_windows_of_classic() -> None:
    """Only what lies in a window moves its token."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (128, 128, 3), dtype=np.uint8)
    changed = picture.copy()
    changed[88:100, 30:40] = 255 - changed[88:100, 30:40]
    encoder = Classic()
    before, after = encoder.encode([picture, changed], tokens=True).tokens or ()
    (boxes,) = encoder.token_places([picture])
    assert len(boxes) == len(before) == len(after)
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    touched = (low < [41 / 128, 101 / 128]).all(axis=1) & (high > [29 / 128, 87 / 128]).all(axis=1)
    moved = (before != after).any(axis=1)
    assert moved.any()
    assert not (moved & ~touched).any()


def test_mini_knows_where_its_tokens_lie() -> None:
    encoder = encoders.load("mini")
    (boxes,) = encoder.token_places([slope(90, 160)])
    tokens = (encoder.encode([encoder.prepare(slope(90, 160))], tokens=True).tokens or ())[0]
    assert boxes.shape == (len(tokens), 4)
    assert np.unique(boxes, axis=0).shape == boxes.shape  # each a cell of its own
