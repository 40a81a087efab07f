"""How evidence is best joined, for a collection: weights and method fitted on queries of known label.

``fit_fusion`` searches by each kind of evidence apart, through the store's own search, and lets ``fusion_weights`` choose. What it
gives goes into ``ImageIndex.search(weights=..., fusion=...)``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from pixdex import _fusion_trials as trying
from pixdex import index as indexes
from pixdex._captions import vector_of
from pixdex._eval_queries import candidates
from pixdex._eval_running import Plan, Side
from pixdex._fusion_trials import Sought
from pixdex.errors import ConfigError, Unsupported
from pixdex.fields import IMAGE, TEXT
from pixdex.fusion import Method, method_named
from pixdex.fusion_weights import Choice, Fitted, fit_weights
from pixdex.pictures import Picture
from pixdex.types import Tuning

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pixdex._progress import Count
    from pixdex.filters import Filter

__all__ = ["Choice", "Fitted", "Sought", "fit_fusion"]


def fit_fusion(
    target: str | indexes.ImageIndex,
    *,
    label: str,
    evidence: Sequence[str] | Sought = ("image", "text"),
    queries: Picture | Iterable[Picture] | None = None,
    query_text: str | None = None,
    methods: Sequence[Method | str] = tuple(Method),
    where: Filter | None = None,
    k: int = 100,
    limit: int | None = None,
    folds: int = 5,
    seed: int = 0,
    tuning: Tuning = Tuning(),
    progress: Count | bool | None = None,
) -> Fitted:
    """Search for what is known by each kind of evidence, and choose how they are best joined.

    Records ask with their own picture, caption, place and time, and are left out of what they find; ``queries`` are pictures
    with labels, as of ``evaluating.evaluate``, which ask with the text, place and time that their table or file has. Fit on
    other labels than those that the numbers shall hold for, or trust those of cross-validation alone.

    Args:
        target: an address, or an open index.
        label: the field that says which hits are right.
        evidence: names, of ``image``, ``text``, ``near`` and ``at``; or a ``Sought``, which says how far place and time reach
            and under which fields they stand.
        queries: pictures that ask; None: every record that shares its label with another.
        query_text: the key of the text that asks; default: that of the captions. Where it is another, texts unlike the captions
            can ask, as those of users are.
        methods: that are chosen from.
        where: only records that match are searched, and are queries.
        k: how many hits of each kind are joined: ``candidates`` of ``search``.
        limit: no more queries than that, chosen at random.
        folds, seed: of cross-validation, and of that choice.
        tuning: time for recall, as of ``search``.
        progress: True for bars, False, or a function that hears how many are done and of how many.

    Raises:
        ConfigError: no such evidence or method; nothing that could be a query; a field that is not declared; no query has a text.
        NotFound: no such collection.
        Unsupported: texts are evidence, and there are neither captions nor an encoder of texts.
        StoreError: the store failed.
    """
    sought = evidence if isinstance(evidence, Sought) else Sought(names=tuple(evidence))
    ways = [method_named(method) for method in methods]  # before a search that would be for nothing
    if not ways:
        raise ConfigError(f"methods: one or more of {', '.join(Method)}")
    plan = Plan(
        label=label,
        where=where,
        k=k,
        metrics=("map",),
        exact=False,
        limit=limit,
        seed=seed,
        using=IMAGE,
        tuning=tuning,
        progress=progress,
    )
    with nullcontext(target) if isinstance(target, indexes.ImageIndex) else indexes.open(target) as index:
        collection = index.collection
        words, using = _words(index)
        side = Side(collection, index.encoder, plan)
        stored = vector_of(collection.spec)
        if queries is None:
            chosen = plan.chosen(list(candidates(side.gallery)))
            side.own(chosen[:1])  # which refuses none
            asking = trying.own(collection, side.gallery, chosen, sought, query_text, words)
        else:
            key = query_text or (None if stored is None else stored.embeds)
            asking = trying.pictures(side.encoded(queries), side.gallery, label, sought, key, words)
            asking = asking.take(plan.chosen(range(len(asking.labels))))
        with plan.counted(f"searching {side.name}") as count:
            trials = trying.trials(
                collection,
                side.gallery,
                asking,
                sought,
                using=using,
                where=where,
                depth=k,
                tuning=tuning,
                count=count,
            )
    return fit_weights(trials, methods=ways, folds=folds, seed=seed)


def _words(index: indexes.ImageIndex) -> tuple[trying.Words, str]:
    """What makes vectors of texts, and the vector that is searched by them."""
    among_captions = index.text_encoder
    if among_captions is not None:
        return among_captions.encode_text, TEXT
    encoder: Any = index.encoder

    def of_both(texts: Sequence[str]) -> NDArray[np.float32]:
        if not hasattr(encoder, "encode_text"):
            raise Unsupported(
                f"text: encoder {encoder.name!r} knows pictures only, and collection {index.collection.name!r} has no captions"
            )
        made: NDArray[np.float32] = encoder.encode_text(list(texts))
        return made

    return of_both, IMAGE
