"""What weights are fitted on: records or pictures of known label, searched for by each kind of evidence apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pixdex import _eval_queries as asking
from pixdex import fusion
from pixdex._captions import caption_of, vector_of
from pixdex.errors import ConfigError
from pixdex.fields import IMAGE, TEXT
from pixdex.fusion import AT, NEAR, Decay
from pixdex.fusion_weights import Trial
from pixdex.spec import Kind
from pixdex.types import Hit, Payload, Want

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pixdex._eval_queries import Gallery, Label, Pictures
    from pixdex._progress import Count
    from pixdex.collection import Collection
    from pixdex.filters import Filter
    from pixdex.types import Tuning

__all__ = ["EVIDENCE", "Asking", "Sought", "own", "pictures", "trials"]

EVIDENCE = ("image", "text", "near", "at")
_AT_ONCE = 32

Words = Callable[[Sequence[str]], "NDArray[np.float32]"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sought:
    """Which kinds of evidence there are, and how far place and time reach.

    Attributes:
        names: some of ``EVIDENCE``, picture or text among them.
        near: how scores fall off with kilometres; at: with seconds.
        place: the field of places; time: that of times.

    Raises:
        ConfigError: another name, one twice, or nothing to search by.
    """

    names: tuple[str, ...]
    near: Decay = NEAR
    at: Decay = AT
    place: str = "place"
    time: str = "taken"

    def __post_init__(self) -> None:
        for name in self.names:
            if name not in EVIDENCE or self.names.count(name) > 1:
                raise ConfigError(f"evidence {name!r}: {', '.join(EVIDENCE)}, each once")
        if len(self.names) < 2 or not {"image", "text"} & set(self.names):
            raise ConfigError("weights are of two kinds of evidence at least, image or text among them")

    @property
    def fields(self) -> dict[str, tuple[str, Kind, Decay]]:
        """Of place and time, where they are evidence: their field, its kind, the decay."""
        known = {"near": (self.place, Kind.GEO, self.near), "at": (self.time, Kind.TIME, self.at)}
        return {name: found for name, found in known.items() if name in self.names}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """The queries: what each brings.

    Attributes:
        labels: what is right for each.
        images: float32 ``[q, dim]``.
        texts: float32 ``[q, dim]``, NaN where there is none; None where nothing is searched by text.
        payloads: of each.
        own: ids that are the query itself.
    """

    labels: tuple[Label, ...]
    images: NDArray[np.float32]
    texts: NDArray[np.float32] | None
    payloads: tuple[Payload, ...]
    own: tuple[frozenset[str], ...]

    def take(self, rows: Sequence[int]) -> Asking:
        """The queries at ``rows``, in that order."""
        return Asking(
            labels=tuple(self.labels[row] for row in rows),
            images=self.images[list(rows)],
            texts=None if self.texts is None else self.texts[list(rows)],
            payloads=tuple(self.payloads[row] for row in rows),
            own=tuple(self.own[row] for row in rows),
        )


def own(
    collection: Collection, gallery: Gallery, records: Sequence[str], sought: Sought, key: str | None, words: Words
) -> Asking:
    """Records as queries: by their own picture, caption, place and time. A caption under another ``key`` than the one that
    vectors are of is encoded by ``words``.
    """
    stored = vector_of(collection.spec)
    of_store = stored is not None and (key is None or key == stored.embeds)
    wanted = (IMAGE, TEXT) if "text" in sought.names and of_store else (IMAGE,)
    batch = collection.fetch(records, want=Want(vectors=wanted))
    row_of = gallery.rows()
    rows = [row for row in np.flatnonzero(batch.present(IMAGE)).tolist() if batch.ids[row] in row_of]
    batch = batch.take(rows)
    payloads = tuple(batch.payloads or ())
    texts = None
    if "text" in sought.names:
        texts = batch.vectors[TEXT].copy() if of_store else _encoded(payloads, key, words)
        if of_store:
            texts[~batch.present(TEXT)] = np.nan
    return Asking(
        labels=tuple(gallery.names[gallery.codes[row_of[record]]] for record in batch.ids),
        images=batch.vectors[IMAGE],
        texts=texts,
        payloads=payloads,
        own=tuple(frozenset([record]) for record in batch.ids),
    )


def pictures(made: Pictures, gallery: Gallery, label: str, sought: Sought, key: str | None, words: Words) -> Asking:
    """Pictures as queries, with the text, place and time that their table or file has."""
    queries = asking.picture_queries(made, gallery, label)
    payload_of = {record: payload for record, payload, _ in made.made}
    payloads = tuple(payload_of[record] for record in queries.ids)
    return Asking(
        labels=queries.labels,
        images=queries.vectors,
        texts=_encoded(payloads, key, words) if "text" in sought.names else None,
        payloads=payloads,
        own=tuple(frozenset(gallery.ids[row] for row in rows) for rows in queries.own),
    )


def _encoded(payloads: Sequence[Payload], key: str | None, words: Words) -> NDArray[np.float32]:
    if key is None:
        raise ConfigError("say which column holds the text that asks: query_text= (--query-text)")
    texts = [_caption(payload.get(key)) for payload in payloads]
    if not any(texts):
        raise ConfigError(f"no query has a text under {key!r}")
    different = {text: row for row, text in enumerate(dict.fromkeys(text for text in texts if text is not None))}
    vectors = words(list(different))
    made = np.full((len(texts), vectors.shape[1]), np.nan, dtype=np.float32)
    for row, text in enumerate(texts):
        if text is not None:
            made[row] = vectors[different[text]]
    return made


def _caption(value: Any) -> str | None:
    try:
        return caption_of(value)
    except TypeError:
        return None


# --- searched --------------------------------------------------------------------------------------


def trials(
    collection: Collection,
    gallery: Gallery,
    queries: Asking,
    sought: Sought,
    *,
    using: str,
    where: Filter | None,
    depth: int,
    tuning: Tuning,
    count: Count | None,
) -> list[Trial]:
    """What each kind of evidence finds, through the store's own search; texts are looked for in the vector ``using``."""
    for name, (field, kind, _) in sought.fields.items():
        declared = collection.spec.field(field)
        if declared is None or declared.kind is not kind:
            raise ConfigError(f"{name}: collection {collection.name!r} has no {kind} field {field!r}")
    right_of: dict[Label, set[str]] = {}
    for record, code in zip(gallery.ids, gallery.codes.tolist(), strict=True):
        if code >= 0:
            right_of.setdefault(gallery.names[code], set()).add(record)
    more = max(map(len, queries.own), default=0)

    def searched(vectors: NDArray[np.float32], rows: range, vector: str) -> list[list[Hit]]:
        block = vectors[rows.start : rows.stop]
        asked = np.flatnonzero(np.isfinite(block).all(axis=1)).tolist()
        found: list[list[Hit]] = [[] for _ in rows]
        if asked:
            deep = 2 * depth + more
            hits = collection.search(block[asked], k=deep, where=where, using=vector, tuning=tuning)
            for at, each in zip(asked, hits, strict=True):
                others = [hit for hit in each if hit.id not in queries.own[rows[at]]]
                found[at] = fusion.levelled(others, depth, all_there=len(each) < deep)
        return found

    made: list[Trial] = []
    for start in range(0, len(queries.labels), _AT_ONCE):
        rows = range(start, min(start + _AT_ONCE, len(queries.labels)))
        lists = {}
        if "image" in sought.names:
            lists["image"] = searched(queries.images, rows, IMAGE)
        if queries.texts is not None:
            lists["text"] = searched(queries.texts, rows, using)
        for at, row in enumerate(rows):
            of_query = {name: found[at] for name, found in lists.items()}
            made.append(
                Trial(
                    lists=of_query,
                    right=right_of[queries.labels[row]] - queries.own[row],
                    factors=_factors(of_query, queries.payloads[row], sought),
                    label=queries.labels[row],
                )
            )
        if count is not None:
            count(len(made), len(queries.labels))
    return made


def _factors(lists: Mapping[str, Sequence[Hit]], payload: Payload, sought: Sought) -> dict[str, dict[str, float]]:
    """What place and time multiply the score of each hit by; 1 where the query has none, as nothing is searched by it then."""
    hits = {hit.id: hit for found in lists.values() for hit in found}
    made = {}
    for name, (field, _, decay) in sought.fields.items():
        value = payload.get(field)
        if isinstance(value, list):
            value = value[0] if value else None
        if value is None:
            made[name] = dict.fromkeys(hits, 1.0)
            continue
        distance = (
            fusion.kilometres(field, (value["lat"], value["lon"])) if name == "near" else fusion.age(field, value)
        )
        made[name] = {record: decay.factor(distance(hit)) for record, hit in hits.items()}
    return made
