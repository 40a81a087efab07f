"""Small things that tests of pictures need: an encoder one can count, pictures of every kind, a store that fails."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from pixdex import _plugins, encoders
from pixdex.connectors.memory import MemoryConnector
from pixdex.encoders.images import resize
from pixdex.encoders.port import Features
from pixdex.errors import ConfigError, StoreUnavailable
from pixdex.spec import Fingerprint, Metric, TokenSpec
from pixdex.types import Batch

CELLS = 4


class ToyEncoder:
    """The mean colours of 4 x 4 cells, 48-d; its tokens are the cells. ``encoded`` counts pictures, call by call."""

    def __init__(self, name: str = "toy", *, dim: int = CELLS * CELLS * 3, with_tokens: bool = True) -> None:
        self.name = name
        self.reference = f"{name}:{dim}"
        self.dim = dim
        self.metric = Metric.COSINE
        digest = hashlib.blake2b(self.reference.encode(), digest_size=16).hexdigest()
        self.fingerprint = Fingerprint(encoder=name, digest=digest, parts={"config": digest, "weights": digest[::-1]})
        self.token_spec = None
        if with_tokens:
            self.token_spec = TokenSpec(count=CELLS * CELLS, dim=3, dtype="int8", fingerprint=self.fingerprint)
        self.batch_size = 8
        self.encoded: list[int] = []

    @property
    def total(self) -> int:
        """How many pictures were encoded so far."""
        return sum(self.encoded)

    def prepare(self, pixels: Any) -> Any:
        return resize(pixels, (CELLS, CELLS), "box")

    def encode(self, prepared: Sequence[Any], *, tokens: bool = False) -> Features:
        self.encoded.append(len(prepared))
        cells = np.stack(prepared).astype(np.float32).reshape(len(prepared), -1) - 127.3  # no picture is a zero vector
        vectors = np.resize(cells, (len(cells), self.dim)) if self.dim < cells.shape[1] else cells
        matrices = tuple(np.round(row.reshape(-1, 3)).astype(np.int8) for row in np.clip(cells, -127, 127))
        return Features(vectors, matrices if tokens else None)


def with_toy(installed: Callable[[str], dict[str, EntryPoint]]) -> Callable[[str], dict[str, EntryPoint]]:
    """What is installed, and ``toy`` among the encoders."""
    toy = {"toy": EntryPoint("toy", "toys:load", encoders.GROUP)}
    return lambda group: {**installed(group), **(toy if group == encoders.GROUP else {})}


def load(rest: str) -> ToyEncoder:
    """The toy as a plugin: ``toy:48``."""
    if rest and not rest.isdigit():
        raise ConfigError(f"toy:{rest}: a number of dimensions")
    return ToyEncoder(dim=int(rest or 48))


class Failing(MemoryConnector):
    """A memory store whose connection breaks after some writes."""

    def __init__(self, writes: int) -> None:
        super().__init__()
        self.writes_left = writes

    def upsert(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        if self.writes_left == 0:
            raise StoreUnavailable("connection refused")
        self.writes_left -= 1
        super().upsert(name, batch, timeout=timeout)


def pixels(seed: int, size: tuple[int, int] = (24, 32)) -> np.ndarray:
    """A picture of coloured blocks, another for each seed."""
    colours = np.random.default_rng(seed).integers(0, 256, (CELLS, CELLS, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(colours).resize(size[::-1], Image.Resampling.NEAREST))


def encoded(array: np.ndarray, form: str = "PNG", **options: Any) -> bytes:
    """A picture file as bytes."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, form, **options)
    return buffer.getvalue()


def film(*frames: np.ndarray, form: str = "GIF") -> bytes:
    """An animation, or a file of pages."""
    buffer = io.BytesIO()
    first, *others = map(Image.fromarray, frames)
    first.save(buffer, form, save_all=True, append_images=others)
    return buffer.getvalue()


def png(seed: int) -> bytes:
    return encoded(pixels(seed))


def write(path: Path, seed: int) -> Path:
    """A PNG, its folders made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(seed))
    return path


def folder(root: Path, count: int, *, start: int = 0) -> Path:
    """A folder of pictures ``00.png`` and so on."""
    for number in range(start, start + count):
        write(root / f"{number:02}.png", number)
    return root


def with_exif(array: np.ndarray) -> bytes:
    """A JPEG of 2020-05-17 18:30:05 +02:00 in Zurich."""
    exif = Image.Exif()
    details = exif.get_ifd(0x8769)
    details[0x9003] = "2020:05:17 18:30:05"
    details[0x9011] = "+02:00"
    gps = exif.get_ifd(0x8825)
    gps[1], gps[2] = "N", (47.0, 22.0, 30.0)
    gps[3], gps[4] = "E", (8.0, 32.0, 24.0)
    return encoded(array, "JPEG", exif=exif, quality=95)


def bomb() -> bytes:
    """A PNG header that promises 100000 x 100000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


def revs(index: Any) -> dict[str, int]:
    """id -> revision of every record: what was written again has another."""
    found: dict[str, int] = {}
    for page in index.collection.scan():
        found |= dict(zip(page.batch.ids, page.batch.revs, strict=True))
    return found


def payloads(index: Any) -> dict[str, Any]:
    """id -> payload of every record."""
    found: dict[str, Any] = {}
    for page in index.collection.scan():
        found |= dict(zip(page.batch.ids, page.batch.payloads, strict=True))
    return found


def main() -> None:
    """The ``pixdex`` command with the toy among its encoders; each picture takes ``TOY_DELAY`` seconds."""
    from pixdex import cli

    _plugins.installed = with_toy(_plugins.installed)
    delay = float(os.environ.get("TOY_DELAY", "0"))
    if delay:
        module = sys.modules.setdefault("toys", sys.modules[__name__])
        prepare = module.ToyEncoder.prepare

        def slow(self: ToyEncoder, pixels: Any) -> Any:
            time.sleep(delay)
            return prepare(self, pixels)

        module.ToyEncoder.prepare = slow
    cli.main()


def scene(seed: int) -> Image.Image:
    """Blobs and boxes of all sizes: no two places look alike."""
    rng = np.random.default_rng(seed)
    picture = Image.new("RGB", (360, 270), (200, 190, 170))
    draw = ImageDraw.Draw(picture)
    for _ in range(160):
        x, y, size = rng.integers(0, 360), rng.integers(0, 270), rng.integers(6, 60)
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape(
            (int(x), int(y), int(x + size), int(y + size * rng.uniform(0.5, 1.5))),
            fill=tuple(rng.integers(0, 255, 3).tolist()),
        )
    return picture


if __name__ == "__main__":
    main()
