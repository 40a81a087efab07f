"""What a collection keeps of candidates for rerankers: their tokens and vectors, by id."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pixdex.types import Want

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pixdex.collection import Collection

__all__ = ["NOTHING", "Kept", "kept_of"]

_PAGE = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """Of one record: ``tokens`` ``[t, width]`` and ``vector`` float32 ``[dim]``; None for what it lacks or nobody asked for."""

    tokens: NDArray[Any] | None = None
    vector: NDArray[Any] | None = None


NOTHING = Kept()


def kept_of(collection: Collection, ids: Iterable[str], using: str, *, tokens: bool, vectors: bool) -> dict[str, Kept]:
    """What is kept of the records that exist, in one round trip for a thousand; without one where nothing is asked for.

    Tokens have no name in the store that tells of their encoder. So they are asked for with the vector ``using``, which
    has: where the alias was switched to another encoder meanwhile, that fails.
    """
    wanted = list(dict.fromkeys(ids)) if tokens or vectors else []
    want = Want(payload=False, vectors=(using,), tokens=tokens)
    kept: dict[str, Kept] = {}
    for start in range(0, len(wanted), _PAGE):
        batch = collection.fetch(wanted[start : start + _PAGE], want=want)
        there = batch.present(using)
        matrices = batch.tokens or (None,) * len(batch)
        for row, (record, matrix) in enumerate(zip(batch.ids, matrices, strict=True)):
            kept[record] = Kept(matrix, batch.vectors[using][row] if vectors and there[row] else None)
    return kept
