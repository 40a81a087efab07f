"""Pictures that come to a collection which holds them already: the same, edited, or in another size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from pixdex._looking import Looking
from pixdex._sameness import Known, Near, judge_of, neighbours
from pixdex.encoders.decoding import Decoding
from pixdex.types import Batch, Hit

if TYPE_CHECKING:
    from pixdex._sameness import Judge
    from pixdex.collection import Collection

__all__ = ["DUPLICATE_OF", "OnDuplicate", "Twins"]

DUPLICATE_OF = "duplicate_of"
"""The payload key that holds the id of the record that is the same picture."""


class OnDuplicate(StrEnum):
    """What becomes of a picture that the collection holds already under another id."""

    KEEP = "keep"
    SKIP = "skip"
    TAG = "tag"


class Twins:
    """Finds the record that is the same picture, in the collection or before in a batch. ``decoding``: how files are read.

    Raises:
        Unsupported: the vectors are not compared by cosine, or there are no tokens to verify with.
        MissingDependency: OpenCV is to look at pictures and is not installed.
    """

    def __init__(
        self, collection: Collection, using: str, near: Near, action: OnDuplicate, decoding: Decoding = Decoding()
    ) -> None:
        self.skips = action is OnDuplicate.SKIP
        self._collection, self._using, self._near, self._decoding = collection, using, near, decoding
        self._judge()  # what cannot be is said before anything is added

    def of(self, batch: Batch) -> Mapping[str, str]:
        """The ids of those that have a twin, and which. A twin has none itself, so that one of each picture stays."""
        matrix = np.asarray(batch.vectors[self._using], dtype=np.float32)
        lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
        unit = matrix / np.where(lengths > 0, lengths, 1)
        tokens = batch.tokens or (None,) * len(batch)
        payloads = dict(zip(batch.ids, batch.payloads or (), strict=True))
        alone: list[int] = []
        twins: dict[str, str] = {}
        judge = self._judge()
        for row, hits in neighbours(self._collection, batch, self._near, self._using):
            others = [Hit(batch.ids[n], float(unit[n] @ unit[row])) for n in alone]
            near = sorted([*hits, *others], key=lambda hit: (-hit.score, hit.id))
            known = Known({batch.ids[n]: tokens[n] for n in alone}, payloads)
            said = judge(batch.ids[row], tokens[row], near, known)
            best = max(said, key=lambda one: one[1], default=None)
            if best is not None and best[1] >= 0:
                twins[batch.ids[row]] = best[0]
            else:
                alone.append(row)
        return twins

    def _judge(self) -> Judge:
        """For one batch: what it has seen of a picture is forgotten with it, as that may be replaced."""
        looking = Looking(self._collection, self._decoding) if self._near.look else None
        return judge_of(self._near, self._collection, self._using, looking)

    def tagged(self, batch: Batch, twins: Mapping[str, str]) -> Batch:
        """What is to be written: without those that have a twin, or with its id in their payload."""
        if not twins:
            return batch
        if self.skips:
            return batch.take([row for row, record in enumerate(batch.ids) if record not in twins])
        payloads = [
            _with(payload, twins.get(record)) for record, payload in zip(batch.ids, batch.payloads or (), strict=True)
        ]
        return replace(batch, payloads=tuple(payloads))


def _with(payload: Any, twin: str | None) -> Any:
    return payload if twin is None else {**payload, DUPLICATE_OF: twin}
