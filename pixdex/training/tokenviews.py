"""Views of pictures as the tokens of an encoder, made once and kept in a folder; and what of them judges a reranker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pixdex.encoders import load
from pixdex.encoders._digest import digest_of, tensors_digest
from pixdex.encoders.compose import ComposedEncoder
from pixdex.encoders.composition import Composition
from pixdex.encoders.tokens import Projection, fit_projection, unit
from pixdex.errors import ConfigError, Unsupported
from pixdex.spec import TokenSpec
from pixdex.training._workplace import saved, written
from pixdex.training.reranking import Judged, shortlists
from pixdex.training.tokenbank import Bank, Recipe, Trunk, bank_of, plain

__all__ = ["PROJECTION", "classmates", "copies", "projecting", "side_of", "specs_of", "token_encoder", "views_of"]

PROJECTION = "token_projection.safetensors"
FITTED = 800  # pictures that a projection is fitted to
PART = 512  # pictures whose views are kept in one file


def token_encoder(encoder: Any) -> ComposedEncoder:
    """The encoder of a reference, or the one that was given.

    Raises:
        Unsupported: it is not composed of a network and a pooling, or makes no tokens.
        ConfigError: it takes pictures that are no squares.
    """
    found: Any = load(encoder) if isinstance(encoder, str) else encoder
    if not isinstance(found, ComposedEncoder) or found.token_spec is None:
        raise Unsupported(
            f"{getattr(found, 'reference', found)} makes no tokens of local descriptors, which a reranker learns from: give "
            "mini, or hf:FOLDER with tokens=64"
        )
    side_of(found)
    return found


def side_of(encoder: ComposedEncoder) -> int:
    """Of the squares that it takes, pixels.

    Raises:
        ConfigError: they are no squares.
    """
    height, width = encoder.trunk.preprocess.size
    if height != width:
        raise ConfigError(f"{encoder.reference} takes pictures of {height}x{width}: views are squares")
    return height


def projecting(encoder: ComposedEncoder, pixels: Tensor, width: int, file: Path) -> ComposedEncoder:
    """The encoder with the projection of its tokens in the file, which is fitted to some of the pictures if it isn't there."""
    if not file.is_file():
        few = pixels[torch.from_numpy(np.random.default_rng(11).permutation(len(pixels))[:FITTED])]
        trunk, size = _trunk(encoder), side_of(encoder)
        cells = torch.cat([trunk(plain(part, size))[0] for part in torch.split(few, 64)])
        written(file, fit_projection(cells.numpy(), min(width, encoder.trunk.dim)).save)
    return _on(encoder, replace(encoder.composition, token_projection=Projection.load(file)))


