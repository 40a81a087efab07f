"""Pictures to records: found, recognised, decoded, encoded, written.

Work goes in chunks. Of each chunk the files are hashed first, so that what the collection holds
already is neither decoded nor encoded; the rest is decoded and prepared in threads while the encoder
works, and written as one batch. A picture that cannot be used becomes one row of the report and
stops nothing. Killed or interrupted, everything written so far is in the collection, and adding the
same again goes on from there.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from pixdex._records import coerce
from pixdex.encoders import images
from pixdex.errors import ConfigError, InvalidImage
from pixdex.filters import F
from pixdex.types import MAX_ID_BYTES, Batch, Field, Kind, Payload, Want

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pixdex.collection import Collection
    from pixdex.encoders.port import Encoder, Pixels

__all__ = ["AUTOMATIC", "Item", "Progress", "Quarantined", "Report", "check_user_fields", "content_hash", "from_files", "infer", "ingest", "load_picture", "shown"]

CONTENT = "content"
AUTOMATIC = (
    Field(name="path", kind=Kind.TEXT),
    Field(name="width", kind=Kind.INT),
    Field(name="height", kind=Kind.INT),
    Field(name="taken", kind=Kind.TIME),
    Field(name="place", kind=Kind.GEO),
    Field(name=CONTENT, kind=Kind.TEXT),
)
"""What every picture brings itself; ``taken`` and ``place`` only where its EXIF data has them."""

SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"})
_CHUNK = 128
_READ = 1 << 20

Picture: TypeAlias = Any
"""A path, bytes of a picture file, an array or a PIL image."""


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A picture that could not be used, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What became of the pictures.

    Attributes:
        added: encoded and written.
        reused: written with the vectors that the same content has already (moved, or new fields).
        unchanged: there already, nothing done.
        ignored: files in the folder that are no pictures by name or signature.
        quarantined: what could not be used.
        notices: what was decided on the user's behalf, in sentences.
        seconds: wall-clock time.
    """

    added: int = 0
    reused: int = 0
    unchanged: int = 0
    ignored: int = 0
    quarantined: tuple[Quarantined, ...] = ()
    notices: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def seen(self) -> int:
        """Pictures looked at."""
        return self.added + self.reused + self.unchanged + len(self.quarantined)


Progress: TypeAlias = Callable[[Report], None]
"""Called with the report so far, after every written batch."""


@dataclass(frozen=True, slots=True)
class Item:
    """One picture to be added: its id (None: its content hash), what it is, its payload so far."""

    id: str | None
    picture: Picture
    payload: Payload = field(default_factory=dict)

    @property
    def label(self) -> str:
        """How reports call it."""
        return shown(self.picture) if isinstance(self.picture, Path) else self.id or f"<{type(self.picture).__name__}>"


# --- finding ----------------------------------------------------------------------------------------


def from_files(root: Path, source: str) -> Iterator[Item | None]:
    """The pictures under a folder, or one file, in the order of their paths; None for each other file.

    Links to folders are not followed, so that loops end; what is no regular file is passed over.
    """
    if not root.is_dir():
        yield Item(_path_id(source, root.name), root)
        return
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            yield Item(_path_id(source, path.relative_to(root).as_posix()), path) if _is_picture(path) else None


