"""What a long job remembers between two runs: facts by name, and tables of its own, in an SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import orjson

from pixdex.errors import ConfigError, StoreFull

__all__ = ["Facts", "digest_of", "told"]

_VERSION = 1
_DIGEST = 16


def digest_of(record: str) -> bytes:
    """16 bytes that stand for an id."""
    return blake2b(record.encode(), digest_size=_DIGEST).digest()


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Errors of SQLite on the file ``path`` as pixdex says them."""
    try:
        yield
    except sqlite3.Error as error:
        if "full" in str(error) or "disk I/O" in str(error):
            raise StoreFull(
                f"no room for {path}, where the job is remembered: free some space and give the same command again; "
                "what was written stays"
            ) from error
        raise ConfigError(
            f"{path}, where the job is remembered, cannot be used ({error}): remove it to begin anew"
        ) from error


class Facts:
    """JSON values by name, and the ``TABLES`` of a kind of job: what makes each, by its name.

    Used by one thread. A context: leaving it closes the file. ``SYNCHRONOUS`` is SQLite's: with NORMAL the last transactions may
    be gone after a power cut, never after a kill.
    """

    TABLES: ClassVar[dict[str, str]] = {}
    SYNCHRONOUS: ClassVar[str] = "NORMAL"

    def __init__(self, path: Path) -> None:
        """Those kept in the file ``path``, made where there is none.

        Raises:
            ConfigError: the file is no such one.
            StoreFull: no room for it.
        """
        self._path = path
        with told(path):
            self._db = sqlite3.connect(path, isolation_level=None)
            try:
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute(f"PRAGMA synchronous={self.SYNCHRONOUS}")
                self._db.execute("CREATE TABLE IF NOT EXISTS facts(name TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID")
                for name, columns in self.TABLES.items():
                    self._db.execute(f"CREATE TABLE IF NOT EXISTS {name}{columns}")
                self._facts = {name: orjson.loads(value) for name, value in self._db.execute("SELECT * FROM facts")}
            except BaseException:
                self._db.close()
                raise
        if self._facts.get("version", _VERSION) != _VERSION:
            self._db.close()
            raise ConfigError(f"{path} was written by another pixdex: remove it to begin anew")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def fact(self, name: str, default: Any = None) -> Any:
        """What was remembered under that name."""
        return self._facts.get(name, default)

    def remember(self, **facts: Any) -> None:
        """Keep facts, JSON values, together."""
        with self._writing():
            self._keep(facts)

    def forget(self) -> None:
        """Begin anew."""
        with self._writing():
            for table in ("facts", *self.TABLES):
                self._db.execute(f"DELETE FROM {table}")  # noqa: S608 - the names above
        self._facts = {}
        self.remember(version=_VERSION)

    def _keep(self, facts: dict[str, Any]) -> None:
        rows = [(name, orjson.dumps(value)) for name, value in facts.items()]
        self._db.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", rows)
        self._facts.update(facts)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with told(self._path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise
