"""Pictures decoded, prepared and encoded in the background. Whatever one picture does becomes a row of the report.

Threads decode and prepare ahead, one more thread encodes what is ready in the batch size that the encoder likes, across
the borders of what was submitted, so that neither waits for the other or for the store. How far ahead is bounded by
count and by bytes.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pixdex._crew import Crew, Job
from pixdex._decoding import Decoders, Load, Loaded
from pixdex._machine import cores
from pixdex.encoders.decoding import PATIENCE, Decoding
from pixdex.errors import ConfigError, InvalidImage
from pixdex.pictures import Item, Readable, load_picture
from pixdex.report import Quarantined, Tally
from pixdex.spec import Metric
from pixdex.types import Batch

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import NDArray

    from pixdex.encoders.port import Encoder

__all__ = ["Encoded", "Encoding", "check_pace"]

_AHEAD_BYTES = 64 << 20
"""How much prepared pictures that wait for the encoder may hold."""
_MOST_WORKERS = 8
"""Where nobody says how many: more than that seldom find an encoder that keeps up."""
_GRACE = 5.0
"""Seconds more than a decoder has, for the thread that starts it, waits for it and prepares what it gives."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """What became of items: the records of those that can be used, in order, and a row for each of the others."""

    batch: Batch
    unusable: tuple[Quarantined, ...] = ()


@dataclass(frozen=True, slots=True)
class _Prepared:
    pixels: NDArray[Any]
    fields: Mapping[str, Any]


@dataclass(slots=True, eq=False)
class _Group:
    """What was submitted together."""

    left: int
    future: Future[Encoded] = field(default_factory=Future)
    pieces: list[Batch] = field(default_factory=list)
    unusable: list[Quarantined] = field(default_factory=list)

    def finish(self) -> None:
        self.future.set_result(Encoded(Batch.concat(self.pieces), tuple(self.unusable)))


@dataclass(frozen=True, slots=True)
class _Ready:
    group: _Group
    item: Item
    prepared: _Prepared


class Encoding:
    """How pictures become records: the encoder, the name of the vector, with its tokens or without.

    A context: leaving it drops what is still to be done, and ends threads and processes. ``workers`` is how many
    pictures are decoded at once (None: one a core, eight at most), ``patience`` how many seconds one may take.
    """

    def __init__(
        self,
        encoder: Encoder,
        vector: str,
        *,
        tokens: bool,
        decoding: Decoding = Decoding(),
        workers: int | None = None,
        patience: float = PATIENCE,
    ) -> None:
        """Raises ConfigError for no workers, or no time."""
        check_pace(workers, patience)
        self._encoder, self._vector, self._tokens = encoder, vector, tokens
        self._decoding = decoding
        self._patience = patience
        self._decoders = Decoders(_loader(encoder, decoding), patience=patience)
        self._workers = workers or min(_MOST_WORKERS, cores())
        self._crew = Crew("pixdex-decode", self._workers)
        self._changed = threading.Condition()
        self._submitted: deque[tuple[_Group, Item]] = deque()
        self._ahead: deque[tuple[_Group, Item, Job[_Prepared]]] = deque()
        self._bytes = 0  # of the picture that was prepared last: those to come will be alike
        self._unfinished: set[_Group] = set()
        self._closed = False
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._decoders.close()
        self._crew.close()
        if self._thread is not None:
            self._thread.join()  # no longer than the encoder takes for a batch

    def submit(self, items: Sequence[Item]) -> Future[Encoded]:
        """Have items, all with ids, encoded after those submitted before. Payloads of the records are the automatic
        fields and, over them, what the items bring. The future raises what the encoder raised.
        """
        group = _Group(len(items))
        if not items:
            group.finish()
            return group.future
        with self._changed:
            if self._error is not None:
                raise self._error
            self._unfinished.add(group)
            self._submitted.extend((group, item) for item in items)
            self._changed.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="pixdex-encode", daemon=True)
                self._thread.start()
        return group.future

    def batch(self, items: Sequence[Item], tally: Tally) -> Batch:
        """The records of items, waited for; those that cannot be used go to the tally."""
        encoded = self.submit(items).result()
        tally.quarantined += encoded.unusable
        return encoded.batch

    # --- in the encoding thread ---------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._encode_next():
                pass
        except BaseException as error:  # noqa: BLE001 - raised where the records are waited for
            self._fail(error)

    def _encode_next(self) -> bool:
        """False at the end. A call a batch, so that no batch is held while the next is waited for."""
        ready = self._take()
        if ready:
            self._encode(ready)
        return bool(ready)

    def _take(self) -> list[_Ready]:
        """The next pictures for the encoder: a batch, or fewer when no more were submitted; none at the end."""
        ready: list[_Ready] = []
        while len(ready) < self._encoder.batch_size and self._look_ahead(wait=not ready):
            group, item, job = self._ahead.popleft()
            try:
                prepared = job.result(self._patience + _GRACE)
            except InvalidImage as error:
                group.unusable.append(Quarantined(item.label, str(error), item.id))
                self._count(group, 1)
            else:
                self._bytes = prepared.pixels.nbytes
                ready.append(_Ready(group, item, prepared))
        return ready

    def _look_ahead(self, *, wait: bool) -> bool:
        """Have threads prepare what comes next, some way ahead; False when nothing is to come, or not yet."""
        with self._changed:
            if wait and not self._ahead:
                self._changed.wait_for(lambda: self._submitted or self._closed)
            if self._closed:
                return False
            while self._submitted and len(self._ahead) < self._depth():
                group, item = self._submitted.popleft()
                self._ahead.append((group, item, self._crew.submit(partial(self._prepare, item))))
        return bool(self._ahead)

    def _depth(self) -> int:
        """How many pictures to prepare ahead: for two batches, within the bytes, and no thread without work."""
        if not self._bytes:  # nobody knows yet how large they are
            return self._workers
        return self._workers + min(2 * self._encoder.batch_size, _AHEAD_BYTES // self._bytes)

    def _encode(self, ready: Sequence[_Ready]) -> None:
        features = self._encoder.encode([one.prepared.pixels for one in ready], tokens=self._tokens)
        batch = Batch(
            tuple(one.item.id or "" for one in ready),
            {self._vector: features.vectors},
            tuple({**one.prepared.fields, **one.item.payload} for one in ready),
            features.tokens,
        )
        good = np.isfinite(features.vectors).all(axis=1)
        if self._encoder.metric is Metric.COSINE:
            good &= features.vectors.any(axis=1)
        bad = frozenset(np.flatnonzero(~good).tolist())
        reason = f"encoder {self._encoder.name!r} makes no usable vector of it"
        for group, rows in _by_group(ready):
            group.unusable += [
                Quarantined(ready[row].item.label, reason, ready[row].item.id) for row in rows if row in bad
            ]
            kept = [row for row in rows if row not in bad]
            if kept:
                group.pieces.append(batch if len(kept) == len(batch) else batch.take(kept))
            self._count(group, len(rows))

    def _count(self, group: _Group, done: int) -> None:
        group.left -= done
        if not group.left:
            with self._changed:
                self._unfinished.discard(group)
            group.finish()

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._error = error
            groups, self._unfinished = self._unfinished, set()
        for group in groups:
            group.future.set_exception(error)

    # --- in the threads that prepare ----------------------------------------------------------------

    def _prepare(self, item: Item) -> _Prepared:
        try:
            pixels, fields = self._pixels(item.picture)
        except InvalidImage:
            raise
        except Exception as error:  # pictures are anybody's objects, and one stops nothing
            raise InvalidImage(f"cannot be read: {error!r}") from error
        try:
            return _Prepared(self._encoder.prepare(pixels), fields)
        except InvalidImage:
            raise
        except MemoryError as error:
            raise InvalidImage("not enough memory to prepare it") from error
        except Exception as error:  # an encoder is anybody's code, and one picture stops nothing
            raise InvalidImage(f"encoder {self._encoder.name!r} cannot prepare it: {error!r}") from error

    def _pixels(self, picture: Any) -> Loaded:
        if isinstance(picture, Readable):
            picture = picture.read()
        elif isinstance(picture, bytearray | memoryview):
            picture = bytes(picture)
        if isinstance(picture, Path | bytes):
            return self._decoders.load(picture)
        return load_picture(picture, self._decoding)  # an array or a PIL image: nothing of it is left to decode


def _by_group(ready: Sequence[_Ready]) -> Iterator[tuple[_Group, list[int]]]:
    """The rows that belong together, as they follow one another."""
    for group, rows in groupby(range(len(ready)), key=lambda row: ready[row].group):
        yield group, list(rows)


def check_pace(workers: int | None, patience: float) -> None:
    """Raises ConfigError for no workers, or no time."""
    if workers is not None and workers < 1:
        raise ConfigError(f"workers={workers}: nobody would decode: give at least 1")
    if not 0 < patience < math.inf:
        raise ConfigError(f"patience={patience}: it is the seconds that one picture may take, more than 0")


def _loader(encoder: Encoder, decoding: Decoding) -> Load:
    """``load_picture`` as ``decoding`` says, at the size that the encoder needs."""
    return partial(load_picture, decoding=decoding, min_side=getattr(encoder, "min_side", None))
