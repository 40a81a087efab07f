"""Shortlists of which it is known what matches: what a collection's first stage finds, and what a reranker says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pixdex import _eval_queries as asking
from pixdex._kept import NOTHING, kept_of
from pixdex._originals import picture_of, roots_of
from pixdex.encoders.decoding import Decoding
from pixdex.encoders.edits import edited
from pixdex.errors import ConfigError, InvalidImage, Unsupported
from pixdex.fields import CONTENT
from pixdex.pictures import load_picture
from pixdex.rerankers.choosing import Lists
from pixdex.rerankers.port import Candidate, Query
from pixdex.rerankers.references import for_tokens
from pixdex.types import Payload, Want

if TYPE_CHECKING:
    from pixdex._progress import Count
    from pixdex.collection import Collection
    from pixdex.encoders.port import Encoder
    from pixdex.rerankers.port import Reranker

__all__ = ["Asking", "by_copies", "by_label", "shortlists"]

_AT_ONCE = 32
_PAGE = 1000
_OFTEN = 4
"""Edits of one picture that ask at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Asking:
    """What is searched for, and what is right.

    Attributes:
        queries: pictures as the encoder sees them.
        own: of each, the records that are the query itself and no answer.
        right: of each, the ids that match.
        groups: int64 ``[q]``, see ``Lists``.
        notices: what to know of them, in sentences.
    """

    queries: Sequence[Query]
    own: Sequence[frozenset[str]]
    right: Sequence[frozenset[str]]
    groups: NDArray[np.int64]
    notices: tuple[str, ...] = ()


def by_label(
    collection: Collection,
    label: str,
    *,
    using: str,
    limit: int,
    seed: int,
    tokens: bool,
    count: Count | None,
) -> Asking:
    """Records that share their label with others, as queries for those; a label is a group.

    Raises:
        ConfigError: no such field, no labels, or none that two records share.
    """
    gallery = asking.read_gallery(collection, label, using=using, where=None, count=count)
    able = list(asking.candidates(gallery))
    if not able:
        raise ConfigError(
            f"no two records of collection {collection.name!r} have the same {label}: there is nothing to find"
        )
    chosen = _chosen(able, limit, seed)
    row_of = gallery.rows()
    of_code: dict[int, set[str]] = {}
    for record, code in zip(gallery.ids, gallery.codes.tolist(), strict=True):
        if code >= 0:
            of_code.setdefault(code, set()).add(record)
    ids: list[str] = []
    queries: list[Query] = []
    for start in range(0, len(chosen), _PAGE):
        batch = collection.fetch(
            chosen[start : start + _PAGE], want=Want(payload=False, vectors=(using,), tokens=tokens)
        )
        there = batch.present(using)
        matrices = batch.tokens or (None,) * len(batch)
        for row in np.flatnonzero(there).tolist():  # one may have been deleted meanwhile
            ids.append(batch.ids[row])
            queries.append(Query(np.asarray(batch.vectors[using][row], dtype=np.float32), matrices[row]))
    codes = [int(gallery.codes[row_of[record]]) for record in ids]
    return Asking(
        queries=queries,
        own=[frozenset([record]) for record in ids],
        right=[frozenset(of_code[code] - {record}) for record, code in zip(ids, codes, strict=True)],
        groups=np.array(codes, dtype=np.int64),
        notices=_without_label(gallery, label),
    )


