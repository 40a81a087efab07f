"""Scan, count and delete by filter."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pixdex.collection import Collection
from pixdex.errors import ConfigError
from pixdex.filters import F, Filter, parse
from pixdex.spec import Field, Kind
from pixdex.testing._support import IDS_ONLY, Cases, plain, put, scanned, some_vectors
from pixdex.types import Want

if TYPE_CHECKING:
    from collections.abc import Callable

FIELDS = (Field(name="n", kind=Kind.INT), Field(name="tags", kind=Kind.TEXT, many=True))
IDS = [f"r{i:02}" for i in range(23)]
PAYLOADS = [{"n": i, "tags": ["even"] if i % 2 == 0 else []} for i in range(23)]

DELETIONS: dict[str, tuple[Filter, Callable[[int], bool]]] = {
    "equal": (F.n == 3, lambda i: i == 3),
    "not equal": (F.n != 3, lambda i: i != 3),
    "range": (F.n < 10, lambda i: i < 10),
    "contains": (F.tags.contains("even"), lambda i: i % 2 == 0),
    "negated contains": (~F.tags.contains("even"), lambda i: i % 2 == 1),
    "and": ((F.n < 10) & F.tags.exists(), lambda i: i < 10 and i % 2 == 0),
    "or": ((F.n < 3) | (F.n > 20), lambda i: i < 3 or i > 20),
    "ids": (F.ids(["r01", "r02", "nonesuch"]), lambda i: i in (1, 2)),
    "all": (parse("true"), lambda _: True),
    "none": (parse("false"), lambda _: False),
    "matches nothing": (F.n > 100, lambda _: False),
}


def _fill(collection: Collection) -> None:
    put(collection, IDS, some_vectors(23), PAYLOADS)


class ScanCases(Cases):
    """Every record, once."""

    @pytest.fixture
    def numbers(self, kept: Callable[..., Collection]) -> Collection:
        """23 records that tests only read."""
        return kept(plain(*FIELDS), _fill)

    @pytest.fixture
    def doomed(self, connector: object, name: str) -> Collection:
        """23 records of the test's own."""
        collection = Collection.create(connector, name, plain(*FIELDS))  # type: ignore[arg-type]
        _fill(collection)
        return collection

    @pytest.mark.parametrize("size", [1, 2, 7, 22, 23, 24, 1000])
    def test_scan_visits_every_record_once(self, numbers: Collection, size: int) -> None:
        """Whatever the page size; no page is larger."""
        pages = list(numbers.scan(size=size))
        ids = [record for page in pages for record in page.batch.ids]
        assert len(ids) == len(set(ids))
        assert sorted(ids) == IDS
        assert max(len(page.batch) for page in pages) <= size
        assert pages[-1].after is None
        assert all(page.after is not None for page in pages[:-1])

    def test_scan_of_nothing(self, collection: Collection) -> None:
        """An empty collection has no records, and the scan ends."""
        assert scanned(collection) == []
        assert scanned(collection, where=F.n == 1) == []

    def test_scan_resumes_behind_a_page(self, numbers: Collection) -> None:
        """``after`` of any page leads to what comes behind it, in another scan and by another handle."""
        pages = list(numbers.scan(size=5, want=IDS_ONLY))
        handle = Collection.open(numbers.connector, numbers.name)
        for i, page in enumerate(pages[:-1]):
            rest = [record for later in pages[i + 1 :] for record in later.batch.ids]
            assert sorted(scanned(handle, after=page.after)) == sorted(rest)

    def test_scan_with_the_same_cursor_is_the_same_page(self, numbers: Collection) -> None:
        """Asking again loses and doubles nothing."""
        first = next(iter(numbers.scan(size=5)))
        one, two = (next(iter(numbers.scan(size=5, after=first.after))) for _ in range(2))
        assert one.batch.ids == two.batch.ids
        assert one.after == two.after
        assert one.batch.payloads == two.batch.payloads

    def test_scan_resumes_with_a_filter(self, numbers: Collection) -> None:
        """The cursor and the filter work together."""
        where = F.tags.contains("even")
        pages = list(numbers.scan(size=2, where=where))
        ids = [record for page in pages for record in page.batch.ids]
        assert sorted(ids) == IDS[::2]
        for i, page in enumerate(pages[:-1]):
            rest = [record for later in pages[i + 1 :] for record in later.batch.ids]
            assert sorted(scanned(numbers, where=where, after=page.after, size=3)) == sorted(rest)

    def test_scan_brings_vectors_and_payloads(self, numbers: Collection) -> None:
        """Rows belong together."""
        for page in numbers.scan(size=6, want=Want(vectors=("image",))):
            rows = [IDS.index(record) for record in page.batch.ids]
            assert page.batch.payloads == tuple(PAYLOADS[row] for row in rows)
            np.testing.assert_allclose(page.batch.vectors["image"], some_vectors(23)[rows], atol=1e-6)

    def test_scan_survives_writes(self, doomed: Collection) -> None:
        """What is there throughout is visited once, while others come and go."""
        visited: list[str] = []
        for turn, page in enumerate(doomed.scan(size=4, want=IDS_ONLY)):
            visited.extend(page.batch.ids)
            put(doomed, [f"a{turn}", f"s{turn}", f"r0{turn}x"])
            doomed.delete([f"a{turn}"])
            doomed.flush()
            assert turn < 100, "a scan that follows its own writers never ends"
        assert sorted(i for i in visited if i in IDS) == IDS

    def test_scan_resumes_in_the_midst_of_writes(self, doomed: Collection) -> None:
        """A page at a time, each by a handle of its own, as a job does that is stopped and goes on: also when the
        record that the cursor names is gone.
        """
        visited: list[str] = []
        after: str | None = None
        for turn in range(100):
            handle = Collection.open(doomed.connector, doomed.name)
            page = next(iter(handle.scan(size=4, after=after, want=IDS_ONLY)))
            visited.extend(page.batch.ids)
            after = page.after
            if after is None:
                break
            put(doomed, [f"b{turn}", f"t{turn}"])
            doomed.delete([*page.batch.ids[-1:], f"b{turn}"])
            doomed.flush()
        assert after is None, "the scan never ends"
        assert sorted(i for i in visited if i in IDS) == IDS

    def test_scan_while_visited_records_are_deleted(self, doomed: Collection) -> None:
        """A cursor does not count: deleting what was visited does not skip what was not."""
        visited: list[str] = []
        for page in doomed.scan(size=4, want=IDS_ONLY):
            visited.extend(page.batch.ids)
            doomed.delete(page.batch.ids)
            doomed.flush()
        assert sorted(visited) == IDS

    def test_scan_size_below_one_is_refused(self, numbers: Collection) -> None:
        """A page holds something."""
        with pytest.raises(ConfigError):
            next(iter(numbers.scan(size=0)))

    def test_count(self, numbers: Collection) -> None:
        """Exactly, of all and of those that match."""
        assert numbers.count() == 23
        for where, holds in DELETIONS.values():
            assert numbers.count(where) == sum(map(holds, range(23)))

    @pytest.mark.parametrize("what", DELETIONS)
    def test_delete_where(self, kept: Callable[..., Collection], what: str) -> None:
        """Removes what matches and nothing else, native or emulated; again is no error."""
        doomed = kept(replace(plain(*FIELDS), encoder="doomed"))
        _fill(doomed)
        where, holds = DELETIONS[what]
        for _ in range(2):
            doomed.delete_where(where)
            doomed.flush()
            left = [IDS[i] for i in range(23) if not holds(i)]
            assert sorted(scanned(doomed)) == left
            assert doomed.count() == len(left)
            assert sorted(h.id for h in doomed.search(some_vectors(1), k=30)[0]) == left
