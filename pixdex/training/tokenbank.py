"""Tokens of many edited views of the same pictures, made in batches on any device: what rerankers are trained on.

``chosen``, ``projected`` and ``quantized`` do in torch what ``pixdex.encoders.tokens`` does in numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - what everybody calls it

from pixdex.encoders.tokens import Choice, Coding
from pixdex.errors import ConfigError
from pixdex.training.augment import Augmentation

__all__ = ["Bank", "Recipe", "Trunk", "bank_of", "chosen", "edited", "plain", "projected", "quantized", "tokens_of"]

Trunk: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
"""Pictures float32 ``[n, 3, s, s]`` in [0, 1] to descriptors ``[n, t, d]``, the guides ``[n, d]`` by which tokens are chosen, and
the first stage's vectors ``[n, e]``; both of length one."""

_PLAIN = {"rotate": 0.0, "blur": 0.0, "grey": 0.0, "flip": 0.0, "colour": 0.0}
_BLUR_BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What becomes tokens, and how.

    Attributes:
        count: tokens a picture, at most.
        mean: float32 ``[d]``, see ``pixdex.encoders.tokens.Projection``; None: nothing is projected.
        basis: float32 ``[d, k]``, or None likewise.
        choice: which descriptors.
        coding: how their values are kept.
    """

    count: int
    mean: Tensor | None = None
    basis: Tensor | None = None
    choice: Choice = Choice.DIVERSE
    coding: Coding = Coding.INT8

    def to(self, device: torch.device) -> Recipe:
        """The same on a device."""
        if self.mean is None or self.basis is None:
            return self
        return replace(self, mean=self.mean.to(device), basis=self.basis.to(device))


@dataclass(frozen=True, slots=True, eq=False)
class Bank:
    """Views of n pictures, of which the first is the picture itself.

    Attributes:
        tokens: int8 ``[n, v, t, k]``, in spatial order; of bits 1 and -1.
        rank: int16 ``[n, v, t]``: when each was chosen; those below c are the tokens of a recipe of c.
        vectors: float16 ``[n, v, d]``, of length one.
        fine: float16 ``[n, v, t, d]``, the same descriptors as they were before projection and coding, of length one; None
            where nobody asked for them.
    """

    tokens: Tensor
    rank: Tensor
    vectors: Tensor
    fine: Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def views(self) -> int:
        """How many a picture has."""
        return int(self.tokens.shape[1])

    def take(self, rows: Tensor) -> Bank:
        """Some of the pictures."""
        fine = None if self.fine is None else self.fine[rows]
        return Bank(self.tokens[rows], self.rank[rows], self.vectors[rows], fine)

    def to(self, device: torch.device) -> Bank:
        """The same on a device."""
        tokens, rank, vectors = (part.to(device) for part in (self.tokens, self.rank, self.vectors))
        return Bank(tokens, rank, vectors, None if self.fine is None else self.fine.to(device))

    def finest(self) -> Bank:
        """The same views with the descriptors as they were.

        Raises:
            ConfigError: they were not kept.
        """
        if self.fine is None:
            raise ConfigError("these views were made without their full-precision descriptors")
        return Bank(self.fine, self.rank, self.vectors)

    @classmethod
    def joined(cls, banks: Sequence[Bank], dim: int = 0) -> Bank:
        """One after the other: pictures, or with ``dim=1`` views."""
        tokens, rank, vectors = (
            torch.cat([getattr(bank, name) for bank in banks], dim=dim) for name in ("tokens", "rank", "vectors")
        )
        fine = [bank.fine for bank in banks if bank.fine is not None]
        return cls(tokens, rank, vectors, torch.cat(fine, dim=dim) if fine else None)


def bank_of(
    pictures: Tensor,
    trunk: Trunk,
    recipe: Recipe,
    *,
    views: int,
    size: int,
    device: torch.device,
    seed: int = 0,
    batch: int = 256,
    fine: bool = False,
    count: Callable[[int, int], None] | None = None,
) -> Bank:
    """The bank of pictures uint8 ``[n, 3, h, w]``, ``views`` of each, with their descriptors if ``fine``; it lies on ``device``.

    Raises:
        ConfigError: no pictures.
    """
    if not len(pictures):
        raise ConfigError("no pictures to make tokens of")
    recipe = recipe.to(device)
    generator = torch.Generator().manual_seed(seed)
    columns: list[Bank] = []
    for view in range(views):
        column = []
        for start in range(0, len(pictures), batch):
            held = pictures[start : start + batch].to(device, non_blocking=True)
            with torch.no_grad():
                shown = plain(held, size) if view == 0 else edited(held, size, generator)
                cells, guide, vectors = trunk(shown)
                kept, rank = kept_of(cells, guide, recipe)
            finest = F.normalize(kept, dim=2).half()[:, None] if fine else None
            column.append(Bank(coded(kept, recipe)[:, None], rank[:, None], vectors.half()[:, None], finest))
            if count is not None:
                count(view * len(pictures) + start + len(held), views * len(pictures))
        columns.append(Bank.joined(column))
    return Bank.joined(columns, dim=1)


def tokens_of(cells: Tensor, guide: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Tokens int8 ``[n, t, k]`` and rank int16 ``[n, t]`` of descriptors ``[n, t, d]``."""
    kept, rank = kept_of(cells, guide, recipe)
    return coded(kept, recipe), rank


