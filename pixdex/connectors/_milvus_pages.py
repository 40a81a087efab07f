"""Pages of a collection in the order of ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pixdex.connectors._milvus_client import Store
from pixdex.types import Scan

__all__ = ["page"]

_SORTED = {"iterator": "True", "reduce_stop_for_best": "True"}
"""What makes a query return the first rows in the order of ids."""
_FOLLOWING = 20
"""Pages whose ids are asked for at once."""


def page(
    store: Store, name: str, request: Scan, matching: str, columns: Sequence[str], timeout: float | None
) -> tuple[Any, str | None]:
    """The rows of a page of what an expression holds for, and the id behind which more may follow; None at the end."""
    key, size = store.last(name, timeout).key, request.size
    if request.after is not None and not store.server and len(columns) > 1:
        ids = _following(store, name, matching, request.after, size, timeout)
        if not ids:
            return [], None
        # Whatever was changed since their ids were asked for is asked about again.
        these = {"filter": f"{key.among(ids)} and {matching}", "output_fields": list(columns)}
        there = {str(row[key.column]): row for row in store.query(name, timeout, these)}
        return [there[record] for record in ids if record in there], ids[-1] if len(ids) == size else None
    tests = [] if request.after is None else [key.after(request.after)]
    asked = {"filter": " and ".join([*tests, matching]), "output_fields": list(columns), "limit": size, **_SORTED}
    read = store.query(name, timeout, asked)
    more = len(read) == size or (store.server and len(read) > 0)  # a server's pages may be short
    return read, str(read[-1][key.column]) if more else None


def _following(store: Store, name: str, matching: str, after: str, size: int, timeout: float | None) -> list[str]:
    """The ids that come after one. For each query Lite gathers and sorts all records, so that those of many pages are asked
    for at once; who reads on gets them from what is left, until something is written, which only this process can.
    """
    found: list[str] = []
    if store.following is not None and store.following[0] == (name, matching, after):
        found = store.following[1]
    if len(found) < size:
        key = store.last(name, timeout).key
        tests = f"{key.after(after)} and {matching}"
        ids = {"filter": tests, "output_fields": [key.column], "limit": _FOLLOWING * size, **_SORTED}
        found = [str(row[key.column]) for row in store.loaded("query", name, timeout, ids)]
    ids_of_page = found[:size]
    store.following = ((name, matching, ids_of_page[-1]), found[size:]) if ids_of_page else None
    return ids_of_page
