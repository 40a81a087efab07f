"""Whether a collection of another encoder finds what it should: by labels, else by what it finds at all."""

from __future__ import annotations

import random
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np

from pixdex._copy_moving import ahead
from pixdex._eval_queries import read_gallery
from pixdex._reindex_moving import revisions
from pixdex._reindex_results import Compared
from pixdex.evaluating import compare as evaluated
from pixdex.fields import IMAGE
from pixdex.types import Tuning, Want

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pixdex._reindex_making import Maker
    from pixdex.collection import Collection
    from pixdex.types import Hit

__all__ = ["METRICS", "check_label", "compared", "sampled", "worse"]

METRICS = ("recall@1", "map@r")
_K = 10
_EVALUATED = 2000
"""Queries of an evaluation, at most."""
_SAME_SCORE = 1e-4
"""Pictures that are held twice score the same but for what batches of other sizes do to the last bits."""
_COPIES = 50
"""Of one picture, at most, that may be held."""
_PAGE = 10_000


def sampled(collection: Collection, count: int, seed: int) -> list[str]:
    """Ids of records, each as likely (Vitter: Random Sampling with a Reservoir, 1985, algorithm R)."""
    rng, chosen, seen = random.Random(seed), list[str](), 0
    with closing(ahead(collection.scan(want=Want(payload=False), size=_PAGE))) as pages:
        for page in pages:
            for record in page.batch.ids:
                seen += 1
                if len(chosen) < count:
                    chosen.append(record)
                elif (place := rng.randrange(seen)) < count:
                    chosen[place] = record
    return sorted(chosen)


def compared(old: Collection, new: Collection, maker: Maker, *, label: str | None, sample: int, seed: int) -> Compared:
    """Both collections searched for the same, by their own vectors.

    Raises:
        ConfigError: no such label, or nothing that could be a query.
    """
    ids = sampled(new, sample, seed)
    looked_for, found = _found_again(old, new, ids, maker)
    if label is None:
        queries, overlap = _overlap(old, new, ids)
        return Compared(queries=queries, overlap=overlap, looked_for=looked_for, found=found)
    told = evaluated(new, old, label=label, metrics=METRICS, limit=_EVALUATED, seed=seed, using=IMAGE, progress=False)
    return Compared(
        queries=len(told.first.queries),
        label=label,
        old=dict(told.second.metrics),
        new=dict(told.first.metrics),
        differences=dict(told.differences),
        looked_for=looked_for,
        found=found,
        notices=told.notices,
    )


def check_label(collection: Collection, label: str) -> None:
    """See that there is something to compare by, before hours of encoding.

    Raises:
        ConfigError: there is not; the message says what there is.
    """
    read_gallery(collection, label, using=IMAGE, where=None, count=None)


def worse(result: Compared) -> str:
    """Which metric may be worse by the new encoder, in words; empty where none is."""
    low = [f"{name} {interval}" for name, interval in result.differences.items() if not interval.low >= 0]
    return ", ".join(low)


def _found_again(old: Collection, new: Collection, ids: Sequence[str], maker: Maker) -> tuple[int, int]:
    """How many records were looked for by their own picture, and how many were the first hit."""
    batch, there = old.fetch(ids, want=Want(vectors=(IMAGE,))), revisions(new, ids)
    revs = zip(batch.ids, batch.revs or (), strict=True)
    # What was written this very moment is another picture in the one than in the other.
    asked, vectors = maker.vectors(batch.take([row for row, (r, rev) in enumerate(revs) if there.get(r) == rev]))
    if not asked:
        return 0, 0
    hits = new.search(vectors, k=_COPIES, using=IMAGE, tuning=Tuning(exact=True), want=Want(payload=False))
    return len(asked), sum(_first(record, each) for record, each in zip(asked, hits, strict=True))


def _first(record: str, hits: Sequence[Hit]) -> bool:
    """Whether a record is the first hit, or scores the same."""
    return any(hit.id == record and hit.score >= hits[0].score - _SAME_SCORE for hit in hits)


def _overlap(old: Collection, new: Collection, ids: Sequence[str]) -> tuple[int, float | None]:
    """How many records were searched for in both, and the mean share of their ten nearest that are the same."""
    ours = old.fetch(ids, want=Want(payload=False, vectors=(IMAGE,)))
    theirs = new.fetch(ids, want=Want(payload=False, vectors=(IMAGE,)))
    here = {r for r, p in zip(ours.ids, ours.present(IMAGE), strict=True) if p}
    both = [r for r, p in zip(theirs.ids, theirs.present(IMAGE), strict=True) if p and r in here]
    if not both:
        return 0, None
    near = [_nearest(side, batch.ids, batch.vectors[IMAGE], both) for side, batch in ((old, ours), (new, theirs))]
    shares = [len(one & other) / max(1, min(_K, max(len(one), len(other)))) for one, other in zip(*near, strict=True)]
    return len(both), float(np.mean(shares))


def _nearest(
    collection: Collection, ids: Sequence[str], vectors: NDArray[np.float32], asked: Sequence[str]
) -> list[set[str]]:
    row_of = {record: row for row, record in enumerate(ids)}
    rows = [row_of[record] for record in asked]
    found = collection.search(vectors[rows], k=_K + 1, using=IMAGE, want=Want(payload=False))
    return [set([hit.id for hit in hits if hit.id != record][:_K]) for hits, record in zip(found, asked, strict=True)]