def kept_of(cells: Tensor, guide: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """The descriptors that are kept, float32 ``[n, c, d]``, and when each was chosen, int16 ``[n, c]``."""
    cells = cells.float()
    places, rank = chosen(cells, guide.float(), recipe.count, recipe.choice)
    return cells.gather(1, places[:, :, None].expand(-1, -1, cells.shape[2])), rank.to(torch.int16)


def coded(kept: Tensor, recipe: Recipe) -> Tensor:
    """int8 ``[..., k]`` of descriptors ``[..., d]``."""
    values = projected(kept, recipe)
    if recipe.coding is Coding.BITS:
        return torch.where(values > 0, 1, -1).to(torch.int8)
    return quantized(values)


def chosen(cells: Tensor, guide: Tensor, count: int, choice: Choice = Choice.DIVERSE) -> tuple[Tensor, Tensor]:
    """Which descriptors are kept: places int64 ``[n, c]`` in spatial order, and when each was chosen.

    See ``pixdex.encoders.tokens.select``.
    """
    units = F.normalize(cells, dim=2)
    count = min(count, cells.shape[1])
    if choice is Choice.DIVERSE:
        places = _farthest(units, guide, count)
    else:
        worth = torch.einsum("ntd,nd->nt", units, guide) if choice is Choice.CLS else cells.square().sum(dim=2)
        places = worth.argsort(dim=1, descending=True, stable=True)[:, :count]
    return places.sort(dim=1)


def _farthest(units: Tensor, guide: Tensor, count: int) -> Tensor:
    """Farthest-point sampling: places int64 ``[n, c]`` in the order in which they are chosen."""
    pictures, total = units.shape[:2]
    every = torch.arange(pictures, device=units.device)
    last = torch.einsum("ntd,nd->nt", units, guide).argmax(dim=1)
    nearest = torch.full((pictures, total), -torch.inf, device=units.device)
    order = [last]
    for _ in range(count - 1):
        likeness = torch.bmm(units, units[every, last][:, :, None])[:, :, 0]
        nearest = torch.maximum(nearest, likeness)
        nearest[every, last] = torch.inf
        last = nearest.argmin(dim=1)
        order.append(last)
    return torch.stack(order, dim=1)


def projected(cells: Tensor, recipe: Recipe) -> Tensor:
    """float32 ``[..., k]`` of descriptors ``[..., d]``: ``(unit(x) - mean) @ basis``, or as they are where nothing is projected."""
    if recipe.mean is None or recipe.basis is None:
        return cells
    return (F.normalize(cells, dim=-1) - recipe.mean) @ recipe.basis


def quantized(tokens: Tensor) -> Tensor:
    """int8 of the same shape: each token's largest value becomes 127."""
    largest = tokens.abs().amax(dim=-1, keepdim=True)
    return (tokens * (127 / torch.where(largest > 0, largest, 1))).round().to(torch.int8)


# --- edits -----------------------------------------------------------------------------------------


def plain(pictures: Tensor, size: int) -> Tensor:
    """The pictures squeezed to ``[n, 3, size, size]``, float32 in [0, 1]."""
    values = pictures.float() / 255
    if values.shape[2:] == (size, size):
        return values
    return F.interpolate(values, size=(size, size), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def edited(pictures: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """One edit of each picture as people make them, float32 ``[n, 3, size, size]``: crops, turns with or without black
    corners, mirroring, colours, grey, blur, few pixels, JPEG, things laid over; alone and several at once.
    """
    made = torch.empty(len(pictures), 3, size, size, device=pictures.device)
    kinds = torch.randint(len(_EDITS), (len(pictures),), generator=generator)
    for kind, edit in enumerate(_EDITS):
        rows = (kinds == kind).nonzero()[:, 0].to(pictures.device)
        for start in range(0, len(rows), _BLUR_BATCH):
            part = rows[start : start + _BLUR_BATCH]
            made[part] = edit(pictures[part], size, generator)
    return made


def _augmented(**values: object) -> Callable[[Tensor, int, torch.Generator], Tensor]:
    def edit(pictures: Tensor, size: int, generator: torch.Generator) -> Tensor:
        kind = Augmentation(size=size, **{**_PLAIN, "scale": (1.0, 1.0), "ratio": (1.0, 1.0), **values})  # type: ignore[arg-type]
        return kind(plain(pictures, size), generator)

    return edit


def _turned(pictures: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Turned by up to 20 degrees and whole, with one grey level, mostly black, in the corners."""
    values = plain(pictures, size)
    count = len(values)
    drawn = torch.rand(3, count, generator=generator).to(values.device)
    angle = (drawn[0] * 2 - 1) * 0.35
    cos, sin = angle.cos(), angle.sin()
    grown = cos + sin.abs()
    zero = torch.zeros_like(cos)
    theta = torch.stack([torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)], 1) * grown[:, None, None]
    level = torch.where(drawn[1] < 0.7, zero, drawn[2])[:, None, None, None]
    grid = F.affine_grid(theta, [count, 3, size, size], align_corners=False)
    return F.grid_sample(values - level, grid, padding_mode="zeros", align_corners=False) + level


def _coarse(pictures: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """As many pixels as an eighth to a half of ``size`` makes, drawn once a call."""
    share = float(torch.rand((), generator=generator)) * 0.375 + 0.125
    few = F.interpolate(plain(pictures, size), size=(max(8, round(size * share)),) * 2, mode="bicubic", antialias=True)
    return F.interpolate(few, size=(size, size), mode="bicubic", align_corners=False).clamp(0, 1)


def _banner(pictures: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """A bar across the picture, of one colour, with something like letters on it; often blurred before."""
    soft = _augmented(blur=0.6, blur_sigma=(0.7, 3.0), colour=0.3)(pictures, size, generator)
    count = len(soft)
    drawn = torch.rand(7, count, generator=generator).to(soft.device)
    place = (torch.arange(size, device=soft.device) + 0.5) / size
    high = 0.08 + 0.2 * drawn[0]
    top = drawn[1] * (1 - high)
    rows = (place >= top[:, None]) & (place < (top + high)[:, None])
    colour = torch.where(drawn[2:3] < 0.5, drawn[3:6].round(), drawn[3:6]).T[:, :, None, None]
    middle = (place >= (top + 0.3 * high)[:, None]) & (place < (top + 0.7 * high)[:, None])
    letters = torch.rand(count, -(-size // 5), generator=generator).to(soft.device) < 0.45
    letters = letters.repeat_interleave(5, dim=1)[:, :size] & (place < (0.3 + 0.6 * drawn[6])[:, None])
    soft = torch.where(rows[:, None, :, None], colour.expand_as(soft), soft)
    ink = middle[:, None, :, None] & letters[:, None, None, :]
    return torch.where(ink, 1 - colour.round().expand_as(soft), soft)


def _several(pictures: Tensor, size: int, generator: torch.Generator) -> Tensor:
    return Augmentation(size=size, scale=(0.3, 1.0), grey=0.2, jpeg=0.4, jpeg_quality=(5.0, 40.0), patch=0.3)(
        plain(pictures, size), generator
    )


_EDITS: Sequence[Callable[[Tensor, int, torch.Generator], Tensor]] = (
    _augmented(jpeg=1.0, jpeg_quality=(4.0, 40.0)),
    _augmented(scale=(0.2, 0.6), ratio=(0.85, 1.2), colour=0.2),
    _augmented(scale=(0.25, 0.6), ratio=(0.85, 1.2), flip=0.3, grey=0.1, jpeg=0.3),
    _augmented(scale=(0.5, 0.95), rotate=1.0, rotation=20.0),
    _turned,
    _coarse,
    _augmented(flip=1.0, grey=0.7),
    _augmented(flip=0.5, grey=0.3, colour=1.0, brightness=0.6, contrast=0.6, saturation=0.6),
    _augmented(blur=0.7, blur_sigma=(0.7, 3.0), patch=1.0),
    _banner,
    _several,
    _several,
)
