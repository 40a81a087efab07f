"""The database for what is put side by side once."""

from __future__ import annotations

import sqlite3

import pytest

from pixdex._scratch import scratch
from pixdex.errors import StoreFull


@pytest.mark.parametrize("said", ["database or disk is full", "disk I/O error", "unable to open database file"])
def test_where_nothing_can_be_kept_the_remedy_is_told(said: str) -> None:
    with pytest.raises(StoreFull, match="TMPDIR"), scratch("CREATE TABLE rows (n);"):
        raise sqlite3.OperationalError(said)


def test_other_errors_are_not_taken_for_that() -> None:
    with pytest.raises(sqlite3.OperationalError, match="no such table"), scratch("") as db:
        db.execute("SELECT * FROM rows")
