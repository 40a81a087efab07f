"""Writes the generated parts of ``docs/stores.md``: what each store can do, and the filters.

``python docs/generate.py`` writes them, ``--check`` only says whether they are up to date, by its exit status. The
tables come from the connectors' ``Capabilities`` and from running each filter through its three forms. The clients of
all stores have to be installed; no store is opened.
"""  # noqa: INP001 - a script

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

from pixdex import F
from pixdex.connectors.port import Capabilities
from pixdex.filters import Filter, Operator, to_json
from pixdex.spec import Metric

NONE = "\N{EN DASH}"
PAGE = Path(__file__).with_name("stores.md")

STORES = {
    "memory": ("pixdex.connectors.memory", "CAPABILITIES"),
    "pq": ("pixdex.connectors.pq", "PqConnector.capabilities"),
    "qdrant+local": ("pixdex.connectors.qdrant", "LOCAL"),
    "qdrant+edge": ("pixdex.connectors.qdrant_edge", "EDGE_CAPABILITIES"),
    "qdrant": ("pixdex.connectors.qdrant", "SERVER"),
    "milvus+lite": ("pixdex.connectors.milvus", "LITE"),
    "milvus": ("pixdex.connectors.milvus", "SERVER"),
}
"""Scheme -> where its capabilities stand. ``qdrant+https`` is ``qdrant``."""


@dataclass(frozen=True, slots=True)
class Row:
    """A filter as an example: the operator it needs, as Python, and what it means."""

    operator: Operator
    python: str
    meaning: str

    @property
    def filter(self) -> Filter:
        """The example, built by running it."""
        built: Filter = eval(self.python, {"F": F})  # noqa: S307 - the literals below
        return built


FILTERS = (
    Row(Operator.EQ, "F.album == 'summer'", "the field has this value; a list never does: use contains"),
    Row(Operator.IN, "F.year.is_in([2019, 2021])", "the field has one of these values; of none, nowhere"),
    Row(Operator.RANGE, "F.width >= 1000", "`<`, `<=`, `>`, `>=`, of numbers and times"),
    Row(Operator.RANGE, "F.year.between(2010, 2019)", "it lies between, both ends included"),
    Row(Operator.EXISTS, "F.taken.exists()", "the field is there: not missing, null or an empty list"),
    Row(Operator.CONTAINS, "F.tags.contains('sea')", "the list holds the value"),
    Row(Operator.CONTAINS, "F.tags.contains_any(['sea', 'lake'])", "the list holds at least one of them"),
    Row(Operator.CONTAINS, "F.tags.contains_all(['sea', 'sun'])", "the list holds every one of them"),
    Row(Operator.NEAR, "F.place.within(47.4, 8.5, 10.0)", "the place lies within 10 km, along a great circle"),
    Row(
        Operator.BOX,
        "F.place.within_box(43.0, 11.0, 44.0, 12.0)",
        "the place lies in the box (south, west, north, east), edges included",
    ),
    Row(Operator.NEAR_ANY, "F.places.within(47.4, 8.5, 10.0)", "any place of a list lies within 10 km"),
    Row(Operator.BOX_ANY, "F.places.within_box(43.0, 11.0, 44.0, 12.0)", "any place of a list lies in the box"),
    Row(Operator.IDS, "F.ids(['in/01.png', 'in/02.png'])", "the record has one of these ids"),
    Row(Operator.AND, "(F.year == 2020) & (F.album == 'summer')", "both hold"),
    Row(Operator.OR, "(F.year == 2020) | (F.album == 'summer')", "at least one holds"),
    Row(Operator.NOT, "F.year != 2020", "the year is another, or there is none"),
    Row(Operator.NOT, "~F.tags.contains('sea')", "what follows is not true: the exact complement"),
)


def capabilities(scheme: str) -> Capabilities:
    """What the store of that scheme declares."""
    module, name = STORES[scheme]
    found: Capabilities = attrgetter(name)(import_module(module))
    return found


def meanings() -> dict[str, str]:
    """Capability -> what it means, from the docstring of ``Capabilities``."""
    text = inspect.getdoc(Capabilities) or ""
    found = re.findall(r"^    (\w+): (.+?)\.?$", text.partition("Attributes:")[2], re.MULTILINE)
    return {name: meaning.replace("``", "`") for name, meaning in found}


def spelled(name: str, value: Any) -> str:
    """A capability as a cell of the table."""
    if isinstance(value, bool):
        return "yes" if value else NONE
    if isinstance(value, frozenset):
        return _several(value, Metric)
    if name.endswith("_bytes"):
        return _bytes(value)
    return f"{value:g} s" if name == "staleness" else f"{value:,}"


def _several(values: frozenset[Any], kind: type[StrEnum]) -> str:
    return "all" if values == frozenset(kind) else ", ".join(sorted(values))


def _bytes(count: int) -> str:
    for unit, size in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size and count % size == 0:
            return f"{count // size} {unit}"
    return f"{count:,} B"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def capability_table() -> str:
    """A row a capability, a column a store, and below it what each one means. Operators have a table of their own."""
    said = meanings()
    names = [field.name for field in fields(Capabilities) if field.name != "operators"]
    stores = {scheme: capabilities(scheme) for scheme in STORES}
    rows = [[f"`{name}`", *(spelled(name, getattr(store, name)) for store in stores.values())] for name in names]
    legend = "\n".join(f"* `{name}`: {said[name]}" for name in names)
    return f"{table(['', *(f'`{scheme}`' for scheme in STORES)], rows)}\n\n{legend}"


def filter_table() -> str:
    """A row an example, in the three forms, with the stores that evaluate it and those it is completed for."""
    head = ["operator", "in Python", "in the shell", "as JSON", "true where", "by the store", "completed by pixdex"]
    return table(head, [_filter_row(row) for row in FILTERS])


def _filter_row(row: Row) -> list[str]:
    native = [scheme for scheme in STORES if row.operator in capabilities(scheme).operators]
    others = [scheme for scheme in STORES if scheme not in native]
    text, document = str(row.filter), json.dumps(to_json(row.filter))
    forms = (f"`{form}`" for form in (row.python, text, document))
    return [row.operator, *forms, row.meaning, _schemes(native), _schemes(others)]


def _schemes(schemes: Sequence[str]) -> str:
    if len(schemes) == len(STORES):
        return "all"
    return ", ".join(f"`{scheme}`" for scheme in schemes) or NONE


PARTS: dict[str, Callable[[], str]] = {"capabilities": capability_table, "filters": filter_table}


def generated(page: str) -> str:
    """``page`` with what stands between its markers written anew.

    Raises:
        ValueError: a marker is missing.
    """
    for name, write in PARTS.items():
        before, begin, rest = page.partition(f"<!-- generated: {name} -->\n")
        _, end, after = rest.partition(f"<!-- end: {name} -->")
        if not begin or not end:
            raise ValueError(f"the page has no markers <!-- generated: {name} --> and <!-- end: {name} -->")
        page = f"{before}{begin}\n{write()}\n\n{end}{after}"
    return page


def main(arguments: Sequence[str]) -> int:
    """Write the page, or with ``--check`` say whether it is up to date."""
    if [*arguments] not in ([], ["--check"]):
        sys.stderr.write("usage: python docs/generate.py [--check]\n")
        return 2
    before = PAGE.read_text(encoding="utf-8")
    after = generated(before)
    if before == after:
        return 0
    if arguments:
        sys.stderr.write(f"{PAGE.name} is out of date: run python docs/generate.py\n")
        return 1
    PAGE.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
