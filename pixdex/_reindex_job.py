"""What a reindexing remembers between two runs: how far it came, which records of the new collection are its own and of which
revision, and which it had to leave out. An SQLite file; and where aliases were switched, so that they can be switched back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import orjson

from pixdex._facts import Facts, digest_of, told
from pixdex.errors import ConfigError, StoreFull

__all__ = ["Flip", "Flips", "Ledger", "Missing"]


@dataclass(frozen=True, slots=True)
class Missing:
    """A record that the new collection lacks, the revision that was tried, and why."""

    id: str
    rev: int
    reason: str


class Ledger(Facts):
    """The job of one new collection. What it is about to write is noted before it is written, and again after."""

    TABLES: ClassVar[dict[str, str]] = {
        "own": "(id BLOB, rev INTEGER, done INTEGER, PRIMARY KEY (id, rev)) WITHOUT ROWID",
        "missing": "(id TEXT PRIMARY KEY, rev INTEGER, reason TEXT) WITHOUT ROWID",
    }
    SYNCHRONOUS = "FULL"
    """What is its own must be known after a power cut, too."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with told(path):
            self._unsure = set(self._db.execute("SELECT id, rev FROM own WHERE done = 0"))

    def forget(self) -> None:
        """Begin anew."""
        super().forget()
        self._unsure.clear()

    def plan(self, records: Iterable[tuple[str, int]]) -> None:
        """These records are about to be written, with these revisions."""
        with self._writing():
            rows = [(digest_of(record), rev) for record, rev in records]
            self._db.executemany("INSERT OR IGNORE INTO own VALUES (?, ?, 0)", rows)

    def note(self, records: Sequence[tuple[str, int]], missing: Sequence[Missing] = (), **facts: Any) -> None:
        """The new collection holds these records now, and lacks those of ``missing``."""
        with self._writing():
            rows = [(digest_of(record), rev) for record, rev in records]
            self._db.executemany("UPDATE own SET done = 1 WHERE id = ? AND rev = ?", rows)
            self._db.executemany("DELETE FROM missing WHERE id = ?", [(record,) for record, _ in records])
            values = [(row.id, row.rev, row.reason) for row in missing]
            self._db.executemany("INSERT OR REPLACE INTO missing VALUES (?, ?, ?)", values)
            self._keep({**facts, "written": self.fact("written", 0) + len(records)})

    def confirm(self, records: Sequence[tuple[str, int]]) -> None:
        """The new collection was found to hold these records: a run that was killed may have written some and not noted it."""
        found = [pair for pair in records if (digest_of(pair[0]), pair[1]) in self._unsure] if self._unsure else []
        if found:
            self.note(found)
            self._unsure -= {(digest_of(record), rev) for record, rev in found}

    def own(self, record: str, rev: int) -> bool:
        """Whether this job wrote that record with that revision, or was about to."""
        return self._done(record, rev) is not None

    def copied(self, record: str, rev: int) -> bool:
        """Whether the new collection once held that record with that revision."""
        return self._done(record, rev) == 1

    def _done(self, record: str, rev: int) -> int | None:
        with told(self._path):
            asked = "SELECT done FROM own WHERE id = ? AND rev = ?"
            found = self._db.execute(asked, (digest_of(record), rev)).fetchone()
        return None if found is None else int(found[0])

    def missing(self) -> list[Missing]:
        """What could not be encoded."""
        with told(self._path):
            return [Missing(*row) for row in self._db.execute("SELECT id, rev, reason FROM missing ORDER BY id")]

    def left_out(self, record: str) -> int | None:
        """The revision of a record that could not be encoded; None for others."""
        with told(self._path):
            found = self._db.execute("SELECT rev FROM missing WHERE id = ?", (record,)).fetchone()
        return None if found is None else int(found[0])

    def gone(self, ids: Sequence[str]) -> None:
        """Records that the old collection has no more: nothing of them is missing."""
        with self._writing():
            self._db.executemany("DELETE FROM missing WHERE id = ?", [(record,) for record in ids])


# --- where an alias was switched ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """An alias was switched: from which collection to which, and at which revision (microseconds).

    ``ended``: what was written to the old one until that moment is in the new one.
    """

    old: str
    new: str
    at: int
    ended: bool = False


class Flips:
    """The switches of one alias, the last one last: a file of JSON."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> list[Flip]:
        """All of them.

        Raises:
            ConfigError: the file is no such one.
        """
        try:
            return [Flip(**row) for row in orjson.loads(self._path.read_bytes())]
        except FileNotFoundError:
            return []
        except (ValueError, TypeError, OSError) as error:
            raise ConfigError(
                f"{self._path}, where switches of the alias are remembered, cannot be read ({error}): remove it, and name "
                "the collection to go back to"
            ) from error

    def last(self) -> Flip | None:
        """The last one."""
        return next(reversed(self.read()), None)

    def add(self, flip: Flip) -> None:
        """Remember one more; the last again when it is of the same collections."""
        before = self.read()
        if before and (before[-1].old, before[-1].new) == (flip.old, flip.new):
            before.pop()
        self._write([*before, flip])

    def end(self) -> None:
        """What was written before the last one has been brought."""
        last = self.last()
        if last is not None:
            self.add(replace(last, ended=True))

    def take_back(self) -> None:
        """Forget the last one."""
        self._write(self.read()[:-1])

    def _write(self, flips: Sequence[Flip]) -> None:
        new = self._path.with_name(f"{self._path.name}.new")
        try:
            new.write_bytes(orjson.dumps([asdict(flip) for flip in flips]))
            new.replace(self._path)
        except OSError as error:
            raise StoreFull(f"{self._path} cannot be written ({error.strerror}): free some space and go on") from error
