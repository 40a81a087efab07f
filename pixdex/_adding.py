"""What is checked and said before pictures are added, and done after."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pixdex._progress import counting
from pixdex._records import check_ids, checked
from pixdex.errors import ConfigError, InvalidRecord
from pixdex.spec import Spec
from pixdex.types import Batch, Payload

if TYPE_CHECKING:
    from pixdex.collection import Collection
    from pixdex.pictures import Picture
    from pixdex.report import Progress, Report
    from pixdex.sources import Origin, Source

__all__ = ["canonical", "check_distinct", "check_source", "expected", "settled", "undeclared", "with_ids"]

_BULK = 1_000
"""So many new pictures are worth an index that covers them at once; fewer are found without."""


def check_source(origin: Origin, roots: Mapping[str, str]) -> None:
    """Raises ConfigError for a name that stands for another place in the collection."""
    if roots.get(origin.name, origin.root) != origin.root:
        raise ConfigError(
            f"source {origin.name!r} stands for {roots[origin.name]} in this collection: give {origin.root} another "
            "name with source="
        )


def check_distinct(ids: Sequence[str]) -> None:
    """Raises ConfigError for an id that stands twice."""
    check_ids(ids)
    if len(set(ids)) < len(ids):
        twice = next(record for record in ids if ids.count(record) > 1)
        raise ConfigError(f"id {twice!r} stands twice in one call: one id per picture")


def with_ids(ids: Sequence[str], pictures: Iterable[Picture]) -> Iterator[tuple[str, Picture]]:
    """Each picture with its id. Raises ConfigError where there are more of the ones than of the others."""
    rest = iter(pictures)
    for row, record in enumerate(ids):
        try:
            picture = next(rest)
        except StopIteration:
            raise ConfigError(f"{len(ids)} ids for {row} pictures: give one id per picture") from None
        yield record, picture
    if any(True for _ in rest):
        raise ConfigError(f"{len(ids)} ids for more pictures: give one id per picture")


def expected(known: Sequence[Source], spec: Spec) -> int | None:
    """How many pictures are to come: the files of folders; None where only reading all would tell."""
    from pixdex.sources.folders import Folder, Glob

    if not known or not all(isinstance(source, Folder | Glob) for source in known):
        return None
    return sum(item is not None for source in known for item in source.items(spec))


def undeclared(name: str) -> str:
    """What is said about a field that is kept undeclared."""
    return f"field {name!r} is not declared, so it is kept but cannot be filtered on: declare it to change that"


def canonical(fields: Mapping[str, Any], spec: Spec) -> Payload:
    """The fields as they will be kept; refused, if they cannot be, before a file is read."""
    try:
        return (checked(Batch(("fields",), payloads=(fields,)), spec).payloads or ())[0]
    except InvalidRecord as error:
        raise InvalidRecord(str(error).replace("record 'fields': ", "", 1)) from None


def settled(collection: Collection, report: Report, progress: Progress | bool | None) -> Report:  # noqa: FBT001 - as users give it
    """The report, when the store has done what many new records leave to be done."""
    if report.added + report.reused >= _BULK:
        with counting("building the index", progress) as count:
            collection.settle(progress=count)
    return report
