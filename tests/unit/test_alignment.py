"""Pictures laid upon one another: what was made of one is told from what only looks like it."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from itertools import combinations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageOps
from toys import scene

from pixdex.alignment import Alignment, align, landmarks

pytest.importorskip("cv2")


def jpeg(picture: Image.Image) -> Image.Image:
    file = BytesIO()
    picture.save(file, "JPEG", quality=10)
    return Image.open(file)


def overlaid(picture: Image.Image) -> Image.Image:
    covered = picture.filter(ImageFilter.GaussianBlur(2))
    ImageDraw.Draw(covered).rectangle((20, 90, 340, 170), fill=(220, 20, 60))
    return covered


EDITS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "saved again": jpeg,
    "cut": lambda picture: picture.crop((60, 40, 280, 210)),
    "cut out": lambda picture: picture.crop((108, 81, 216, 162)),
    "small": lambda picture: picture.resize((90, 68)),
    "turned": lambda picture: picture.rotate(17, expand=True),
    "mirrored and grey": lambda picture: ImageOps.mirror(picture).convert("L"),
    "blurred, with a bar": overlaid,
}


def aligned(one: Image.Image, other: Image.Image) -> Alignment:
    return align(*(landmarks(np.asarray(picture.convert("RGB"))) for picture in (one, other)))


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_is_known_from_its_original_and_from_no_other_picture(edit: str) -> None:
    one, other = scene(0), scene(1)
    edited = EDITS[edit](one)
    found = aligned(one, edited)
    assert found.log_odds > 1
    assert found.mirrored == ("mirrored" in edit)
    assert found.contained > 0.9
    assert aligned(other, edited).log_odds < -2


@pytest.mark.parametrize("edit", ["cut", "cut out", "small", "turned"])
def test_it_does_not_matter_which_comes_first(edit: str) -> None:
    one, other = scene(0), EDITS[edit](scene(0))
    there, back = aligned(one, other), aligned(other, one)
    assert there.agreement == pytest.approx(back.agreement, abs=0.01)
    assert there.contained == pytest.approx(back.contained, abs=0.02)


def test_plain_pictures_need_not_agree_as_closely_as_detailed_ones() -> None:
    plain, detailed = (Alignment(40, detail, 0.8, 1.0, mirrored=False).log_odds for detail in (60, 500))
    assert plain > 0 > detailed


def test_two_edits_are_known_from_one_another() -> None:
    assert aligned(EDITS["cut"](scene(0)), EDITS["mirrored and grey"](scene(0))).log_odds > 1


def test_shots_that_overlap_are_not_one_picture() -> None:
    """Each shows what the other does not."""
    wide = scene(2)
    found = aligned(wide.crop((0, 0, 250, 270)), wide.crop((110, 0, 360, 270)))
    assert found.agreement > 0.8
    assert found.contained < 0.7
    assert found.log_odds < 0


def test_the_same_two_give_the_same_always() -> None:
    one, other = scene(3), EDITS["turned"](scene(3))
    assert {aligned(one, other) for _ in range(3)} == {aligned(one, other)}


def plain(*colour: int) -> Image.Image:
    return Image.new("RGB", (60, 40), colour)


def test_plain_pictures_are_one_where_their_colours_are() -> None:
    red, green = (200, 30, 30), (30, 118, 30)  # both equally grey
    assert aligned(plain(*red), plain(198, 33, 30).resize((9, 9))).log_odds > 1
    assert aligned(plain(*red), plain(*green)).log_odds < -2
    assert aligned(plain(*red), scene(0)).log_odds < -2


def test_what_agrees_by_chance_is_nothing() -> None:
    """Of many pictures that have nothing in common some have a few points that agree."""
    seen = [landmarks(np.asarray(scene(seed))) for seed in range(40, 60)]
    found = [align(one, other) for one, other in combinations(seen, 2)]
    assert not [one for one in found if one.log_odds > 0 or 0 < one.points < 5]


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (2000, 3), (5, 5)])
def test_pictures_of_any_size_are_taken(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3)).astype(np.uint8)
    assert max(landmarks(pixels).grey.shape) == 256
    align(landmarks(pixels), landmarks(np.asarray(scene(0))))
