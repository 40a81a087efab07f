"""What a copy came to: the report, what it says of both sides, and how it is kept."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pixdex._copy_checks import Check
from pixdex._copy_job import Refused
from pixdex.connectors.port import Versioned
from pixdex.policy import Call

if TYPE_CHECKING:
    from pixdex.collection import Collection

__all__ = ["CopyReport", "Side", "reported", "utc"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A collection that was compared: its address without secrets, what store that is, and how many records it has."""

    address: str
    store: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyReport:
    """What became of a copy.

    Attributes:
        source, target: the two collections.
        copied: records written by this run.
        before: records written by earlier runs of the same job.
        caught_up: of those copied, after the main pass, since the source got them meanwhile or the target
            lacked them.
        deleted: records of this job that were removed from the target, as the source has them no more.
        refused: records that the target cannot hold, and why.
        checks: what was compared.
        signed_off: every check passed, and nothing was refused.
        digests: of the target: ``ids`` (BLAKE2b-128 over all, sorted), ``records`` (ids, payloads, tokens of those compared,
            in no order) and ``vectors`` (of those compared, by sorted id).
        alias: that names the target now.
        moving: the source is being written: records newer than this time, of the source's clocks, are not in the target.
        at: when this was found.
        pixdex: the version that found it.
        seconds: this run took; of those ``copy_seconds`` moving records, and ``finish_seconds`` having the target do what it does
            after a load, such as building an index, or one file of parts.
        rate: records a second of the main pass, of this run.
        notices: what was decided on the user's behalf, in sentences.
    """

    source: Side
    target: Side
    copied: int = 0
    before: int = 0
    caught_up: int = 0
    deleted: int = 0
    refused: tuple[Refused, ...] = ()
    checks: tuple[Check, ...] = ()
    signed_off: bool = False
    digests: Mapping[str, str] = field(default_factory=dict)
    alias: str | None = None
    moving: str | None = None
    at: str = ""
    pixdex: str = ""
    seconds: float = 0.0
    copy_seconds: float = 0.0
    finish_seconds: float = 0.0
    rate: float = 0.0
    notices: tuple[str, ...] = ()


def utc(micros: int | None = None) -> str:
    """A time of revisions, or now, as ISO 8601."""
    moment = datetime.now(UTC) if micros is None else datetime.fromtimestamp(micros / 1e6, UTC)
    return moment.isoformat(timespec="seconds")


def reported(
    source: Collection, target: Collection, addresses: tuple[str, str], started: float, **found: Any
) -> CopyReport:
    """The report on two collections, at addresses without secrets, with what was ``found``; ``started`` is monotonic."""
    from pixdex import __version__

    sides = [
        Side(address=address, store=_store(collection), count=collection.count())
        for address, collection in zip(addresses, (source, target), strict=True)
    ]
    checks = found.get("checks", ())
    return CopyReport(
        source=sides[0],
        target=sides[1],
        signed_off=bool(checks) and all(check.passed for check in checks) and not found.get("refused"),
        at=utc(),
        pixdex=__version__,
        seconds=time.monotonic() - started,
        **found,
    )


def _store(collection: Collection) -> str:
    """What store that is, with the versions that it tells."""
    connector = collection.connector
    if not isinstance(connector, Versioned):
        return connector.scheme
    versions = collection.policy.run(Call("versions", collection.name), lambda t: connector.versions(timeout=t))
    return f"{connector.scheme} ({', '.join(f'{name} {version}' for name, version in versions.items())})"