def specs_of(encoder: ComposedEncoder) -> list[TokenSpec]:
    """Its tokens, and fewer of them."""
    many = encoder.composition.tokens
    counts = sorted({max(1, many * quarters // 4) for quarters in (1, 2, 3, 4)}, reverse=True)
    specs = [_on(encoder, replace(encoder.composition, tokens=count)).token_spec for count in counts]
    return [spec for spec in specs if spec is not None]


def views_of(
    pixels: Tensor,
    encoder: ComposedEncoder,
    *,
    views: int,
    folder: Path,
    device: torch.device,
    fine: bool = False,
    count: Callable[[int, int], None] | None = None,
) -> tuple[Bank, str]:
    """Views of all pictures uint8 ``[n, 3, h, w]``, and what tells them from others.

    Those in the folder are not made again. ``fine`` keeps their descriptors too; ``count`` hears how many views are there.

    Raises:
        ConfigError: the folder holds views of other pictures or of another encoder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    recipe, spec = _recipe(encoder.composition), specs_of(encoder)[0]
    size, trunk, parts = side_of(encoder), _trunk(encoder), []
    digests = (spec.fingerprint.digest, encoder.fingerprint.digest, tensors_digest({"pixels": pixels.numpy()}))
    key = " ".join((*digests, str(views), *(("fine",) if fine else ())))
    for start in range(0, len(pixels), PART):
        file, some = folder / f"{start:06d}.pt", pixels[start : start + PART]
        if not file.is_file():
            follow = _from(count, start * views, len(pixels) * views)
            bank = bank_of(
                some, trunk, recipe, views=views, size=size, device=device, seed=start, fine=fine, count=follow
            )
            values = {name: getattr(bank, name) for name in Bank.__slots__}
            here = {name: value.cpu() if isinstance(value, Tensor) else value for name, value in values.items()}
            saved(file, {"key": key, **here})
        part = torch.load(file, map_location=device, weights_only=True)
        if part["key"] != key:
            raise ConfigError(f"{folder} holds views of other pictures or of another encoder: name another folder")
        parts.append(Bank(**{name: part[name] for name in Bank.__slots__}))
        if count is not None:
            count((start + len(some)) * views, len(pixels) * views)
    return Bank.joined(parts), digest_of({"views": key})


# --- what judges -----------------------------------------------------------------------------------


def copies(bank: Bank, asking: Tensor, *, edits: int = 6) -> Judged:
    """Edits of some of the pictures, rows ``asking`` int64 ``[q]``, to be found by these among all other pictures of the bank."""
    edits = min(edits, bank.views - 1)
    every = torch.arange(len(bank), device=bank.tokens.device)
    beside = every[~torch.isin(every, asking)]
    shown = torch.cat([asking.repeat_interleave(edits), beside])
    view = torch.zeros_like(shown)
    view[: len(asking) * edits] = torch.arange(1, 1 + edits, device=view.device).repeat(len(asking))
    vectors, tokens = bank.vectors[shown, view], bank.tokens[shown, view]
    return shortlists(bank.vectors[asking, 0], bank.tokens[asking, 0], asking, vectors, tokens, shown)


def classmates(bank: Bank, labels: Tensor, *, asking: int) -> Judged:
    """Pictures that are to be found by ``asking`` others of their class; those that are alone in theirs don't ask."""
    alike = labels[:, None] == labels
    able = (alike.sum(dim=1) > 1).nonzero()[:, 0]
    asked = able[torch.linspace(0, len(able) - 1, min(asking, len(able)), device=labels.device).long()]
    vectors, tokens = bank.vectors[:, 0].float(), bank.tokens[:, 0]
    cosines = (vectors[asked] @ vectors.T).scatter_(1, asked[:, None], -torch.inf)
    first, lists = cosines.topk(min(100, len(bank) - 1), dim=1)
    alike = alike[asked]
    return Judged(lists, tokens[asked], tokens, first, alike.gather(1, lists), alike.sum(dim=1) - 1, asked)


# --- encoders --------------------------------------------------------------------------------------


def _on(encoder: ComposedEncoder, composition: Composition) -> ComposedEncoder:
    return ComposedEncoder(encoder.trunk, composition, name=encoder.name, reference=encoder.reference)


def _recipe(composition: Composition) -> Recipe:
    recipe = Recipe(count=composition.tokens, choice=composition.token_choice, coding=composition.token_coding)
    projection = composition.token_projection
    if projection is None:
        return recipe
    return replace(recipe, mean=torch.from_numpy(projection.mean), basis=torch.from_numpy(projection.basis))


def _trunk(encoder: ComposedEncoder) -> Trunk:
    """The encoder's network for views, which it gets as it gets pictures: in uint8."""
    network, composition = encoder.trunk, encoder.composition

    def trunk(views: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pixels = (views * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        made = network.forward(pixels.contiguous().cpu().numpy())
        pooled = unit(composition.pool(made))
        cells, guide, vectors = (
            torch.from_numpy(array).to(views.device)
            for array in (made.cells, composition.guide(made, pooled), composition.project(pooled))
        )
        return cells, guide, vectors

    return trunk


def _from(count: Callable[[int, int], None] | None, before: int, total: int) -> Callable[[int, int], None] | None:
    return None if count is None else lambda done, _: count(before + done, total)
