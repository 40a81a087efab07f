"""The corpus of benchmarks.hygiene, file by file: read with the right size and colours, or refused for the right reason."""

from __future__ import annotations

import re
import warnings

import pytest

from benchmarks import hygiene
from benchmarks._hostile_files import Case, cases
from pixdex.encoders.images import decode
from pixdex.errors import InvalidImage

CORPUS = cases(quick=True)


def test_the_corpus_is_large_and_its_names_are_unique() -> None:
    assert len(CORPUS) >= hygiene.FEWEST_FILES
    assert len({case.name for case in CORPUS}) == len(CORPUS)


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case.name)
def test_a_file_is_read_right_or_refused_with_the_reason(case: Case) -> None:
    source = case.make()
    with warnings.catch_warnings():
        if case.name.endswith(".tiff"):  # Pillow warns about the metadata of damaged ones
            warnings.simplefilter("ignore", UserWarning)
        if case.expected != "ok":
            with pytest.raises(InvalidImage, match=re.compile(case.expected)):
                decode(source, case.decoding)
            return
        for side in (None, 8):
            decoded = decode(source, case.decoding, min_side=side)
            assert (decoded.width, decoded.height) == case.size
            assert hygiene.wrong_colours(decoded.pixels, case) is None


def test_the_measure_sees_a_wrong_colour_and_a_turned_picture() -> None:
    case = CORPUS[0]
    pixels = decode(case.make()).pixels
    assert hygiene.wrong_colours(pixels, case) is None
    assert hygiene.wrong_colours(pixels[::-1], case) is not None
    assert hygiene.wrong_colours(pixels[..., ::-1], case) is not None