def _is_picture(path: Path) -> bool:
    """By its suffix; a file of another name by its first bytes. Unreadable files count by name alone."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        if path.suffix.lower() in SUFFIXES:
            return True
        with path.open("rb") as file:
            head = file.read(12)
    except OSError:
        return path.suffix.lower() in SUFFIXES and not path.is_fifo()
    return head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8")) or (
        head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    )


def _path_id(source: str, relative: str) -> str:
    """``source/relative``, or the BLAKE2b-128 of its bytes when it is no id."""
    name = f"{source}/{relative}"
    raw = os.fsencode(name)
    try:
        name.encode()
    except UnicodeEncodeError:
        return hashlib.blake2b(raw, digest_size=16).hexdigest()
    return name if len(raw) <= MAX_ID_BYTES else hashlib.blake2b(raw, digest_size=16).hexdigest()


def shown(path: Path) -> str:
    """A path as text that any store and terminal takes."""
    return os.fsencode(path).decode(errors="backslashreplace")


# --- looking at one picture -------------------------------------------------------------------------


def content_hash(picture: Picture) -> str:
    """BLAKE2b-128 of a file's bytes; of the pixels for arrays and PIL images.

    Raises:
        InvalidImage: the file cannot be read, or it is no picture at all.
    """
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(picture, Path):
        try:
            with picture.open("rb") as file:
                while chunk := file.read(_READ):
                    digest.update(chunk)
        except OSError as error:
            raise InvalidImage(_unreadable(error)) from error
    elif isinstance(picture, bytes):
        digest.update(picture)
    else:
        pixels = load_picture(picture)[0]
        digest.update(repr(pixels.shape).encode())
        digest.update(np.ascontiguousarray(pixels).tobytes())
    return digest.hexdigest()


def load_picture(picture: Picture) -> tuple[Pixels, dict[str, Any]]:
    """The upright pixels and the automatic fields of a picture, without path and content hash.

    Raises:
        InvalidImage: it cannot be used; the message is the reason.
    """
    if isinstance(picture, Path):
        return _load_bytes(_read(picture))
    if isinstance(picture, bytes | bytearray | memoryview):
        return _load_bytes(bytes(picture))
    pixels = images.from_array(picture) if isinstance(picture, np.ndarray) else images.from_pil(picture)
    return pixels, {"width": pixels.shape[1], "height": pixels.shape[0]}


def _read(path: Path) -> bytes:
    limit = images.Limits().max_bytes
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InvalidImage("not a regular file")
        if status.st_size > limit:
            raise InvalidImage(f"{status.st_size} bytes, the limit is {limit}")
        return path.read_bytes()
    except OSError as error:
        raise InvalidImage(_unreadable(error)) from error


def _unreadable(error: OSError) -> str:
    return f"cannot be read: {(error.strerror or str(error)).lower()}"


def _load_bytes(source: bytes) -> tuple[Pixels, dict[str, Any]]:
    decoded = images.decode(source)
    fields: dict[str, Any] = {"width": decoded.width, "height": decoded.height}
    if decoded.taken is not None:
        fields["taken"] = decoded.taken
    if decoded.place is not None:
        fields["place"] = {"lat": decoded.place[0], "lon": decoded.place[1]}
    return decoded.pixels, fields


# --- the pipeline -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Seen:
    """An item with its content hash and the payload it is to have, automatic fields still missing."""

    id: str
    item: Item
    content: str
    payload: Payload


@dataclass(frozen=True, slots=True)
class _Ready:
    seen: _Seen
    prepared: NDArray[Any]
    fields: Mapping[str, Any]


class _Tally:
    """The report while it grows."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self.added = self.reused = self.unchanged = self.ignored = 0
        self.quarantined: list[Quarantined] = []

    def report(self, notices: Sequence[str]) -> Report:
        return Report(
            added=self.added,
            reused=self.reused,
            unchanged=self.unchanged,
            ignored=self.ignored,
            quarantined=tuple(self.quarantined),
            notices=tuple(notices),
            seconds=time.monotonic() - self._started,
        )

    def quarantine(self, item: Item, error: Exception) -> None:
        self.quarantined.append(Quarantined(item.label, str(error)))


def ingest(
    items: Iterable[Item | None],
    collection: Collection,
    encoder: Encoder,
    *,
    vector: str,
    tokens: bool = False,
    notices: Sequence[str] = (),
    progress: Progress | None = None,
    threads: int | None = None,
) -> Report:
    """Add pictures to a collection that declares the ``AUTOMATIC`` fields.

    ``items`` may hold None for what was passed over. ``vector`` is the name the vectors are written
    under. With ``tokens`` records get the encoder's tokens too.

    Raises:
        StoreError: the store failed; what was written stays, and adding again goes on from there.
    """
    tally = _Tally()
    pool = ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1), thread_name_prefix="pixdex-decode")
    try:
        pipeline = _Pipeline(collection, encoder, vector, tokens, pool, tally)
        ahead: list[tuple[Item, Future[str]]] = []
        for chunk in _chunks(_pictures(items, tally)):
            hashing = [(item, pool.submit(content_hash, item.picture)) for item in chunk]
            pipeline.write(ahead)  # while the next chunk is being hashed
            ahead = hashing
            if progress is not None and tally.report(notices).seen:
                progress(tally.report(notices))
        pipeline.write(ahead)
        collection.flush()
    finally:
        pool.shutdown(cancel_futures=True)
    report = tally.report(notices)
    if progress is not None:
        progress(report)
    return report


