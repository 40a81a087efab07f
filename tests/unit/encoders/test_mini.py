"""``mini``: there without torch, the same vectors everywhere, what it finds, and what opens with it."""

from __future__ import annotations

import csv
import io
import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pixdex
from pixdex import encoders
from pixdex.encoders.images import decode
from pixdex.encoders.mini import FOLDER
from pixdex.encoders.runtimes.probes import probes
from pixdex.errors import ConfigError, FingerprintMismatch
from pixdex.evaluation import measure

KNOWN = json.loads((Path(__file__).parent / "mini_vectors.json").read_text())
SHARED = Path(__file__).parents[4] / "shared" / "data"


@pytest.fixture(scope="module")
def mini():
    return encoders.load("mini")


def test_it_is_small_and_its_folder_says_where_it_comes_from():
    assert sum(file.stat().st_size for file in FOLDER.iterdir() if file.is_file()) <= 10_000_000
    card = (FOLDER / "MODEL_CARD.md").read_text()
    for word in ("MobileNetV2", "Apache-2.0", "Caltech-101", "Grocery Store", "make mini", "limits"):
        assert word.lower() in card.lower(), word
    about = pixdex.encoders.load("mini").fingerprint
    assert about.digest in card


def test_what_it_is(mini):
    assert (mini.name, mini.reference, mini.dim) == ("mini", "mini", 256)
    assert mini.trunk.dim == 128
    assert mini.fingerprint.digest == KNOWN["fingerprint"]
    with pytest.raises(ConfigError, match="mini takes no options"):
        encoders.load("mini:large")


def test_its_vectors_are_those_of_the_day_it_was_made(mini):
    """On every processor and with every version of the library: else collections would not be found in again."""
    pictures = [mini.prepare(picture) for picture in probes((240, 320), 4)]
    vectors = mini.encode(pictures).vectors
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    cosines = (vectors * np.array(KNOWN["vectors"], dtype=np.float32)).sum(axis=1)
    assert cosines.min() > 0.9995
    together, alone = vectors, np.concatenate([mini.encode([picture]).vectors for picture in pictures])
    assert np.allclose(together, alone, atol=1e-4)


def test_its_tokens_are_of_places(mini):
    """The right half of a picture changes the tokens there, hardly those at the left edge."""
    one, two = probes((192, 192), 2)
    both = one.copy()
    both[:, 96:] = two[:, 96:]
    cells = mini.trunk.forward(np.stack([one, both])).cells.reshape(2, 12, 12, 128)
    units = cells / np.linalg.norm(cells, axis=3, keepdims=True)
    like = (units[0] * units[1]).sum(axis=2)
    assert like[:, :2].mean() > 0.3 + like[:, 9:].mean()
    (tokens,) = mini.encode([one], tokens=True).tokens
    assert (len(tokens), tokens.dtype) == (64, np.int8)


def test_a_jpeg_decoded_at_a_fraction_is_the_same_picture(mini):
    stream = io.BytesIO()
    Image.fromarray(probes((600, 800), 1)[0]).save(stream, "JPEG", quality=90)
    full = decode(stream.getvalue()).pixels
    small = decode(stream.getvalue(), min_side=mini.min_side).pixels
    assert small.shape == (300, 400, 3)
    one, two = mini.encode([mini.prepare(full), mini.prepare(small)]).vectors
    assert one @ two > 0.99


def test_it_needs_no_torch_and_starts_at_once():
    code = """
import sys
class Poison:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "sklearn", "tokenizers"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Poison())
import numpy as np
from pixdex import encoders
mini = encoders.load("mini")
assert "onnxruntime" not in sys.modules  # only once there is a picture
print(mini.encode([mini.prepare(np.zeros((50, 70, 3), np.uint8))]).vectors.shape)
"""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.strip() == "(1, 256)"
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3  # about .5 where nothing else runs


def test_collections_open_with_it_and_keep_the_encoder_they_have(url, tmp_path):
    for place, picture in enumerate(probes((64, 64), 3)):
        Image.fromarray(picture).save(tmp_path / f"{place}.png")
    with pixdex.open(url) as photos:
        photos.add(tmp_path, progress=False)
        assert photos.encoder.name == "mini"
        assert photos.search(tmp_path / "1.png", k=1)[0].score == pytest.approx(1, abs=1e-4)
    if url.startswith("pq:"):
        with pytest.raises(FingerprintMismatch, match="classic"):
            pixdex.open(url, encoder="classic")
        older = f"{url}#older"
        with pixdex.open(older, encoder="classic") as photos:
            photos.add(tmp_path, progress=False)
        with pixdex.open(older) as photos:
            assert photos.encoder.name == "classic"


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the development pictures")
def test_what_it_finds(mini):
    """A part of ``python -m benchmarks.mini``, which has the figures: copies, and classes that it never saw."""
    rows = _rows("copies")
    wanted = {row["label"] for row in rows if row["split"] == "query"}
    wanted = set(sorted(wanted)[::5])
    queries = [row for row in rows if row["split"] == "query" and row["label"] in wanted]
    gallery = [row for row in rows if row["split"] == "gallery" and (row["label"] in wanted or row["label"] == "-1")]
    found = measure(
        _vectors(mini, "copies", gallery),
        [row["label"] for row in gallery],
        queries=_vectors(mini, "copies", queries),
        query_labels=[row["label"] for row in queries],
        metrics=("map",),
    )
    assert found["map"].mean() > 0.8
    # Fewer classes than in the benchmark, which makes it easier.
    for name, column, least in (("grocery_store", "zero_shot_split", 0.7), ("caltech101", "split", 0.55)):
        unseen = [row for row in _rows(name) if row[column] == "test"]
        classes = sorted({row["label"] for row in unseen})[::5]
        unseen = [row for row in unseen if row["label"] in classes][::2]
        found = measure(_vectors(mini, name, unseen), [row["label"] for row in unseen], metrics=("map@r",))
        assert found["map@r"].mean() > least, name


def _rows(name):
    with (SHARED / name / "labels.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _vectors(mini, name, rows):
    sources = [(SHARED / name / row["path"]).read_bytes() for row in rows]
    return mini.encode([mini.prepare(decode(source, min_side=mini.min_side).pixels) for source in sources]).vectors
