"""What a copy remembers between two runs: how far it came, and which records are its own. An SQLite file.

After every write that the target acknowledged one transaction holds the digests of its ids and the cursor behind it, so
that a copy that was killed writes at most one page twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pixdex._facts import Facts, digest_of, told

__all__ = ["Job", "Refused"]

_PROBES = 32
_TOGETHER = 400
"""Rows of one statement; an older SQLite takes 999 values."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A record that the target cannot hold, and why."""

    id: str
    reason: str


class Job(Facts):
    """A copy that was begun, or is about to be."""

    TABLES: ClassVar[dict[str, str]] = {
        "written": "(id BLOB)",
        "recent": "(id BLOB PRIMARY KEY, rev INTEGER) WITHOUT ROWID",
        "refused": "(id TEXT PRIMARY KEY, reason TEXT) WITHOUT ROWID",
    }

    @property
    def begun(self) -> bool:
        """Whether it has written something, or was about to."""
        return bool(self.fact("intended"))

    # --- records ---

    def intend(self, ids: Sequence[str]) -> None:
        """These are about to be written: from now on they count as this job's."""
        rows = [(digest_of(record),) for record in ids]
        with self._writing():
            if self.fact("phase", "main") != "main":  # later passes meet many of them again, day after day
                there = self._written([row[0] for row in rows])
                rows = [row for row in rows if row[0] not in there]
            self._insert("INSERT INTO written", rows)
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
                self._insert("INSERT OR REPLACE INTO recent", rows)
            if self.fact("refused"):
                self._db.executemany("DELETE FROM refused WHERE id = ?", [(record,) for record in ids])
            if refused:
                facts["refused"] = True
                rows_refused = [(row.id, row.reason) for row in refused]
                self._db.executemany("INSERT OR REPLACE INTO refused VALUES (?, ?)", rows_refused)
            self._keep(facts)

    def _insert(self, into: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Several rows a statement: after each statement another thread, which reads ahead, may have the interpreter for a while,
        so that one a row takes many times as long.
        """
        for start in range(0, len(rows), _TOGETHER):
            piece = rows[start : start + _TOGETHER]
            row = f"({', '.join('?' * len(piece[0]))})"
            marks = ", ".join([row] * len(piece))
            self._db.execute(f"{into} VALUES {marks}", [value for values in piece for value in values])

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
        digests = {record: digest_of(record) for record in ids}
        with self._writing():
            there = self._written(list(digests.values()))
        find = self._db.execute
        with told(self._path):
            return {
                record
                for record, digest in digests.items()
                if digest in there and find("SELECT 1 FROM refused WHERE id = ?", (record,)).fetchone() is None
            }

    def _written(self, digests: Sequence[bytes]) -> set[bytes]:
        """Those that are noted. Within a transaction: the index is made when it is first asked for, after the load."""
        self._db.execute("CREATE INDEX IF NOT EXISTS written_id ON written(id)")
        found: set[bytes] = set()
        for start in range(0, len(digests), _TOGETHER):
            piece = digests[start : start + _TOGETHER]
            marks = ", ".join("?" * len(piece))
            rows = self._db.execute(f"SELECT id FROM written WHERE id IN ({marks})", piece)  # noqa: S608 - marks
            found.update(digest for (digest,) in rows)
        return found

    def refused(self) -> list[Refused]:
        """The records that the target cannot hold."""
        with told(self._path):
            return [Refused(*row) for row in self._db.execute("SELECT id, reason FROM refused ORDER BY id")]
