"""Whether two pictures are one photograph, edited: cut, turned, scaled, mirrored, blurred, with something laid over it.

Points of one are found again in the other by their surroundings (SIFT: Lowe, Distinctive Image Features from Scale-Invariant
Keypoints, IJCV 2004; compared by the roots of their shares: Arandjelovic, Zisserman, Three Things Everyone Should Know to Improve
Object Retrieval, CVPR 2012; mirrored ones by the same values in another order). The similarity transform that most of them follow
(RANSAC: Fischler, Bolles, 1981) lays one picture upon the other, and tile by tile it shows whether they agree.

Another shot of the same scene has its points in common too. It agrees less, and neither of the two contains the other: then each
shows something that would be lost without it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pixdex.errors import MissingDependency

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pixdex.encoders.port import Pixels

__all__ = ["SIDE", "Alignment", "Landmarks", "align", "can_align", "landmarks"]

SIDE = 256
"""Pixels of the longer side that pictures are compared at."""
_POINTS = 500
_FAINT = 0.015
"""Contrast that a point must have: less than the usual .04, as blurred pictures have no more."""
_FEW = 8
"""A picture with fewer points is too plain to be laid upon another: colours are compared."""
_PATCHES, _SHADE = 8, 12
"""Of a plain picture so many patches a side are compared, which may differ by so many levels of a colour."""
_DISTINCT = 0.9
"""How near the best match of a point must be, compared with the second best (Lowe's ratio)."""
_OFF = 2.5
"""Pixels by which a point may miss its match."""
_TRIES, _SURE = 2000, 0.995
_AGREE = 5
"""Points that must agree: two always do, and four by chance in every fifth pair of pictures that are somewhat alike."""
_CERTAIN = 30
"""Points that agree from which on nobody looks whether more do in the mirror."""
_SCALES = (0.15, 7.0)
"""How much larger or smaller what is shown may be."""
_BLUR = 2.0
"""Pixels: what is finer than that counts as noise of saving and scaling."""
_TILES = 8
_COVERED = 0.7
"""How much of a tile must be in both pictures."""
_NOISE = 4.0
"""Grey levels, squared, that are no texture."""

_PRIOR, _BY_DETAIL, _BY_AGREEMENT, _WHOLLY = -7.0, -1.8, 4.6, 8
_PLAIN = 50
"""Fitted to random edits of 1,800 pictures, and of what is most alike to each: see ``Alignment.log_odds``."""

_CELLS = np.arange(128).reshape(4, 4, 8)
_MIRRORED = _CELLS[::-1][:, :, (8 - np.arange(8)) % 8].ravel()
"""Where each value of a descriptor lies in that of the mirrored picture: rows of cells from the other end, angles the other way."""


@dataclass(frozen=True, slots=True, eq=False)
class Landmarks:
    """What of a picture is compared, some 250 kB.

    Attributes:
        grey: uint8 ``[h, w]``, the longer side ``SIDE``.
        points: float32 ``[n, 2]``, x and y in pixels of ``grey``.
        around: float32 ``[n, 128]``, of unit length: what each point looks like.
        patches: uint8 ``[8, 8, 3]``, the colours.
    """

    grey: NDArray[np.uint8]
    points: NDArray[np.float32]
    around: NDArray[np.float32]
    patches: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Alignment:
    """How well one picture lies upon another.

    Attributes:
        points: how many points of one lie where their match in the other is; 0: they have nothing in common, or one is too plain.
        detail: how many points the picture has that has fewer.
        agreement: how alike they are where they overlap, at most 1: the correlation within a tile, of the tiles the median, each by how
            much there is to see in it. So half may be covered.
        contained: how much of one of the two is in the other, of the one of which that is more: at most 1.
        mirrored: whether one is a mirror image.
    """

    points: int
    detail: int
    agreement: float
    contained: float
    mirrored: bool

    @property
    def log_odds(self) -> float:
        """How likely it is that one picture was made of the other, above 0: more likely than not.

        Sharp copies agree closely, which blurred and small ones cannot: the more detail there is, the closer two must. And agreement (by
        Fisher's z) counts as far as one of the two lies within the other: an edit does, another shot shows something else beside.
        """
        detail = min(max(self.detail, _PLAIN), _POINTS) / _POINTS
        closeness = math.atanh(min(max(self.agreement, 0.0), 0.99))
        return _PRIOR + _BY_DETAIL * math.log(detail) + _BY_AGREEMENT * closeness * self.contained**_WHOLLY


def can_align() -> bool:
    """Whether what finds points is installed."""
    from importlib.util import find_spec

    return find_spec("cv2") is not None


def landmarks(picture: Pixels) -> Landmarks:
    """What is compared of a picture, uint8 ``[h, w, 3]``.

    Raises:
        MissingDependency: OpenCV is not installed.
    """
    cv = _opencv()
    height, width = picture.shape[:2]
    scale = SIDE / max(height, width)
    size = max(8, round(width * scale)), max(8, round(height * scale))
    grey = cv.cvtColor(picture, cv.COLOR_RGB2GRAY)
    grey = cv.resize(grey, size, interpolation=cv.INTER_AREA if scale < 1 else cv.INTER_CUBIC)
    sift = cv.SIFT_create(nfeatures=_POINTS, contrastThreshold=_FAINT, edgeThreshold=15)
    found, values = sift.detectAndCompute(grey, None)
    points, around = np.zeros((0, 2), np.float32), np.zeros((0, 128), np.float32)
    if values is not None:
        points = np.array([point.pt for point in found], np.float32)
        around = np.sqrt(values / np.maximum(values.sum(axis=1, keepdims=True), 1e-6), dtype=np.float32)
    return Landmarks(grey, points, around, cv.resize(picture, (_PATCHES, _PATCHES), interpolation=cv.INTER_AREA))


def align(one: Landmarks, other: Landmarks) -> Alignment:
    """How well one lies upon the other, moved, turned, scaled and mirrored so that most points agree. The same two give the same,
    always.
    """
    detail = min(len(one.points), len(other.points))
    if detail < _FEW:
        off = np.abs(one.patches.astype(int) - other.patches).max()
        return Alignment(0, detail, float(off <= _SHADE), 1.0, mirrored=False)
    best: _Laid | None = None
    for laid in _both_ways(one, other):
        if best is None or laid.points > best.points:
            best = laid
        if best.points >= _CERTAIN:
            break
    if best is None:
        return Alignment(0, detail, 0.0, 0.0, mirrored=False)
    agreement, contained = _agreement(best, other.grey)
    return Alignment(best.points, detail, agreement, contained, best.mirrored)


@dataclass(frozen=True, slots=True, eq=False)
class _Laid:
    """A picture, as it is or mirrored, and the transform ``[2, 3]`` that lays it upon another; how many points follow it."""

    points: int
    grey: NDArray[np.uint8]
    transform: NDArray[np.float64]
    mirrored: bool


def _both_ways(one: Landmarks, other: Landmarks) -> Iterator[_Laid]:
    for mirrored in (False, True):
        seen = _mirrored(one) if mirrored else one
        mine, its = _matches(seen.around, other.around)
        found = _transform(seen.points[mine], other.points[its])
        if found is not None:
            yield _Laid(found[1], seen.grey, found[0], mirrored)


def _mirrored(picture: Landmarks) -> Landmarks:
    points = picture.points.copy()
    points[:, 0] = picture.grey.shape[1] - 1 - points[:, 0]
    return replace(picture, grey=picture.grey[:, ::-1], points=points, around=picture.around[:, _MIRRORED])


def _matches(one: NDArray[np.float32], other: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of either: what is the nearest of each other, and distinct."""
    # OpenCV's product stays in its thread: numpy's would start a pool in each of ours.
    alike = _opencv().gemm(one, other, 1.0, None, 0.0, flags=_opencv().GEMM_2_T)
    rows = np.arange(len(alike))
    its, mine = alike.argmax(axis=1), alike.argmax(axis=0)
    best = alike[rows, its]
    alike[rows, its] = -1
    # Of vectors of unit length, the squared distance is twice what lacks of 1.
    distinct = 1 - best < _DISTINCT**2 * (1 - alike.max(axis=1))
    chosen = np.flatnonzero((mine[its] == rows) & distinct)
    return chosen, its[chosen]


def _transform(one: NDArray[np.float32], other: NDArray[np.float32]) -> tuple[NDArray[np.float64], int] | None:
    """The similarity transform that most points follow, ``[2, 3]``, and how many; None where there is no likely one."""
    cv = _opencv()
    if len(one) < 3:
        return None
    transform, follow = cv.estimateAffinePartial2D(
        one, other, method=cv.RANSAC, ransacReprojThreshold=_OFF, maxIters=_TRIES, confidence=_SURE
    )
    if transform is None or not _SCALES[0] < _scale(transform) < _SCALES[1]:
        return None
    agree = int(follow.sum())
    return None if agree < _AGREE else (transform, agree)


def _scale(transform: NDArray[np.float64]) -> float:
    return float(np.hypot(transform[0, 0], transform[1, 0]))


def _agreement(laid: _Laid, onto: NDArray[np.uint8]) -> tuple[float, float]:
    """``agreement`` and ``contained``: of the finer of the two, brought to the grid of the coarser."""
    cv = _opencv()
    finer, coarser, transform = laid.grey, onto, laid.transform
    if _scale(transform) > 1:
        finer, coarser, transform = onto, laid.grey, cv.invertAffineTransform(transform)
    scale = _scale(transform)
    height, width = coarser.shape
    smooth = cv.GaussianBlur(
        np.ascontiguousarray(finer), (0, 0), max(0.6, 0.5 / scale)
    )  # else it flickers when made smaller
    moved = cv.warpAffine(smooth, transform, (width, height)).astype(np.float32)
    there = (cv.warpAffine(np.ones(finer.shape, np.float32), transform, (width, height)) > 0.99).astype(np.float32)
    contained = max(float(there.mean()), float(there.sum()) / (finer.size * scale * scale))
    still = np.ascontiguousarray(coarser, np.float32)
    ours, theirs = (cv.GaussianBlur(picture - 128, (0, 0), _BLUR) for picture in (moved, still))
    return _by_tiles(ours, theirs, there), min(1.0, contained)


def _by_tiles(one: Any, other: Any, there: Any) -> float:
    """The median of the correlations within tiles, each by how much texture both have there."""
    cv = _opencv()

    def mean(picture: NDArray[np.float32]) -> NDArray[np.float32]:
        small: NDArray[np.float32] = cv.resize(picture, (_TILES, _TILES), interpolation=cv.INTER_AREA)
        return small

    share = mean(there)
    covered = share >= _COVERED
    if not covered.any():
        return 0.0
    share = np.maximum(share, 1e-6)
    ours, theirs = mean(one * there) / share, mean(other * there) / share
    common = mean(one * other * there) / share - ours * theirs
    deviations = [
        np.sqrt(np.maximum(mean(picture**2 * there) / share - middle**2, 0))
        for picture, middle in ((one, ours), (other, theirs))
    ]
    correlation = common / (deviations[0] * deviations[1] + _NOISE)
    texture = np.minimum(*deviations)[covered] + 1e-3
    order = np.argsort(correlation[covered])
    summed = np.cumsum(texture[order])
    return float(correlation[covered][order][np.searchsorted(summed, summed[-1] / 2)])


def _opencv() -> Any:
    try:
        import cv2
    except ImportError:
        raise MissingDependency("opencv-python-headless", "dedup") from None
    return cv2
