from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from pixdex.encoders.tokens import Choice, Coding, Projection, select, unit  # noqa: E402
from pixdex.errors import ConfigError  # noqa: E402
from pixdex.rerankers.maxsim import unpacked  # noqa: E402
from pixdex.training.tokenbank import Recipe, bank_of, edited, plain, projected, quantized, tokens_of  # noqa: E402


def recipe_of(count: int, dim: int = 12, width: int = 8) -> tuple[Recipe, Projection]:
    rng = np.random.default_rng(2)
    projection = Projection(
        rng.normal(size=dim).astype(np.float32) * 0.1, rng.normal(size=(dim, width)).astype(np.float32)
    )
    return Recipe(
        count=count, mean=torch.from_numpy(projection.mean), basis=torch.from_numpy(projection.basis)
    ), projection


@pytest.mark.parametrize("count", [1, 7, 20, 30])
def test_tokens_are_those_that_an_encoder_makes(count: int) -> None:
    rng = np.random.default_rng(4)
    cells = rng.normal(size=(5, 20, 12)).astype(np.float32)
    cells[2, 3:9] = cells[2, 3]  # equal ones
    guide = unit(rng.normal(size=(5, 12)).astype(np.float32))
    recipe, projection = recipe_of(count)
    expected = Coding.INT8.pack(projection.apply(select(cells, guide, count)))
    tokens, _ = tokens_of(torch.from_numpy(cells), torch.from_numpy(guide), recipe)
    assert tokens.dtype == torch.int8
    assert tokens.shape == expected.shape
    # One step apart where the sums are rounded in another order.
    assert np.abs(tokens.numpy().astype(int) - expected).max() <= 1
    assert (tokens.numpy() == expected).mean() > 0.99


@pytest.mark.parametrize("choice", Choice)
def test_every_choice_and_signs_are_those_of_an_encoder(choice: Choice) -> None:
    rng = np.random.default_rng(4)
    cells = rng.normal(size=(5, 20, 16)).astype(np.float32)
    guide = unit(rng.normal(size=(5, 16)).astype(np.float32))
    expected = Coding.BITS.pack(select(cells, guide, 6, choice))
    recipe = Recipe(count=6, choice=choice, coding=Coding.BITS)
    tokens, rank = tokens_of(torch.from_numpy(cells), torch.from_numpy(guide), recipe)
    assert np.array_equal(tokens.numpy(), unpacked(expected))
    few = unpacked(Coding.BITS.pack(select(cells, guide, 2, choice)))
    assert all(np.array_equal(tokens[n][rank[n] < 2].numpy(), few[n]) for n in range(5))


def test_the_first_by_rank_are_the_tokens_of_a_smaller_budget() -> None:
    rng = np.random.default_rng(5)
    cells = torch.from_numpy(rng.normal(size=(3, 20, 12)).astype(np.float32))
    guide = torch.from_numpy(unit(rng.normal(size=(3, 12)).astype(np.float32)))
    many, rank = tokens_of(cells, guide, recipe_of(15)[0])
    few, _ = tokens_of(cells, guide, recipe_of(6)[0])
    for picture in range(3):
        assert torch.equal(many[picture][rank[picture] < 6], few[picture])


def trunk(pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cells of 2 x 2 pixels as descriptors."""
    cells = torch.nn.functional.unfold(pictures, 2, stride=2).transpose(1, 2)
    mean = torch.nn.functional.normalize(cells.mean(dim=1), dim=1)
    return cells, mean, mean


def test_a_bank_holds_the_picture_and_edits_of_it() -> None:
    pictures = torch.randint(0, 256, (9, 3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    heard = []
    options = {"views": 4, "size": 16, "device": torch.device("cpu"), "batch": 4}
    bank = bank_of(pictures, trunk, recipe_of(5)[0], **options, count=lambda *c: heard.append(c))
    assert (len(bank), bank.views) == (9, 4)
    assert bank.tokens.shape == (9, 4, 5, 8)
    assert heard[-1] == (36, 36)
    whole, _ = tokens_of(*trunk(plain(pictures, 16))[:2], recipe_of(5)[0])
    assert torch.equal(bank.tokens[:, 0], whole)
    assert not torch.equal(bank.tokens[:, 1], whole)
    again = bank_of(pictures, trunk, recipe_of(5)[0], **options, fine=True)
    assert torch.equal(again.tokens, bank.tokens)
    assert torch.equal(bank.take(torch.tensor([3])).vectors, bank.vectors[3:4])
    with pytest.raises(ConfigError, match="full-precision"):
        bank.finest()
    finest = again.finest()
    assert finest.tokens.shape == (9, 4, 5, 12)
    assert torch.equal(finest.rank, bank.rank)
    coarser = quantized(projected(finest.tokens.float(), recipe_of(5)[0]))
    assert (coarser.int() - bank.tokens).abs().max() <= 1
    with pytest.raises(ConfigError, match="no pictures"):
        bank_of(pictures[:0], trunk, recipe_of(5)[0], **options)


def test_edits_are_pictures_of_every_kind() -> None:
    """Grey ones, mirrored ones, ones with black corners; all of the size that was asked for."""
    ramp = torch.linspace(40, 220, 32)[None].expand(32, 32)
    picture = torch.stack([ramp, ramp.flip(1), ramp * 0 + 90]).to(torch.uint8)
    views = edited(picture.expand(400, -1, -1, -1), 24, torch.Generator().manual_seed(1))
    assert views.shape == (400, 3, 24, 24)
    assert views.min() >= -1e-5
    assert views.max() <= 1 + 1e-5
    grey = (views.amax(dim=1) - views.amin(dim=1)).mean(dim=(1, 2)) < 0.02
    assert 10 < int(grey.sum()) < 120
    mirrored = views[:, 0, 8:16, :4].mean(dim=(1, 2)) > views[:, 0, 8:16, -4:].mean(dim=(1, 2)) + 0.1
    assert 20 < int(mirrored.sum()) < 200
    corners = views[:, :, 0, 0].amax(dim=1) < 0.01
    assert int(corners.sum()) > 5
