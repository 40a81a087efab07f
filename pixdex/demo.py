"""``pixdex demo``: real photographs, edited copies of them, and whether search finds them again.

The photographs ship inside scikit-image and scikit-learn; nothing is downloaded.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageEnhance, ImageOps

from pixdex.errors import MissingDependency
from pixdex.index import open as open_index
from pixdex.types import Hit

__all__ = ["EDITS", "Outcome", "run"]

PHOTOGRAPHS = (
    ("skimage", "data", "astronaut.png"),
    ("skimage", "data", "brick.png"),
    ("skimage", "data", "camera.png"),
    ("skimage", "data", "chelsea.png"),
    ("skimage", "data", "coffee.png"),
    ("skimage", "data", "coins.png"),
    ("skimage", "data", "grass.png"),
    ("skimage", "data", "gravel.png"),
    ("skimage", "data", "hubble_deep_field.jpg"),
    ("skimage", "data", "ihc.png"),
    ("skimage", "data", "moon.png"),
    ("skimage", "data", "motorcycle_left.png"),
    ("skimage", "data", "retina.jpg"),
    ("skimage", "data", "rocket.jpg"),
    ("sklearn", "datasets/images", "china.jpg"),
    ("sklearn", "datasets/images", "flower.jpg"),
)


def _crop(image: Image.Image) -> Image.Image:
    width, height = image.size
    return image.crop((width // 10, height // 10, width - width // 10, height - height // 10))


def _rotate(image: Image.Image) -> Image.Image:
    turned = image.rotate(7, Image.Resampling.BICUBIC)
    return _crop(turned)


def _recolour(image: Image.Image) -> Image.Image:
    return ImageEnhance.Brightness(ImageEnhance.Color(image).enhance(0.4)).enhance(1.15)


def _compress(image: Image.Image) -> Image.Image:
    small = image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=15)
    return Image.open(buffer)


EDITS: Mapping[str, Callable[[Image.Image], Image.Image]] = {
    "cropped": _crop,
    "rotated": _rotate,
    "recoloured": _recolour,
    "compressed": _compress,
    "grey": lambda image: ImageOps.grayscale(image).convert("RGB"),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one edited copy found first: ``right`` when it is the same photograph."""

    query: Path
    photograph: str
    edit: str
    hits: tuple[Hit, ...]

    @property
    def right(self) -> bool:
        """Whether the top hit is the same photograph."""
        return bool(self.hits) and self.hits[0].payload is not None and _name(self.hits[0]) == self.photograph


def _name(hit: Hit) -> str:
    return Path(str((hit.payload or {})["path"])).stem.partition("-")[0]


def run(folder: Path, *, encoder: str | None = None) -> list[Outcome]:
    """Write pictures to ``folder/pictures``, index them in ``folder/index.pix``, search with each edited copy.

    Raises:
        MissingDependency: neither scikit-image nor scikit-learn is installed.
    """
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    queries = list(_written(pictures))
    with open_index(f"pq://{folder / 'index.pix'}", encoder=encoder) as index:
        index.add(pictures)
        return [
            Outcome(path, name, edit, tuple(index.search(path, k=5, exclude_self=True))) for path, name, edit in queries
        ]


def _written(folder: Path) -> Iterator[tuple[Path, str, str]]:
    """Write each photograph and its edited copies; yield path, photograph and edit of each copy."""
    for source in _photographs():
        image = Image.open(source).convert("RGB")
        image.save(folder / f"{source.stem}.png")
        for edit, apply in EDITS.items():
            path = folder / f"{source.stem}-{edit}.jpg"
            apply(image).save(path, quality=88)
            yield path, source.stem, edit


def _photographs() -> list[Path]:
    found = []
    for package, folder, name in PHOTOGRAPHS:
        spec = find_spec(package)  # finds the folder without importing the package
        if spec is not None and spec.submodule_search_locations:
            path = Path(spec.submodule_search_locations[0]) / folder / name
            if path.exists():
                found.append(path)
    if not found:
        raise MissingDependency("scikit-image", "demo")
    return found
