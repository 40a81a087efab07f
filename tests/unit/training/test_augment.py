"""Views of pictures: what each augmentation does to them, and that a seed gives the same ones again."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pixdex.training.augment import Augmentation, Mixing, cutmix, mixup, resized

NOTHING = Augmentation(size=48, scale=(1, 1), ratio=(1, 1), flip=0, rotate=0, colour=0, grey=0, blur=0)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def pictures():
    """Eight pictures of large smooth areas and some grain, uint8 ``[8, 3, 48, 48]``."""
    coarse = torch.rand(8, 3, 6, 6, generator=seeded(1))
    smooth = torch.nn.functional.interpolate(coarse, size=(48, 48), mode="bicubic").clamp(0, 1)
    grain = 0.1 * torch.rand(8, 3, 48, 48, generator=seeded(2))
    return ((0.9 * smooth + grain) * 255).byte()


def test_a_seed_gives_the_same_views_and_another_one_others(pictures):
    views = Augmentation(size=32, jpeg=0.5, patch=0.5)
    first = views(pictures, seeded())
    assert first.shape == (8, 3, 32, 32)
    assert first.dtype == torch.float32
    assert 0 <= first.min() <= first.max() <= 1
    assert torch.equal(first, views(pictures, seeded()))
    assert not torch.allclose(first, views(pictures, seeded(1)), atol=0.1)
    assert torch.allclose(first, views(pictures.float() / 255, seeded()), atol=1e-6)


def test_without_anything_the_picture_stays(pictures):
    assert torch.allclose(NOTHING(pictures, seeded()) * 255, pictures.float(), atol=0.01)


def test_flips_mirror(pictures):
    flipped = replace(NOTHING, flip=1)(pictures, seeded()) * 255
    assert torch.allclose(flipped, pictures.flip(3).float(), atol=0.01)


def test_crops_take_part_of_the_picture_and_keep_its_colours(pictures):
    ramp = torch.linspace(0, 1, 48).expand(64, 3, 48, 48)
    crops = replace(NOTHING, scale=(0.25, 0.25))(ramp, seeded())
    widths = crops[:, 0, 24].amax(dim=1) - crops[:, 0, 24].amin(dim=1)
    assert torch.allclose(widths, torch.full_like(widths, 0.5), atol=0.02)  # half of each side
    assert crops[:, 0, 24].mean(dim=1).std() > 0.05  # from many places


def test_turning_keeps_what_is_one_colour_and_the_middle_of_the_rest():
    turned = replace(NOTHING, rotate=1, rotation=45)
    plain = torch.full((4, 3, 48, 64), 0.3)
    assert torch.allclose(turned(plain, seeded()), torch.full((4, 3, 48, 48), 0.3), atol=1e-5)
    dot = torch.zeros(4, 3, 48, 48)
    dot[:, :, 22:26, 22:26] = 1
    assert (turned(dot, seeded())[:, :, 23:25, 23:25] > 0.5).all()


def test_a_turned_square_stays_a_square_in_a_wide_picture():
    """Angles are those of the picture, not of the view that it is squeezed to."""
    wide = torch.zeros(16, 3, 48, 96)
    wide[:, :, 12:36, 36:60] = 1
    turned = replace(NOTHING, rotate=1, rotation=30)(wide, seeded())
    assert torch.allclose(turned.mean(dim=(1, 2, 3)), torch.tensor(24 * 24 / (48 * 96)), atol=0.01)


def test_grey_has_no_colour_and_keeps_the_brightness(pictures):
    grey = replace(NOTHING, grey=1)(pictures, seeded())
    assert torch.allclose(grey[:, 0], grey[:, 2], atol=1e-3)
    luma = (pictures / 255 * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(dim=1)
    assert torch.allclose(grey[:, 0], luma, atol=2e-3)


def test_colours_change_within_their_strength(pictures):
    middling = pictures / 255 * 0.4 + 0.3
    brighter = replace(NOTHING, colour=1, brightness=0.2, contrast=0, saturation=0, hue=0)(middling, seeded())
    factors = (brighter / middling).mean(dim=(1, 2, 3))
    assert ((factors > 1 / 1.2 - 0.01) & (factors < 1.21)).all()
    assert factors.std() > 0.02
    turned = replace(NOTHING, colour=1, brightness=0, contrast=0, saturation=0, hue=0.1)(middling, seeded())
    assert not torch.allclose(turned, middling, atol=0.02)
    assert torch.allclose(turned.mean(dim=(2, 3)).sum(), middling.mean(dim=(2, 3)).sum(), rtol=0.05)


def test_blur_takes_the_grain_and_jpeg_what_it_rounds_away(pictures):
    def grain(values):
        return (values[:, :, 1:] - values[:, :, :-1]).abs().mean()

    plain = NOTHING(pictures, seeded())
    blurred = replace(NOTHING, blur=1, blur_sigma=(8, 8))(pictures, seeded())  # of 224: under two pixels here
    assert grain(blurred) < 0.6 * grain(plain)
    losses = [
        (replace(NOTHING, jpeg=1, jpeg_quality=(quality, quality))(pictures, seeded()) - plain).abs().mean()
        for quality in (95.0, 30.0, 8.0)
    ]
    assert losses[0] < 0.02 < losses[1] < losses[2] < 0.1


def test_patches_cover_part_of_the_picture(pictures):
    covered = replace(NOTHING, patch=1)(pictures, seeded()) - pictures / 255
    share = (covered.abs().amax(dim=1) > 0.02).float().mean(dim=(1, 2))
    assert (share < 0.5).all()
    assert (share > 0).any()


def test_mixed_pictures_are_of_two_in_the_shares_that_are_told(pictures):
    values = pictures.float()
    mixed, other, share = mixup(values, seeded())
    assert torch.allclose(mixed, values * share[:, None, None, None] + values[other] * (1 - share[:, None, None, None]))
    mixed, other, share = cutmix(values, seeded())
    own = (mixed == values).all(dim=1)
    assert (own | (mixed == values[other]).all(dim=1)).all()
    moved = other != torch.arange(8)
    assert torch.allclose(own.float().mean(dim=(1, 2))[moved], share[moved], atol=0.02)
    assert Mixing(mixup=0, cutmix=0)(values, seeded()) is values


def test_smaller_views_are_antialiased():
    stripes = (torch.arange(64) % 2).float().expand(1, 3, 64, 64)
    assert torch.allclose(resized(stripes, 16), torch.full((1, 3, 16, 16), 0.5), atol=0.1)
