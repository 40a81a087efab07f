"""Whether a copy holds what its source holds: counts, ids, records, answers to queries and to filters, each a check."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from hashlib import blake2b
from operator import and_
from typing import TYPE_CHECKING, Any

import numpy as np

from pixdex._copy_shape import TOLERANCE, content, differing, everything, expected
from pixdex.errors import ConfigError
from pixdex.filters import F, Filter
from pixdex.spec import Field, Kind
from pixdex.types import Batch, Hit, Tuning, Want

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pixdex._copy_census import Census, Side
    from pixdex.collection import Collection

__all__ = ["Check", "Sampling", "check_all"]

_NAMED = 5
_SAME_SCORE = 1e-5
"""Scores are equal within this times max(1, |score|, |q|^2, |x|^2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How much is compared.

    Attributes:
        records: whose vectors, payloads and tokens are compared, from 1; None: ``many``, or all of a collection that has not
            more than ``few``.
        queries: searched for exactly on both sides, by each vector. 0: none, and the report has no such check.
        k: hits of each.
        filters: counted on both sides. 0: none, and the report has no such check.
        seed: of the choice.

    Raises:
        ConfigError: a number below those.
    """

    records: int | None = None
    queries: int = 20
    k: int = 10
    filters: int = 20
    seed: int = 0
    few: int = 5000
    many: int = 2000

    def __post_init__(self) -> None:
        for name, least in (("records", 1), ("queries", 0), ("k", 1), ("filters", 0), ("few", 0), ("many", 1)):
            number = getattr(self, name)
            if number is not None and number < least:
                raise ConfigError(f"sampling: {name} is {number}: ask for at least {least}")

    def of(self, count: int) -> int:
        """How many of so many records are compared."""
        wanted = self.records if self.records is not None else (count if count <= self.few else self.many)
        return min(wanted, count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was compared.

    Attributes:
        name: ``count``, ``ids``, ``records``, ``neighbours:<vector>``, ``filters``; ``spec``, where the source was given vectors or
            fields meanwhile.
        passed: both sides agree.
        compared: how many records, queries or filters were compared.
        said: what was found, in a sentence.
        differing: the first ids, or filters, that differ, and how.
    """

    name: str
    passed: bool
    compared: int
    said: str
    differing: tuple[str, ...] = ()


@dataclass(slots=True)
class _Moving:
    """What the source has had written since the copy's last mark: differences there are no faults of the copy."""

    source: Collection
    since: int | None
    ids: set[str] = field(default_factory=set)

    def explains(self, ids: Sequence[str]) -> set[str]:
        """Those ids whose record in the source is newer than the mark."""
        if self.since is None or not ids:
            return set()
        found = self.source.fetch(ids, want=Want(payload=True))
        newer = {i for i, rev in zip(found.ids, found.revs or (), strict=True) if rev > self.since}
        self.ids |= newer
        return newer

    def count(self) -> int:
        """How many records that are."""
        return 0 if self.since is None else self.source.count(F["_rev"] > self.since)


def check_all(
    source: Collection,
    target: Collection,
    census: Census,
    sampling: Sampling,
    *,
    since: int | None,
    more_allowed: bool,
    follow: Callable[[str, int, int], None],
) -> tuple[list[Check], dict[str, str]]:
    """Everything compared, and digests of what the target holds.

    Args:
        census: the ids of both sides.
        since: the copy's mark: what the source got after it is not the copy's to hold. None: nothing.
        more_allowed: the target may have records that the source lacks; then what queries and filters find may differ.
        follow: hears of what was compared, how much, and of how much.
    """
    moving = _Moving(source, since)
    rng = random.Random(sampling.seed)
    checks = [
        _counts(source, target, census, moving, more_allowed=more_allowed),
        _ids(census, moving, more_allowed=more_allowed),
    ]
    sample = sampling.of(census.count("source"))
    records = _Records(source, target, moving, follow)
    checks.append(records.check(census, sample, sampling.seed))
    for name in () if more_allowed else [vector.name for vector in source.spec.vectors]:
        queries = records.queries(name, sampling.queries, rng)
        if len(queries):
            checks.append(_neighbours(source, target, name, queries, sampling.k, moving))
    if source.spec.fields and sampling.filters and not more_allowed:
        checks.append(_filters(source, target, _asked(source, records.payloads, sampling.filters, rng), moving))
    digests = {"ids": census.digest("target"), "records": records.digest(), "vectors": records.vectors.hexdigest()}
    return checks, digests


def _counts(source: Collection, target: Collection, census: Census, moving: _Moving, *, more_allowed: bool) -> Check:
    here, there = source.count(), target.count()
    slack = moving.count()
    wrong = []
    if abs(here - there) > slack and not (more_allowed and there >= here - slack):
        wrong.append(f"the source counts {here}, the target {there}")
    sides: list[tuple[Side, int]] = [("source", here), ("target", there)]
    for side, counted in sides:
        listed = census.count(side)
        if abs(counted - listed) > slack:
            wrong.append(f"the {side} counts {counted} and lists {listed} ids")
        if census.twice(side):
            wrong.append(f"the {side} lists {census.twice(side)} ids twice")
    said = "; ".join(wrong) or f"{there} in the target" + (f", {here} in the source" if here != there else "")
    return Check(name="count", passed=not wrong, compared=there, said=said)


def _ids(census: Census, moving: _Moving, *, more_allowed: bool) -> Check:
    lacking, more, later = 0, 0, 0
    named: list[str] = []
    for ids in census.missing("target"):
        newer = moving.explains(ids)
        lost = [record for record in ids if record not in newer]
        lacking, later = lacking + len(lost), later + len(newer)
        named += [f"{i!r} is missing in the target" for i in lost[: max(0, _NAMED - len(named))]]
    for ids in () if more_allowed else census.missing("source"):
        more += len(ids)
        named += [f"{i!r} is in the target only" for i in ids[: max(0, 2 * _NAMED - len(named))]]
    compared = census.count("target")
    said = (
        f"the same on both sides{_but_for(later)}"
        if not lacking + more
        else f"{lacking} are missing in the target, {more} are there only"
    )
    return Check(name="ids", passed=not lacking + more, compared=compared, said=said, differing=tuple(named))


def _but_for(count: int) -> str:
    """So many records of the source are newer than the copy, and were left out of what was compared."""
    return f", but for {count} written meanwhile" if count else ""


# --- records -----------------------------------------------------------------------------------------------------------


class _Records:
    """Records of both sides, read in pieces, compared, and what queries and filters are made of kept of them."""

    _KEPT = 512

    def __init__(
        self, source: Collection, target: Collection, moving: _Moving, follow: Callable[[str, int, int], None]
    ) -> None:
        self._source = source
        self._target = target
        self._moving = moving
        self._follow = follow
        self._sum = 0
        self.vectors = blake2b(digest_size=16)
        self.payloads: list[Any] = []
        self._rows: dict[str, list[NDArray[np.float32]]] = {v.name: [] for v in source.spec.vectors}

    def check(self, census: Census, sample: int, seed: int) -> Check:
        """Compare ``sample`` records, of those that both sides should have."""
        compared, wrong = 0, 0
        named: list[str] = []
        for ids in census.sample("source", sample, seed):
            ours, theirs = self._both(ids)
            found = differing(ours, theirs, self._target.spec)
            newer = self._moving.explains(list(found)) if found else set()
            faults = {record: what for record, what in found.items() if record not in newer}
            wrong += len(faults)
            named += [f"{record!r}: {what}" for record, what in list(faults.items())[: max(0, _NAMED - len(named))]]
            compared += len(ours) - len(newer)
            self._keep(theirs)
            self._follow("checking", compared, sample)
        total = census.count("source")
        of = "all" if compared >= total else f"{compared} of {total}"
        some = bool(compared or not total)
        found_out = (
            f"{wrong} differ" if wrong else f"equal, vectors within {TOLERANCE:g}" if some else "so nothing is known"
        )
        said = f"{of} compared, {found_out}"
        if 0 < compared < total and not wrong:
            said += f"; with 95 % confidence fewer than {3 / compared:.2%} of the others differ"
        return Check(name="records", passed=some and not wrong, compared=compared, said=said, differing=tuple(named))

    def _both(self, ids: Sequence[str]) -> tuple[Batch, Batch]:
        found = self._source.fetch(ids, want=everything(self._source.spec))
        ours, _ = expected(found, self._source.spec, self._target.spec)
        return ours, self._target.fetch(ids, want=everything(self._target.spec))

    def _keep(self, batch: Batch) -> None:
        for row, record in enumerate(batch.ids):
            digest = blake2b(content(batch.payloads[row]) if batch.payloads else b"", digest_size=16, key=b"pixdex")
            digest.update(record.encode() + b"\0")
            matrix = batch.tokens[row] if batch.tokens else None
            if matrix is not None:
                digest.update(f"{matrix.dtype}{matrix.shape}".encode() + matrix.tobytes())
            self._sum = (self._sum + int.from_bytes(digest.digest(), "big")) % (1 << 128)
        for name in sorted(batch.vectors):
            self.vectors.update(np.ascontiguousarray(batch.vectors[name][batch.present(name)]).tobytes())
        room = self._KEPT - len(self.payloads)
        if room > 0:
            self.payloads += (batch.payloads or ())[:room]
        for name, rows in self._rows.items():
            room = self._KEPT - len(rows)
            if room > 0:
                rows += list(batch.vectors[name][batch.present(name)][:room])

    def digest(self) -> str:
        """Over ids, payloads and tokens of what was compared, in no order: the sum of a digest of each."""
        return f"{self._sum:032x}"

    def queries(self, name: str, count: int, rng: random.Random) -> NDArray[np.float32]:
        """Some vectors of that name, and as many that lie between two of them."""
        rows = self._rows[name]
        if not rows or not count:
            return np.zeros((0, 0), np.float32)
        stored = rng.sample(rows, min(len(rows), (count + 1) // 2))
        between = [0.5 * (one + rng.choice(rows)) for one in stored[: count - len(stored)]]
        asked = np.stack([*stored, *between]).astype(np.float32)
        kept: NDArray[np.float32] = asked[np.linalg.norm(asked, axis=1) > 0]
        return kept


# --- queries -----------------------------------------------------------------------------------------------------------


def _neighbours(
    source: Collection, target: Collection, name: str, queries: NDArray[np.float32], k: int, moving: _Moving
) -> Check:
    """Exact search on both sides finds the same, records with the same score in any order."""
    exact = Tuning(exact=True)
    ours = source.search(queries, k=k, using=name, tuning=exact, want=Want(payload=False))
    theirs = target.search(queries, k=k, using=name, tuning=exact, want=Want(payload=False))
    same, total = 0, 0
    named: list[str] = []
    for number, (mine, its) in enumerate(zip(ours, theirs, strict=True)):
        scale = float(max(1.0, np.square(queries[number]).sum(dtype=np.float64)))
        asked = max(len(mine), len(its))
        agreed, fault = _agreement(mine, its, scale)
        newer = moving.explains([hit.id for hit in (*mine, *its)]) if fault else ()
        if newer:  # the others come in the same order as before
            kept = [[hit for hit in hits if hit.id not in newer] for hits in (mine, its)]
            asked = min(map(len, kept))
            agreed, fault = _agreement(kept[0][:asked], kept[1][:asked], scale)
        same, total = same + agreed, total + asked
        if fault and len(named) < _NAMED:
            named.append(f"query {number}: {fault}")
    share = same / total if total else 0.0
    said = f"the first {k} of {len(queries)} exact searches agree to {share:.4g}"
    return Check(
        name=f"neighbours:{name}", passed=0 < total == same, compared=len(queries), said=said, differing=tuple(named)
    )


def _agreement(mine: Sequence[Hit], its: Sequence[Hit], scale: float) -> tuple[int, str]:
    """How many hits agree, and what does not."""
    if len(mine) != len(its):
        return min(len(mine), len(its)), f"{len(mine)} hits in the source, {len(its)} in the target"
    other = {hit.id: hit.score for hit in its}
    last = mine[-1].score if mine else 0.0
    same, fault = 0, ""
    for one, two in zip(mine, its, strict=True):
        tolerance = _SAME_SCORE * max(scale, abs(one.score))
        close = abs(one.score - two.score) <= tolerance
        found = other.get(one.id)
        found_close = abs(found - one.score) <= tolerance if found is not None else abs(one.score - last) <= tolerance
        if close and found_close:
            same += 1
        else:
            fault = (
                fault or f"{one.id!r} with {one.score:.6f} in the source, {two.id!r} with {two.score:.6f} in the target"
            )
    return same, fault


# --- filters -----------------------------------------------------------------------------------------------------------


def _filters(source: Collection, target: Collection, asked: Sequence[Filter], moving: _Moving) -> Check:
    slack = moving.count()
    wrong: list[str] = []
    for where, here, there in zip(asked, _counted(source, asked), _counted(target, asked), strict=True):
        if abs(here - there) > slack:
            wrong.append(f"{where}: {here} in the source, {there} in the target")
    said = (
        f"{len(asked)} filters count the same{_but_for(slack)}"
        if not wrong
        else f"{len(wrong)} of {len(asked)} filters count otherwise"
    )
    return Check(name="filters", passed=not wrong, compared=len(asked), said=said, differing=tuple(wrong[:_NAMED]))


def _counted(collection: Collection, asked: Sequence[Filter]) -> list[int]:
    return [collection.count(where) for where in asked]


def _asked(source: Collection, payloads: Sequence[Any], count: int, rng: random.Random) -> list[Filter]:
    """Filters by values that records have: one of each kind a field, then two of them together."""
    leaves: list[Filter] = []
    for declared in source.spec.fields:
        values = [payload[declared.name] for payload in payloads if payload.get(declared.name) not in (None, [])]
        leaves.append(F[declared.name].exists())
        if values:
            leaves += _leaves(declared, values, rng)
    rng.shuffle(leaves)
    chosen = leaves[:count]
    for number in range(0, len(chosen) - 1, 4):
        chosen[number] = reduce(and_, chosen[number : number + 2])
    return chosen


def _leaves(declared: Field, values: Sequence[Any], rng: random.Random) -> Iterator[Filter]:
    named = F[declared.name]
    one, other = rng.choice(values), rng.choice(values)
    if declared.kind is Kind.GEO:
        place = one[0] if declared.many else one
        yield named.within(place["lat"], place["lon"], 50.0)
        return
    if declared.many:
        yield named.contains(rng.choice(one))
        yield named.contains_any([rng.choice(one), rng.choice(other)])
        return
    yield named == one
    yield named != one
    if declared.kind in (Kind.INT, Kind.FLOAT, Kind.TIME):
        low, high = sorted([one, other])
        yield named.between(low, high)
        yield named >= one
    elif declared.kind is Kind.TEXT:
        yield named.is_in([one, other])
