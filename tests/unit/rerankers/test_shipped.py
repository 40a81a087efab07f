"""The rerankers that come with pixdex, over the encoder that comes with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest

skimage = pytest.importorskip("skimage")

from PIL import Image, ImageOps  # noqa: E402

import pixdex  # noqa: E402
from pixdex import rerankers  # noqa: E402
from pixdex.errors import ConfigError, FingerprintMismatch, Unsupported  # noqa: E402
from pixdex.index import ImageIndex  # noqa: E402
from pixdex.rerankers.learned import CONFIG_FILE, LOOKS, SCORES, Learned, shipped  # noqa: E402
from pixdex.rerankers.port import Query  # noqa: E402
from pixdex.rerankers.stages import Stage, ready  # noqa: E402
from pixdex.spec import Fingerprint, Metric, TokenSpec, Vector  # noqa: E402

KINDS = ["cross", "transport"]


NAMES = ("astronaut", "camera", "chelsea", "coffee", "motorcycle_left", "rocket")


def photograph(name: str) -> Image.Image:
    """One that scikit-image installs."""
    found = [file for file in (Path(skimage.__file__).parent / "data").glob(f"{name}.*") if file.suffix != ".npz"]
    with Image.open(found[0]) as image:
        return image.convert("RGB").resize((240, 240))


def parts(picture: Image.Image) -> list[Image.Image]:
    """Four quarters of it, pictures of their own that look alike."""
    return [picture.crop((x, y, x + 120, y + 120)) for x in (0, 120) for y in (0, 120)]


def turned(picture: Image.Image) -> Image.Image:
    """Turned, with black corners, and grey."""
    return ImageOps.grayscale(picture.rotate(15, Image.Resampling.BICUBIC, expand=True)).convert("RGB")


def cut(picture: Image.Image) -> Image.Image:
    """Two fifths of it."""
    return picture.crop((25, 20, 100, 95))


@pytest.fixture(scope="module")
def scenes() -> list[Image.Image]:
    """Pictures of which several look alike."""
    return [part for name in NAMES for part in parts(photograph(name))]


@pytest.fixture(scope="module")
def index(scenes: list[Image.Image]) -> Iterator[ImageIndex]:
    """Two edits of each scene."""
    with pixdex.open("memory://", encoder="mini", tokens=True) as made:
        for name, edit in (("turned", turned), ("cut", cut)):
            ids = [f"{row}/{name}" for row in range(len(scenes))]
            made.add([np.asarray(edit(scene)) for scene in scenes], ids=ids)
        yield made


@pytest.mark.parametrize("kind", KINDS)
def test_it_finds_edits_that_the_first_stage_misses(kind: str, index: ImageIndex, scenes: list[Image.Image]) -> None:
    found = first = 0
    for row, scene in enumerate(scenes):
        hits = index.search(np.asarray(scene), k=2, rerank=kind)
        found += sum(hit.id.startswith(f"{row}/") for hit in hits)
        first += sum(hit.id.startswith(f"{row}/") for hit in index.search(np.asarray(scene), k=2))
        assert hits[0].score == pytest.approx(hits[0].trace[kind])
        assert -1 <= hits[0].trace["first"] <= 1
    assert found > first
    assert found >= 0.85 * 2 * len(scenes)  # parts of 75 pixels among quarters that look alike


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_by_name_by_folder_and_by_itself(kind: str, index: ImageIndex, scenes: list[Image.Image]) -> None:
    folder = shipped(kind)["mini"]
    ways = (kind, f"{kind}:mini", f"{kind}:{folder}", Learned(folder, kind))
    every = [[hit.id for hit in index.search(np.asarray(scenes[3]), rerank=way)] for way in ways]
    assert all(hits == every[0] for hits in every[1:])


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_of_another_encoder_are_refused(kind: str, index: ImageIndex, scenes: list[Image.Image]) -> None:
    for name in set(shipped(kind)) - {"mini"}:
        with pytest.raises(FingerprintMismatch, match="trained for tokens of vit-tiny-16-224; these are of mini"):
            index.search(np.asarray(scenes[0]), rerank=f"{kind}:{name}")


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_with_pixdex_is_whole_and_small(kind: str) -> None:
    names = shipped(kind)
    assert {"mini", "vit-tiny-16-224"} <= set(names)
    for name, folder in names.items():
        reranker = rerankers.load(f"{kind}:{name}")
        assert isinstance(reranker, Learned)
        assert reranker.trained["validation"]["map"] > reranker.trained["first stage"]["map"]
        files = {file.name: file.stat().st_size for file in folder.iterdir()}
        assert {CONFIG_FILE, SCORES, LOOKS, "model.safetensors"} <= files.keys()
        assert sum(files.values()) < 4 << 20


@pytest.mark.parametrize("kind", KINDS)
def test_one_serves_several_encoders_at_once(kind: str) -> None:
    """Each search uses that for its own tokens, whatever another has asked for meanwhile."""
    shared = rerankers.load(kind)
    wanted = {}
    for name in ("mini", "vit-tiny-16-224"):
        values = orjson.loads((shipped(kind)[name] / CONFIG_FILE).read_bytes())
        fingerprint = Fingerprint(**values["fingerprints"][0])
        spec = TokenSpec(count=64, dim=values["tokens"]["dim"], fingerprint=fingerprint)
        wanted[name] = ready([Stage(shared)], Query(np.zeros(1, np.float32), np.ones((2, 8), np.int8)), spec)
    for name, (stage,) in wanted.items():
        assert isinstance(stage.reranker, Learned)
        assert stage.reranker.folder == shipped(kind)[name]


@pytest.mark.parametrize("kind", KINDS)
def test_distances_are_no_cosines(kind: str) -> None:
    """The first stage's score is part of what is judged: another one would give wrong answers, and say nothing."""
    reranker = rerankers.load(f"{kind}:mini")
    made = Vector(dim=4, fingerprint=Fingerprint(encoder="toy", digest="0" * 8))
    reranker.check_vector(made)  # type: ignore[attr-defined]
    with pytest.raises(Unsupported, match="compared by l2: rerank with maxsim"):
        reranker.check_vector(replace(made, metric=Metric.L2))  # type: ignore[attr-defined]


def test_without_an_encoder_it_must_be_told() -> None:
    with pytest.raises(ConfigError, match=r"say whose tokens these are: .*cross:mini"):
        rerankers.load("cross").rerank(Query(np.zeros(1, np.float32), np.ones((2, 64), np.int8)), [])
