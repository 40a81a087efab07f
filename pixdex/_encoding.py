"""Pictures decoded in threads and encoded in batches. Whatever one picture does becomes a row of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pixdex.errors import InvalidImage
from pixdex.pictures import Item, load_picture
from pixdex.report import Tally
from pixdex.types import Batch, Metric

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pixdex.encoders.port import Encoder

__all__ = ["Encoding"]


@dataclass(frozen=True, slots=True)
class _Ready:
    item: Item
    prepared: NDArray[Any]
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Encoding:
    """How pictures become records: the encoder, the name of the vector, with its tokens or without."""

    encoder: Encoder
    vector: str
    tokens: bool
    pool: ThreadPoolExecutor
    tally: Tally

    def batch(self, items: Sequence[Item]) -> Batch:
        """Records of those items, all with ids, that can be used; in order. Payloads are the automatic fields and,
        over them, what the items bring.
        """
        futures = [self.pool.submit(self._prepare, item) for item in items]
        ready: list[_Ready] = []
        pieces: list[Batch] = []
        for item, future in zip(items, futures, strict=True):
            try:
                ready.append(future.result())
            except InvalidImage as error:
                self.tally.quarantine(item.label, error)
            if len(ready) == self.encoder.batch_size:
                pieces.append(self._encode(ready))
                ready = []
        if ready:
            pieces.append(self._encode(ready))
        return Batch.concat(pieces)

    def _prepare(self, item: Item) -> _Ready:
        try:
            pixels, fields = load_picture(item.picture)
            return _Ready(item, self.encoder.prepare(pixels), fields)
        except InvalidImage:
            raise
        except MemoryError as error:
            raise InvalidImage("not enough memory to decode it") from error
        except Exception as error:  # an encoder is anybody's code, and one picture stops nothing
            raise InvalidImage(f"encoder {self.encoder.name!r} cannot prepare it: {error!r}") from error

    def _encode(self, ready: Sequence[_Ready]) -> Batch:
        features = self.encoder.encode([one.prepared for one in ready], tokens=self.tokens)
        batch = Batch(
            tuple(one.item.id or "" for one in ready),
            {self.vector: features.vectors},
            tuple({**one.fields, **one.item.payload} for one in ready),
            features.tokens,
        )
        good = np.isfinite(features.vectors).all(axis=1)
        if self.encoder.metric is Metric.COSINE:
            good &= features.vectors.any(axis=1)
        for row in np.flatnonzero(~good).tolist():
            error = InvalidImage(f"encoder {self.encoder.name!r} makes no usable vector of it")
            self.tally.quarantine(ready[row].item.label, error)
        return batch if good.all() else batch.take(np.flatnonzero(good).tolist())
