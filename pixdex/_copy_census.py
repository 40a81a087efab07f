"""The ids of two collections, side by side on disk: what one has and the other lacks, in bounded memory."""

# ruff: noqa: S608 - only the names of the two sides stand in the text

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, TypeAlias

from pixdex._copy_moving import ahead
from pixdex._facts import told
from pixdex.types import Want

if TYPE_CHECKING:
    from pixdex.collection import Collection

__all__ = ["Census", "Side"]

Side: TypeAlias = Literal["source", "target"]

_PAGE = 10_000
_CHUNK = 1000
_SAMPLED = 250
"""Records that are compared at once: their vectors are lists of numbers in some clients, which take ten times the room."""


class Census:
    """A context: the file is removed when it is left."""

    def __init__(self, path: Path) -> None:
        """Kept in the file ``path`` meanwhile, about 50 bytes and the id for each record."""
        self._path = path

    def __enter__(self) -> Self:
        self._remove()
        with told(self._path):
            self._db = sqlite3.connect(self._path, isolation_level=None)
            for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-32000"):
                self._db.execute(f"PRAGMA {pragma}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()
        self._remove()

    def _remove(self) -> None:
        self._path.unlink(missing_ok=True)

    def take(self, side: Side, collection: Collection, *, follow: Callable[[int], None]) -> None:
        """Read the ids of a collection; ``follow`` hears how many were read."""
        with told(self._path):
            self._db.execute(f"DROP TABLE IF EXISTS {side}")
            self._db.execute(f"CREATE TABLE {side}(id BLOB)")
            count = 0
            with closing(ahead(collection.scan(want=Want(payload=False), size=_PAGE))) as found:
                for page in found:
                    rows = [(record.encode(),) for record in page.batch.ids]
                    self._db.execute("BEGIN")
                    self._db.executemany(f"INSERT INTO {side} VALUES (?)", rows)
                    self._db.execute("COMMIT")
                    count += len(rows)
                    follow(count)
            self._db.execute(f"CREATE INDEX {side}_id ON {side}(id)")

    def count(self, side: Side) -> int:
        """How many ids it has, each counted once."""
        return int(self._one(f"SELECT count(DISTINCT id) FROM {side}"))

    def twice(self, side: Side) -> int:
        """How many rows more than ids there are: a store that gives a record twice."""
        return int(self._one(f"SELECT count(*) FROM {side}")) - self.count(side)

    def missing(self, side: Side) -> Iterator[list[str]]:
        """The ids that this side lacks and the other one has, sorted, some at a time."""
        other: Side = "target" if side == "source" else "source"
        yield from self._several(
            f"SELECT DISTINCT id FROM {other} o WHERE NOT EXISTS (SELECT 1 FROM {side} s WHERE s.id = o.id) ORDER BY id"
        )

    def sample(self, side: Side, count: int | None, seed: int = 0) -> Iterator[list[str]]:
        """Ids of that side, chosen at random, each as likely; all for None. Some at a time."""
        total = int(self._one(f"SELECT count(*) FROM {side}"))
        if count is None or count >= total:
            yield from self._several(f"SELECT DISTINCT id FROM {side} ORDER BY id", _SAMPLED)
            return
        rows = sorted(random.Random(seed).sample(range(1, total + 1), count))
        for start in range(0, len(rows), _SAMPLED):
            piece = rows[start : start + _SAMPLED]
            marks = ",".join("?" * len(piece))
            with told(self._path):
                found = self._db.execute(f"SELECT id FROM {side} WHERE rowid IN ({marks})", piece).fetchall()
            yield [record.decode() for (record,) in found]

    def digest(self, side: Side) -> str:
        """BLAKE2b-128 over the sorted ids, each after its length."""
        digest = blake2b(digest_size=16)
        for ids in self._several(f"SELECT DISTINCT id FROM {side} ORDER BY id"):
            for record in ids:
                raw = record.encode()
                digest.update(len(raw).to_bytes(2, "big") + raw)
        return digest.hexdigest()

    def _several(self, query: str, size: int = _CHUNK) -> Iterator[list[str]]:
        with told(self._path):
            cursor = self._db.execute(query)
            while rows := cursor.fetchmany(size):
                yield [record.decode() for (record,) in rows]

    def _one(self, query: str) -> int:
        with told(self._path):
            found: int = self._db.execute(query).fetchone()[0]
            return found
