"""How well a collection is searched: whole collections on any store, measured by the labels that their records have.

``evaluate`` has records, or pictures with labels, searched for through the store's own search, so that what an index
loses is in the numbers, and measures what comes back; ``compare`` does that for two encoders or two stores over the same
queries. The metrics are those of ``pixdex.evaluation``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

from pixdex import index as indexes
from pixdex._eval_queries import candidates, picture_queries
from pixdex._eval_results import Comparison, Evaluation, Query
from pixdex._eval_running import Plan, Side
from pixdex.collection import Collection
from pixdex.connectors import connect
from pixdex.errors import ConfigError
from pixdex.evaluation import paired
from pixdex.pictures import Picture
from pixdex.types import Tuning

if TYPE_CHECKING:
    from pixdex._eval_queries import Gallery, Label, Queries
    from pixdex._progress import Count
    from pixdex.encoders.port import Encoder
    from pixdex.filters import Filter

__all__ = ["DEFAULT_METRICS", "Comparison", "Evaluation", "Query", "Target", "compare", "evaluate", "opened"]

Target: TypeAlias = "str | indexes.ImageIndex | Collection"
"""What is evaluated: an address, or what is open already."""

DEFAULT_METRICS = ("recall@1", "recall@5", "recall@10", "r_precision", "map@r", "map@100")


def evaluate(
    target: Target,
    *,
    label: str,
    queries: Picture | Iterable[Picture] | None = None,
    where: Filter | None = None,
    k: int = 100,
    metrics: Sequence[str] | None = None,
    exact: bool = False,
    limit: int | None = None,
    seed: int = 0,
    using: str | None = None,
    tuning: Tuning = Tuning(),
    progress: Count | bool | None = None,
) -> Evaluation:
    """Search a collection for what is known, and measure what is found. A hit is right when its label is the query's.

    Args:
        target: an address, an index or a collection.
        label: a field of text, whole numbers or truth values; undeclared payload will do, and dots lead into objects.
        queries: pictures with labels, as ``ImageIndex.add`` takes them: their label is the column of a table, else the name
            of the folder that the picture lies in. None: every record that shares its label with another is a query,
            and is left out of its own ranking.
        where: only records that match are searched, and are queries.
        k: how many hits of each query are looked at; more where a metric asks for more.
        metrics: names, see ``pixdex.evaluation.NAMES``; default ``DEFAULT_METRICS``.
        exact: search exactly as well, to tell what the encoder can do from what the store's index loses of it.
        limit: no more queries than that, chosen at random.
        seed: of that choice, and of the bootstrap.
        using: the vector that is searched; default: that of pictures, or the only one.
        tuning: time for recall, as of ``search``.
        progress: True for bars, False, or a function that hears how many are done and of how many; default bars on a
            terminal.

    Raises:
        ConfigError: no such metric, no such field, no labels, or nothing that could be a query.
        NotFound: no such collection.
        FingerprintMismatch: the collection was written by another encoder than the index has.
        Unsupported: pictures are queries, and there is no encoder.
        StoreError: the store failed.
    """
    plan = Plan(
        label=label,
        where=where,
        k=k,
        metrics=DEFAULT_METRICS if metrics is None else metrics,
        exact=exact,
        limit=limit,
        seed=seed,
        using=using,
        tuning=tuning,
        progress=progress,
    )
    with opened(target, pictures=queries is not None) as (collection, encoder):
        side = Side(collection, encoder, plan)
        if queries is not None:
            asked = picture_queries(side.encoded(queries), side.gallery, label)
            return side.evaluated(asked.take(plan.chosen(range(len(asked.ids)))))
        able = candidates(side.gallery)
        return side.evaluated(side.own(plan.chosen(list(able))), list(_left_out(side.gallery, able, label)))


def compare(
    first: Target,
    second: Target,
    *,
    label: str,
    queries: Picture | Iterable[Picture] | None = None,
    where: Filter | None = None,
    k: int = 100,
    metrics: Sequence[str] | None = None,
    exact: bool = False,
    limit: int | None = None,
    seed: int = 0,
    using: str | None = None,
    tuning: Tuning = Tuning(),
    progress: Count | bool | None = None,
) -> Comparison:
    """``evaluate`` two collections over the same queries, one by one: two encoders, or two stores.

    Without ``queries``, those are the records that both have under the same id with the same label.

    Raises:
        ConfigError: there is no query that both have; what else is raised is as of ``evaluate``.
    """
    plan = Plan(
        label=label,
        where=where,
        k=k,
        metrics=DEFAULT_METRICS if metrics is None else metrics,
        exact=exact,
        limit=limit,
        seed=seed,
        using=using,
        tuning=tuning,
        progress=progress,
    )
    pictures = queries is not None
    with opened(first, pictures=pictures) as one, opened(second, pictures=pictures) as other:
        sides = Side(*one, plan), Side(*other, plan)
        asked = _own_of_both(sides, plan) if queries is None else _pictures_of_both(sides, queries)
        shared = _shared(asked, plan)
        done = [side.evaluated(of_side) for side, of_side in zip(sides, shared, strict=True)]
    differences = {name: paired(values, done[1].values[name], seed=seed) for name, values in done[0].values.items()}
    return Comparison(first=done[0], second=done[1], differences=differences, notices=tuple(_comparable(done, sides)))


@contextmanager
def opened(target: Target, *, pictures: bool) -> Iterator[tuple[Collection, Encoder | None]]:
    """The collection, and its encoder where pictures are to be encoded; closed again where it was opened here."""
    if isinstance(target, Collection):
        yield target, None
    elif isinstance(target, indexes.ImageIndex):
        yield target.collection, target.encoder
    elif pictures:
        with indexes.open(target) as index:
            yield index.collection, index.encoder
    else:
        connector, name = connect(target)
        try:
            yield Collection.open(connector, name), None
        finally:
            connector.close()


# --- the same queries -------------------------------------------------------------------------------


def _own_of_both(sides: Sequence[Side], plan: Plan) -> list[Queries]:
    able = [candidates(side.gallery) for side in sides]
    both = [record for record, label in able[0].items() if able[1].get(record) == label]
    if not both:
        raise ConfigError(
            f"{sides[0].name} and {sides[1].name} have no record of the same id and {plan.label} that could be a query"
        )
    chosen = plan.chosen(both)
    return [side.own(chosen) for side in sides]


def _pictures_of_both(sides: Sequence[Side], pictures: Picture | Iterable[Picture]) -> list[Queries]:
    given = list(pictures) if isinstance(pictures, Iterator) else pictures
    made = [sides[0].encoded(given)]
    made.append(made[0] if _alike(sides) else sides[1].encoded(given))
    return [picture_queries(encoded, side.gallery, side.plan.label) for encoded, side in zip(made, sides, strict=True)]


def _alike(sides: Sequence[Side]) -> bool:
    """Whether one encoding of the query pictures will do."""
    digests = [None if side.encoder is None else side.encoder.fingerprint.digest for side in sides]
    kinds = [side.gallery.kind for side in sides]
    return digests[0] is not None and digests[0] == digests[1] and kinds[0] == kinds[1]


def _shared(asked: Sequence[Queries], plan: Plan) -> list[Queries]:
    """The queries that both have, in one order."""
    rows = [{query: row for row, query in enumerate(queries.ids)} for queries in asked]
    both = plan.chosen([query for query in rows[0] if query in rows[1]])
    if not both:
        raise ConfigError("the two collections have no query in common")
    return [queries.take([row_of[query] for query in both]) for queries, row_of in zip(asked, rows, strict=True)]


# --- what to know of the numbers --------------------------------------------------------------------


def _left_out(gallery: Gallery, able: Mapping[str, Label], label: str) -> Iterator[str]:
    without = int((gallery.codes < 0).sum())
    alone = len(gallery.ids) - without - len(able)
    if without:
        yield f"{without} records have no {label}: they are found, never right, and no queries"
    if alone:
        yield f"{alone} records share their {label} with no other: they are found, and no queries"


def _comparable(done: Sequence[Evaluation], sides: Sequence[Side]) -> Iterator[str]:
    first, second = (set(side.gallery.ids) for side in sides)
    if first != second:
        yield (
            f"the collections differ: {len(first - second)} records are in the first alone, {len(second - first)} in the "
            "second alone, so that one had more to choose from"
        )
    if done[0].fingerprint == done[1].fingerprint:
        yield "both hold vectors of the same encoder: what differs is the store"
