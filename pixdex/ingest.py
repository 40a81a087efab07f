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
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np
from PIL import Image

from pixdex._records import coerce
from pixdex.encoders import images
from pixdex.errors import ConfigError, InvalidImage
from pixdex.filters import F
from pixdex.types import MAX_ID_BYTES, MAX_TEXT_BYTES, Batch, Field, Kind, Metric, Payload, Want

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pixdex.collection import Collection
    from pixdex.encoders.port import Encoder, Pixels

__all__ = [
    "AUTOMATIC",
    "CONTENT",
    "NO_PICTURE",
    "Item",
    "Picture",
    "Progress",
    "Quarantined",
    "Report",
    "check_user_fields",
    "content_hash",
    "from_files",
    "infer",
    "ingest",
    "is_folder",
    "is_picture",
    "load_picture",
    "path_exists",
    "shown",
]

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

_AUTOMATIC_NAMES = frozenset(f.name for f in AUTOMATIC)

SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"})
_CHUNK = 128
_READ = 1 << 20

Picture: TypeAlias = Any
"""A path, bytes of a picture file, an array or a PIL image."""
NO_PICTURE = "a picture is a path, bytes, a uint8 array or a PIL image, not {}"


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

    Links to folders are not followed, so that loops end. A folder that cannot be read stands for itself,
    so that the report names it.
    """
    if not is_folder(root):
        yield Item(_path_id(source, root.name), root)
        return
    closed: list[OSError] = []
    for folder, folders, names in os.walk(root, onerror=closed.append):
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            yield Item(_path_id(source, path.relative_to(root).as_posix()), path) if _is_picture(path) else None
    for error in closed:
        path = Path(error.filename)
        yield Item(_path_id(source, path.relative_to(root).as_posix()), path)


def is_folder(path: Path) -> bool:
    """Whether the path is a folder; what the system refuses to look at is none."""
    try:
        return path.is_dir()
    except OSError:
        return False


def path_exists(path: Path) -> bool:
    """Whether there is something at the path, be it a link that leads nowhere; what the system refuses to
    look at is not there.
    """
    try:
        return path.exists() or path.is_symlink()
    except OSError:
        return False


def _is_picture(path: Path) -> bool:
    """By its suffix, whatever stands under it; a file of another name by its first bytes."""
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            head = file.read(12)
    except OSError:
        return False
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
            with _opened(picture) as file:
                while chunk := file.read(_READ):
                    digest.update(chunk)
        except OSError as error:
            raise InvalidImage(_unreadable(error)) from error
    elif isinstance(picture, bytes | bytearray | memoryview):
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
    if not is_picture(picture):
        raise InvalidImage(NO_PICTURE.format(type(picture).__name__))
    pixels = images.from_array(picture) if isinstance(picture, np.ndarray) else images.from_pil(picture)
    return pixels, {"width": pixels.shape[1], "height": pixels.shape[0]}


def is_picture(value: Any) -> bool:
    """Whether ``value`` is of a type that can be a picture."""
    return isinstance(value, str | os.PathLike | bytes | bytearray | memoryview | np.ndarray | Image.Image)


def _read(path: Path) -> bytes:
    try:
        with _opened(path) as file:
            return file.read()
    except OSError as error:
        raise InvalidImage(_unreadable(error)) from error


def _opened(path: Path) -> BinaryIO:
    """The file, once it is known that reading it comes to an end."""
    try:
        status = path.stat()
    except ValueError as error:
        raise InvalidImage(f"not a path: {error}") from error
    if stat.S_ISDIR(status.st_mode):
        raise InvalidImage("a folder, which cannot be read as a picture or walked")
    if not stat.S_ISREG(status.st_mode):
        raise InvalidImage("not a regular file")
    limit = images.Limits().max_bytes
    if status.st_size > limit:
        raise InvalidImage(f"{status.st_size} bytes, the limit is {limit}")
    return path.open("rb")


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
        pipeline = _Pipeline(collection, encoder, vector=vector, tokens=tokens, pool=pool, tally=tally)
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
        self,
        collection: Collection,
        encoder: Encoder,
        *,
        vector: str,
        tokens: bool,
        pool: ThreadPoolExecutor,
        tally: _Tally,
    ) -> None:
        self._collection = collection
        self._encoder = encoder
        self._vector = vector
        self._tokens = tokens
        self._pool = pool
        self._tally = tally

    def write(self, hashing: Sequence[tuple[Item, Future[str]]]) -> None:
        fresh = self._reuse(self._without_known(self._hashed(hashing)))
        firsts = list({one.content: one for one in reversed(fresh)}.values())[::-1]
        self._add(firsts)
        copies = [one for one in fresh if all(one is not first for first in firsts)]
        self._add(self._reuse(copies))  # what is left of them: their first could not be used, or is not visible yet

    def _add(self, seen: Sequence[_Seen]) -> None:
        for batch in self._encoded(seen):
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
                path = shown(item.picture.absolute())
                if len(path.encode()) <= MAX_TEXT_BYTES:  # escapes may make a long path longer than a field
                    payload["path"] = path
            record = item.id or content
            if record in seen:
                self._tally.unchanged += 1
            seen[record] = _Seen(record, item, content, payload)
        return list(seen.values())

    def _without_known(self, seen: Sequence[_Seen]) -> list[_Seen]:
        """Those whose record is missing or differs in content, fields or tokens; with the fields it has."""
        if not seen:
            return []
        stored = self._collection.fetch([s.id for s in seen], want=Want(payload=True, tokens=self._tokens))
        row_of = {record: row for row, record in enumerate(stored.ids)}
        changed = []
        for one in seen:
            row = row_of.get(one.id)
            if row is None:
                changed.append(one)
            elif self._holds(stored, row, one.payload):
                self._tally.unchanged += 1
            else:
                before = (stored.payloads or ())[row]
                kept = {key: value for key, value in before.items() if key not in _AUTOMATIC_NAMES}
                changed.append(replace(one, payload={**kept, **one.payload}))
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
        own = self._own(seen)
        others = self._of_content({one.content for one in seen if one.id not in own})
        rows = [own.get(one.id) or others.get(one.content) for one in seen]
        old = [(one, row) for one, row in zip(seen, rows, strict=True) if row is not None]
        if old:
            self._collection.upsert(self._copies(old))
            self._tally.reused += len(old)
        return [one for one, row in zip(seen, rows, strict=True) if row is None]

    def _own(self, seen: Sequence[_Seen]) -> dict[str, Batch]:
        """Id -> the record of that id, where it has the same content and all that is needed."""
        if not seen:
            return {}
        batch = self._collection.fetch([one.id for one in seen], want=self._everything)
        content = {one.id: one.content for one in seen}
        return {r.ids[0]: r for r in self._usable(batch) if (r.payloads or ({},))[0].get(CONTENT) == content[r.ids[0]]}

    def _of_content(self, contents: set[str]) -> dict[str, Batch]:
        """Content hash -> any record of it that has all that is needed. A content is asked for until it
        is found, so that thousands of copies of one picture cost a page and not all of them.
        """
        known: dict[str, Batch] = {}
        left = set(contents)
        while left and self._found(left, known):
            left -= known.keys()
        return known

    def _found(self, contents: set[str], known: dict[str, Batch]) -> bool:
        """Add what the first page that has something has; False when no page has."""
        where = F[CONTENT].is_in(sorted(contents))
        for page in self._collection.scan(where=where, want=self._everything, size=_CHUNK):
            usable = self._usable(page.batch)
            for record in usable:
                known.setdefault((record.payloads or ({},))[0][CONTENT], record)
            if usable:
                return True
        return False

    @property
    def _everything(self) -> Want:
        spec = self._collection.spec
        return Want(vectors=tuple(v.name for v in spec.vectors), tokens=spec.tokens is not None)

    def _usable(self, batch: Batch) -> list[Batch]:
        """The records that have a vector, and tokens when those are asked for, as batches of one."""
        rows = np.flatnonzero(batch.present(self._vector)).tolist()
        records = [batch.take([row]) for row in rows]
        return [r for r in records if not (self._tokens and _tokens(r) is None)]

    def _copies(self, old: Sequence[tuple[_Seen, Batch]]) -> Batch:
        """Records of known content: its vector, tokens and automatic fields, the payload of the new one over
        them. A record that is written again keeps its other vectors too: they need not be of the picture.
        """
        payloads = []
        for one, record in old:
            before = (record.payloads or ({},))[0]
            automatic = {key: value for key, value in before.items() if key in _AUTOMATIC_NAMES}
            payloads.append({**automatic, **one.payload})
        vectors, absent = {}, {}
        for vector in self._collection.spec.vectors:
            kept = np.array(
                [r.present(vector.name)[0] and (vector.name == self._vector or r.ids[0] == one.id) for one, r in old]
            )
            if kept.any():
                vectors[vector.name] = np.concatenate([record.vectors[vector.name] for _, record in old])
                absent[vector.name] = ~kept
        tokens = tuple(_tokens(record) for _, record in old)
        return Batch(tuple(one.id for one, _ in old), vectors, tuple(payloads), tokens, absent)

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
            yield Batch.concat(pieces)

    def _prepare(self, seen: _Seen) -> _Ready:
        try:
            pixels, fields = load_picture(seen.item.picture)
            return _Ready(seen, self._encoder.prepare(pixels), fields)
        except InvalidImage:
            raise
        except MemoryError as error:
            raise InvalidImage("not enough memory to decode it") from error
        except Exception as error:  # an encoder is anybody's code, and one picture stops nothing
            raise InvalidImage(f"encoder {self._encoder.name!r} cannot prepare it: {error!r}") from error

    def _encode(self, ready: Sequence[_Ready]) -> Batch:
        features = self._encoder.encode([one.prepared for one in ready], tokens=self._tokens)
        batch = Batch(
            tuple(one.seen.id for one in ready),
            {self._vector: features.vectors},
            tuple({**one.fields, **one.seen.payload} for one in ready),
            features.tokens,
        )
        good = np.isfinite(features.vectors).all(axis=1)
        if self._collection.spec.vector(self._vector).metric is Metric.COSINE:
            good &= features.vectors.any(axis=1)
        for row in np.flatnonzero(~good).tolist():
            error = InvalidImage(f"encoder {self._encoder.name!r} makes no usable vector of it")
            self._tally.quarantine(ready[row].seen.item, error)
        return batch if good.all() else batch.take(np.flatnonzero(good).tolist())


def _tokens(record: Batch) -> NDArray[Any] | None:
    """The tokens of a batch of one."""
    return (record.tokens or (None,))[0]


def infer(name: str, value: Any) -> Field | None:
    """The field that a value suggests; None when it suggests none.

    Raises:
        ConfigError: the name cannot be a field's.
    """
    many = isinstance(value, list | tuple | set | frozenset) and not _is_place(value)
    example = next(iter(value), None) if many else value
    kind = _kind(example)
    return None if kind is None else Field(name=name, kind=kind, many=many)


def _kind(value: Any) -> Kind | None:
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool):
        return Kind.BOOL
    if _is_place(value):
        return Kind.GEO
    kinds = ((int, Kind.INT), (float, Kind.FLOAT), (str, Kind.TEXT), (datetime, Kind.TIME))
    return next((kind for python, kind in kinds if isinstance(value, python)), None)


def _is_place(value: Any) -> bool:
    """A tuple of two numbers; a list of two may be a list of numbers."""
    if isinstance(value, Mapping):
        return value.keys() == {"lat", "lon"}
    return isinstance(value, tuple) and len(value) == 2 and all(isinstance(v, int | float) for v in value)


def check_user_fields(fields: Mapping[str, Any]) -> None:
    """Refuse names that pixdex fills itself.

    Raises:
        ConfigError: the name is taken.
    """
    taken = _AUTOMATIC_NAMES & fields.keys()
    if taken:
        raise ConfigError(f"field {min(taken)!r} is filled by pixdex: use another name")