def _pictures(items: Iterable[Item | None], tally: _Tally) -> Iterator[Item]:
    for item in items:
        if item is None:
            tally.ignored += 1
        else:
            yield item


def _chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk


class _Pipeline:
    """From hashed items to written records, a chunk at a time."""

    def __init__(
        self, collection: Collection, encoder: Encoder, vector: str, tokens: bool, pool: ThreadPoolExecutor, tally: _Tally  # noqa: FBT001 - private, one call
    ) -> None:
        self._collection = collection
        self._encoder = encoder
        self._vector = vector
        self._tokens = tokens
        self._pool = pool
        self._tally = tally

    def write(self, hashing: Sequence[tuple[Item, Future[str]]]) -> None:
        seen = self._without_known(self._hashed(hashing))
        fresh = self._reuse(seen)
        for batch in self._encoded(fresh):
            self._collection.upsert(batch)
            self._tally.added += len(batch)

    def _hashed(self, hashing: Sequence[tuple[Item, Future[str]]]) -> list[_Seen]:
        """The items whose bytes could be read; of the same id the last stands."""
        seen: dict[str, _Seen] = {}
        for item, future in hashing:
            try:
                content = future.result()
            except InvalidImage as error:
                self._tally.quarantine(item, error)
                continue
            payload = {**item.payload, CONTENT: content}
            if isinstance(item.picture, Path):
                payload["path"] = shown(item.picture.absolute())
            record = item.id or content
            if record in seen:
                self._tally.unchanged += 1
            seen[record] = _Seen(record, item, content, payload)
        return list(seen.values())

    def _without_known(self, seen: Sequence[_Seen]) -> list[_Seen]:
        """Those whose record is missing or differs in content, fields or tokens."""
        if not seen:
            return []
        stored = self._collection.fetch([s.id for s in seen], want=Want(payload=True, tokens=self._tokens))
        row_of = {record: row for row, record in enumerate(stored.ids)}
        changed = []
        for one in seen:
            row = row_of.get(one.id)
            if row is not None and self._holds(stored, row, one.payload):
                self._tally.unchanged += 1
            else:
                changed.append(one)
        return changed

    def _holds(self, stored: Batch, row: int, payload: Payload) -> bool:
        if self._tokens and (stored.tokens is None or stored.tokens[row] is None):
            return False
        there = stored.payloads[row] if stored.payloads is not None else {}
        return all(key in there and self._same(key, there[key], value) for key, value in payload.items())

    def _same(self, key: str, stored: Any, given: Any) -> bool:
        declared = self._collection.spec.field(key)
        return bool(stored == given if declared is None else coerce(declared, stored) == coerce(declared, given))

    def _reuse(self, seen: Sequence[_Seen]) -> list[_Seen]:
        """Write those whose content the collection knows under any id with its vectors; the others are left."""
        known = self._known_content({s.content for s in seen})
        rows = [known.get((one.id, one.content)) or known.get(("", one.content)) for one in seen]
        old = [(one, *row) for one, row in zip(seen, rows, strict=True) if row is not None]
        if old:
            self._collection.upsert(_copies(old, self._vector, tokens=self._tokens))
            self._tally.reused += len(old)
        return [one for one, row in zip(seen, rows, strict=True) if row is None]

    def _known_content(self, contents: set[str]) -> dict[tuple[str, str], tuple[Batch, int]]:
        """(id, content hash) -> that stored record, when it has all that is needed; ("", content hash)
        -> any such record, so that a record of its own comes first and keeps its fields."""
        known: dict[tuple[str, str], tuple[Batch, int]] = {}
        if not contents:
            return known
        want = Want(payload=True, vectors=(self._vector,), tokens=self._tokens)
        for page in self._collection.scan(where=F[CONTENT].is_in(sorted(contents)), want=want):
            batch = page.batch
            present = batch.present(self._vector)
            for row, payload in enumerate(batch.payloads or ()):
                complete = present[row] and (not self._tokens or (batch.tokens and batch.tokens[row] is not None))
                if complete:
                    known[batch.ids[row], payload[CONTENT]] = (batch, row)
                    known.setdefault(("", payload[CONTENT]), (batch, row))
        return known

    def _encoded(self, seen: Sequence[_Seen]) -> Iterator[Batch]:
        """The items decoded in threads, encoded in batches, in order."""
        futures = [self._pool.submit(self._prepare, one) for one in seen]
        ready: list[_Ready] = []
        pieces: list[Batch] = []
        for one, future in zip(seen, futures, strict=True):
            try:
                ready.append(future.result())
            except InvalidImage as error:
                self._tally.quarantine(one.item, error)
            if len(ready) == self._encoder.batch_size:
                pieces.append(self._encode(ready))
                ready = []
        if ready:
            pieces.append(self._encode(ready))
        if pieces:
            yield _joined(pieces, self._vector)

    def _prepare(self, seen: _Seen) -> _Ready:
        pixels, fields = load_picture(seen.item.picture)
        return _Ready(seen, self._encoder.prepare(pixels), fields)

    def _encode(self, ready: Sequence[_Ready]) -> Batch:
        features = self._encoder.encode([one.prepared for one in ready], tokens=self._tokens)
        return Batch(
            tuple(one.seen.id for one in ready),
            {self._vector: features.vectors},
            tuple({**one.fields, **one.seen.payload} for one in ready),
            features.tokens,
        )