def by_copies(
    collection: Collection,
    encoder: Encoder | None,
    *,
    limit: int,
    seed: int,
    tokens: bool,
    count: Count | None,
) -> Asking:
    """Edits of pictures that records were made of, as queries for those; a picture is a group.

    Raises:
        ConfigError: no record's picture can be read.
        Unsupported: there is no encoder, or it makes no tokens, and they are asked for.
    """
    if encoder is None:
        raise Unsupported("copies are encoded: give an ImageIndex (pixdex.open) or its address")
    if tokens and encoder.token_spec is None:
        raise Unsupported(f"encoder {encoder.name!r} makes no tokens: calibrate a reranker that needs none")
    places, right_of = _pictures(collection)
    roots = roots_of(collection)
    # More than are wanted are at hand, as files move; few pictures ask several times.
    order = _chosen(sorted(places), len(places), seed, shuffled=True)
    order *= min(_OFTEN, -(-limit // max(1, len(order))))
    rng = np.random.default_rng(seed)
    ids: list[str] = []
    queries: list[Query] = []
    for start in range(0, len(order), _AT_ONCE):
        if len(ids) >= limit:
            break
        kept, prepared = [], []
        for record in order[start : start + min(_AT_ONCE, limit - len(ids))]:
            pixels = _readable(record, places[record], roots, encoder)
            if pixels is not None:
                kept.append(record)
                prepared.append(encoder.prepare(edited(pixels, rng)[1]))
        if kept:
            features = encoder.encode(prepared, tokens=tokens)
            ids += kept
            matrices = features.tokens or (None,) * len(kept)
            queries += [Query(v, t) for v, t in zip(features.vectors, matrices, strict=True)]
        if count is not None:
            count(len(ids), min(limit, len(order)))
    if not ids:
        raise ConfigError(
            f"collection {collection.name!r} has no record whose picture lies where its path says, as it was when it was added: "
            "calibrate by a label instead"
        )
    right = [frozenset(right_of.get(record, {record})) for record in ids]
    groups = np.unique(ids, return_inverse=True)[1].astype(np.int64)
    return Asking(queries, [frozenset()] * len(ids), right, groups)


def shortlists(
    collection: Collection,
    asking: Asking,
    reranker: Reranker,
    *,
    using: str,
    candidates: int,
    count: Count | None,
) -> Lists:
    """What the first stage finds for each query, and what the reranker says of it.

    Raises:
        FingerprintMismatch: the reranker was trained for tokens of another encoder.
        ConfigError: there is no token to rerank by.
    """
    if reranker.uses_tokens and collection.spec.tokens is None:
        raise ConfigError(
            f"collection {collection.name!r} keeps no tokens, which {reranker.name!r} needs: make a new one with tokens=True "
            "(--tokens), or calibrate a reranker of vectors"
        )
    if collection.spec.tokens is not None:
        reranker = for_tokens(reranker, collection.spec.tokens)
    total = len(asking.queries)
    made = Lists(
        first=np.full((total, candidates), np.nan),
        scores=np.full((total, candidates), np.nan),
        match=np.zeros((total, candidates), dtype=bool),
        positives=np.array([len(right) for right in asking.right], dtype=np.int64),
        groups=asking.groups,
    )
    more = max(map(len, asking.own), default=0)
    for start in range(0, total, _AT_ONCE):
        block = range(start, min(start + _AT_ONCE, total))
        vectors = np.stack([asking.queries[query].vector for query in block])
        found = collection.search(vectors, k=candidates + more, using=using, want=Want(payload=False))
        kept = [
            [hit for hit in hits if hit.id not in asking.own[query]][:candidates]
            for query, hits in zip(block, found, strict=True)
        ]
        shown = kept_of(
            collection,
            (hit.id for hits in kept for hit in hits),
            using,
            tokens=reranker.uses_tokens,
            vectors=getattr(reranker, "uses_vectors", False),
        )
        for query, hits in zip(block, kept, strict=True):
            found_of = [shown.get(hit.id, NOTHING) for hit in hits]
            each = [Candidate(h.id, h.score, one.tokens, one.vector) for h, one in zip(hits, found_of, strict=True)]
            made.first[query, : len(hits)] = [hit.score for hit in hits]
            made.scores[query, : len(hits)] = reranker.rerank(asking.queries[query], each)
            made.match[query, : len(hits)] = [hit.id in asking.right[query] for hit in hits]
        if count is not None:
            count(block.stop, total)
    if np.isnan(made.scores).all():
        raise ConfigError(
            f"no record of collection {collection.name!r} that was found has tokens, which {reranker.name!r} needs: add "
            "the pictures with tokens (--tokens)"
        )
    return made


def _pictures(collection: Collection) -> tuple[dict[str, Payload], dict[str, set[str]]]:
    """What says where the pictures of records lie, and of those whose content is known, all records of the same."""
    places: dict[str, Payload] = {}
    same: dict[str, set[str]] = {}
    right: dict[str, set[str]] = {}
    for page in collection.scan(want=Want(), size=_PAGE):
        for record, payload in zip(page.batch.ids, page.batch.payloads or (), strict=True):
            path, content = payload.get("path"), payload.get(CONTENT)
            if isinstance(content, str):
                right[record] = same.setdefault(content, set())
                right[record].add(record)
            if isinstance(content, str) or isinstance(path, str):
                places[record] = {key: payload[key] for key in ("path", CONTENT) if key in payload}
    return places, right


def _chosen(each: Sequence[str], limit: int, seed: int, *, shuffled: bool = False) -> list[str]:
    if len(each) <= limit and not shuffled:
        return list(each)
    picked = np.random.default_rng(seed).permutation(len(each))[:limit]
    return [each[place] for place in (picked if shuffled else np.sort(picked)).tolist()]


def _readable(record: str, payload: Payload, roots: Mapping[str, Path], encoder: Encoder) -> Any:
    """The pixels of the picture that a record was made of; None where it can't be used, or another lies there by now."""
    try:
        # Another tool's records don't say what their pictures were.
        path = picture_of(record, payload, roots, Decoding()) if CONTENT in payload else Path(payload["path"])
        return load_picture(path, min_side=getattr(encoder, "min_side", None))[0]
    except (InvalidImage, OSError):
        return None


def _without_label(gallery: asking.Gallery, label: str) -> tuple[str, ...]:
    without = int((gallery.codes < 0).sum())
    return (f"{without} records have no {label}: they are found, and never right",) if without else ()
