"""What an encoder is: pictures in, vectors (and, when asked, tokens) out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pixdex.spec import Fingerprint, Metric, TokenSpec

__all__ = ["Encoder", "Features", "Pixels", "TextEncoder", "WordEncoder"]

Pixels: TypeAlias = "NDArray[np.uint8]"
"""An upright sRGB picture, uint8 ``[height, width, 3]``."""


@dataclass(frozen=True, slots=True)
class Features:
    """What an encoder makes of n pictures.

    Attributes:
        vectors: float32 ``[n, dim]``.
        tokens: n matrices ``[t, token dim]`` in the dtype of the encoder's TokenSpec, or None.
    """

    vectors: NDArray[np.float32]
    tokens: tuple[NDArray[Any], ...] | None = None


@runtime_checkable
class Encoder(Protocol):
    """Turns pictures into vectors. Safe to call from several threads at once.

    Attributes:
        name: short name for people, such as ``classic`` or ``vit-tiny-16-224``.
        reference: what ``encoders.load`` needs to make this encoder again; kept with a collection.
        dim: width of the vectors.
        metric: what the vectors are to be compared with.
        fingerprint: identity over config, weights, head and preprocessing.
        token_spec: shape of the tokens, None for an encoder without.
        batch_size: how many pictures a call of ``encode`` likes best.

    An encoder may also have ``min_side: int | None``: a picture whose shorter side has more pixels may be decoded at a
    fraction of its size that keeps at least so many. None, or no such attribute: always at full size.

    One that makes tokens may also have ``token_places(pictures: Sequence[Pixels]) -> tuple[float32 [t, 4], ...] | None``: of
    each upright picture the boxes that its tokens come from, in the order of ``encode``'s: x and y of the upper left corner,
    width and height, in fractions of the picture's own width and height, whatever ``prepare`` does to it. None, or no such
    method: nobody knows where a token comes from.
    """

    name: str
    reference: str
    dim: int
    metric: Metric
    fingerprint: Fingerprint
    token_spec: TokenSpec | None
    batch_size: int

    def prepare(self, pixels: Pixels) -> NDArray[Any]:
        """One picture resized and cropped to what ``encode`` takes; run in decoding threads."""
        ...

    def encode(self, prepared: Sequence[NDArray[Any]], *, tokens: bool = False) -> Features:
        """Vectors of prepared pictures, and their tokens when asked for.

        Raises:
            Unsupported: tokens are asked of an encoder that has none.
        """
        ...


@runtime_checkable
class TextEncoder(Encoder, Protocol):
    """An encoder whose pictures and texts meet in one space. Not every encoder is one: ``isinstance`` decides."""

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors float32 ``[n, dim]``, to be compared with those of pictures."""
        ...


class WordEncoder(Protocol):
    """Turns texts alone into vectors, for captions. Safe to call from several threads at once; a ``TextEncoder`` is one too.

    Attributes:
        name, reference, dim, metric, fingerprint: as of an ``Encoder``; ``encoders.load_text`` takes the reference.
    """

    name: str
    reference: str
    dim: int
    metric: Metric
    fingerprint: Fingerprint

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors float32 ``[n, dim]``; what is longer than it takes is cut off."""
        ...