def _copies(old: Sequence[tuple[_Seen, Batch, int]], vector: str, *, tokens: bool) -> Batch:
    """Records of known content: stored vectors and fields, the new payload over them."""
    taken = [(one, batch.take([row])) for one, batch, row in old]
    automatic = {f.name for f in AUTOMATIC}
    payloads = []
    for one, batch in taken:
        before = (batch.payloads or ({},))[0]
        same_record = batch.ids[0] == one.id
        kept = {key: value for key, value in before.items() if same_record or key in automatic}
        payloads.append({**kept, **one.payload})
    return Batch(
        tuple(one.id for one, _ in taken),
        {vector: np.concatenate([batch.vectors[vector] for _, batch in taken])},
        tuple(payloads),
        tuple((batch.tokens or (None,))[0] for _, batch in taken) if tokens else None,
    )


def _joined(pieces: Sequence[Batch], vector: str) -> Batch:
    return Batch(
        tuple(record for piece in pieces for record in piece.ids),
        {vector: np.concatenate([piece.vectors[vector] for piece in pieces])},
        tuple(payload for piece in pieces for payload in piece.payloads or ()),
        tuple(matrix for piece in pieces for matrix in piece.tokens or ()) or None,
    )


def infer(name: str, value: Any) -> Field | None:
    """The field that a value suggests; None when it suggests none.

    Raises:
        ConfigError: the name cannot be a field's.
    """
    many = isinstance(value, list | set | frozenset)
    example = next(iter(value), None) if many else value
    kind = _kind(example)
    return None if kind is None else Field(name=name, kind=kind, many=many)


def _kind(value: Any) -> Kind | None:
    from datetime import datetime

    if isinstance(value, bool):
        return Kind.BOOL
    if isinstance(value, tuple) or (isinstance(value, Mapping) and value.keys() == {"lat", "lon"}):
        return Kind.GEO
    kinds = ((int, Kind.INT), (float, Kind.FLOAT), (str, Kind.TEXT), (datetime, Kind.TIME))
    return next((kind for python, kind in kinds if isinstance(value, python)), None)


def check_user_fields(fields: Mapping[str, Any]) -> None:
    """Refuse names that pixdex fills itself.

    Raises:
        ConfigError: the name is taken.
    """
    taken = {f.name for f in AUTOMATIC} & fields.keys()
    if taken:
        raise ConfigError(f"field {sorted(taken)[0]!r} is filled by pixdex: use another name")
