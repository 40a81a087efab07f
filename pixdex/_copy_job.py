"""What a copy remembers between two runs: how far it came, and which records are its own. An SQLite file.

After every write that the target acknowledged one transaction holds the digests of its ids and the cursor behind it, so
that a copy that was killed writes at most one page twice.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from pixdex.errors import ConfigError, StoreFull

__all__ = ["Job", "Refused", "digest_of", "told"]

_VERSION = 1
_DIGEST = 16
_PROBES = 32
_TABLES = """
CREATE TABLE IF NOT EXISTS facts(name TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS written(id BLOB);
CREATE TABLE IF NOT EXISTS recent(id BLOB PRIMARY KEY, rev INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS refused(id TEXT PRIMARY KEY, reason TEXT) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Refused:
    """A record that the target cannot hold, and why."""

    id: str
    reason: str


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
                "what was copied stays"
            ) from error
        raise ConfigError(
            f"{path}, where the job is remembered, cannot be used ({error}): remove it to begin anew"
        ) from error


class Job:
    """A copy that was begun, or is about to be. Used by one thread. A context: leaving it closes the file."""

    def __init__(self, path: Path) -> None:
        """The job kept in the file ``path``, made where there is none.

        Raises:
            ConfigError: the file is no such one.
            StoreFull: no room for it.
        """
        self._path = path
        with told(path):
            self._db = sqlite3.connect(path, isolation_level=None)
            try:
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=NORMAL")
                self._db.executescript(_TABLES)
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

    # --- facts ---

    def fact(self, name: str, default: Any = None) -> Any:
        """What was remembered under that name."""
        return self._facts.get(name, default)

    def remember(self, **facts: Any) -> None:
        """Keep facts, JSON values, together."""
        with self._writing():
            self._keep(facts)

    def _keep(self, facts: dict[str, Any]) -> None:
        rows = [(name, orjson.dumps(value)) for name, value in facts.items()]
        self._db.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", rows)
        self._facts.update(facts)

    @property
    def begun(self) -> bool:
        """Whether it has written something, or was about to."""
        return bool(self.fact("intended"))

    def forget(self) -> None:
        """Begin anew."""
        with self._writing():
            for table in ("facts", "written", "recent", "refused"):
                self._db.execute(f"DELETE FROM {table}")  # noqa: S608 - the names above
        self._facts = {}
        self.remember(version=_VERSION)

    # --- records ---

    def intend(self, ids: Sequence[str]) -> None:
        """These are about to be written: from now on they count as this job's."""
        with self._writing():
            self._db.executemany("INSERT INTO written VALUES (?)", [(digest_of(record),) for record in ids])
            if not self.begun:
                self._keep({"intended": True})

    def acknowledge(
        self,
        ids: Sequence[str],
        *,
        seen: int,
        refused: Sequence[Refused] = (),
        recent: Sequence[tuple[str, int]] = (),
        **facts: Any,
    ) -> None:
        """The target holds these ids now; ``seen`` records were read for it, those of ``recent`` with their revisions.
        Further ``facts``, such as the cursor, are kept with it.
        """
        facts |= {"written": self.fact("written", 0) + len(ids), "seen": self.fact("seen", 0) + seen}
        probes = self.fact("probes", [])
        if ids and len(probes) < _PROBES:
            facts["probes"] = [*probes, ids[0]]
        with self._writing():
            if recent:
                rows = [(digest_of(record), rev) for record, rev in recent]
                self._db.executemany("INSERT OR REPLACE INTO recent VALUES (?, ?)", rows)
            if self.fact("refused"):
                self._db.executemany("DELETE FROM refused WHERE id = ?", [(record,) for record in ids])
            if refused:
                facts["refused"] = True
                rows_refused = [(row.id, row.reason) for row in refused]
                self._db.executemany("INSERT OR REPLACE INTO refused VALUES (?, ?)", rows_refused)
            self._keep(facts)

    def known(self, ids: Sequence[str], revs: Sequence[int]) -> list[bool]:
        """Which records were copied with just this revision, of those whose revisions are remembered."""
        found = self._db.execute
        with told(self._path):
            pairs = zip(ids, revs, strict=True)
            return [
                found("SELECT 1 FROM recent WHERE id = ? AND rev = ?", (digest_of(record), rev)).fetchone() is not None
                for record, rev in pairs
            ]

    def forget_before(self, rev: int) -> None:
        """Let go of revisions that no pass will meet again."""
        with self._writing():
            self._db.execute("DELETE FROM recent WHERE rev <= ?", (rev,))

    def wrote(self, ids: Iterable[str]) -> set[str]:
        """Those that this job has written, or may have."""
        with self._writing():
            self._db.execute("CREATE INDEX IF NOT EXISTS written_id ON written(id)")
        find = self._db.execute
        with told(self._path):
            return {
                record
                for record in ids
                if find("SELECT 1 FROM written WHERE id = ?", (digest_of(record),)).fetchone() is not None
                and find("SELECT 1 FROM refused WHERE id = ?", (record,)).fetchone() is None
            }

    def refused(self) -> list[Refused]:
        """The records that the target cannot hold."""
        with told(self._path):
            return [Refused(*row) for row in self._db.execute("SELECT id, reason FROM refused ORDER BY id")]

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
