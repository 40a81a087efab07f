"""Annotations in the form of COCO, as tools write them and as downloads leave them."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from pixdex.errors import ConfigError
from pixdex.sources.coco import Annotated, Coco

WHOLE: dict[str, Any] = {
    "info": {"description": 'a "quoted" [brace}', "images": [{"id": 99, "file_name": "no.jpg"}]},
    "images": [
        {"id": 1, "file_name": 'a ]}\\" .jpg', "date": "x"},
        {"id": "b-2", "file_name": "b.jpg"},
        {"id": 3, "width": 4},
    ],
    "annotations": [
        {"image_id": 1, "category_id": 7, "segmentation": [[1, 2, [3]], {"counts": [1]}]},
        {"image_id": "b-2", "category_id": "8"},
    ],
    "categories": [{"id": 7, "name": "cat"}, {"id": 8, "name": "d\u00f6g", "keypoints": ["nose"]}],
}
FOUND = [
    Annotated("1", 'a ]}\\" .jpg', ("cat",)),
    Annotated("b-2", "b.jpg", ("d\u00f6g",)),
    Annotated("3", None, ()),
]


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read(path: Path, *, largest: bool = False) -> list[Annotated]:
    with Coco(path) as coco:
        return list(coco.pictures(largest=largest))


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_images_and_annotations_are_joined(tmp_path: Path, indent: int | None, mark: bytes) -> None:
    assert read(written(tmp_path / "x.json", mark + json.dumps(WHOLE, indent=indent).encode())) == FOUND
    turned = {name: WHOLE[name] for name in reversed(WHOLE)}
    assert read(written(tmp_path / "x.json", json.dumps(turned))) == FOUND


def test_a_file_that_ends_anywhere_is_refused(tmp_path: Path) -> None:
    text = json.dumps(WHOLE).encode()
    for end in range(0, len(text), 7):
        with pytest.raises(ConfigError, match="ends early|is empty|is no COCO file"):
            read(written(tmp_path / "x.json", text[:end]))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("[]", "is no COCO file"),
        ("{}", "is no COCO file"),
        ("hello", "is no COCO file"),
        ('"images"', "is no COCO file"),
        ("a,b\n{", "is no COCO file"),
        ('{"images": {}, "annotations": [], "categories": []}', "no list 'images'"),
        ('{"images": []}', "no list 'annotations', 'categories'"),
        ('{"images": [}', "closes what was not opened"),
        ('{"images": []}}', "closes what was not opened"),
        (json.dumps(WHOLE).encode("utf-16"), "is no COCO file|ends early"),
    ],
)
def test_what_is_none(tmp_path: Path, text: str | bytes, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read(written(tmp_path / "x.json", text))


def test_members_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    text = json.dumps({**WHOLE, "images": [{"id": 1, "file_name": "a.jpg"}, {"file_name": "b.jpg"}, {"id": 1}], "annotations": [
        {"image_id": 1}, {"image_id": True, "category_id": 7}, {"image_id": 1, "category_id": 7, "area": "@"}]})  # fmt: skip
    with Coco(written(tmp_path / "x.json", text.replace('"@"', "NaN"))) as coco:
        assert list(coco.pictures(largest=False)) == [Annotated("1", "a.jpg", ())]
        said = dict(coco.refused())
    assert said.pop("image 1") == "this id stands twice"
    assert said.pop("an image 'b.jpg'") == "it has no id"
    for image in (1, True):
        assert said.pop(f"an annotation of image {image}") == "it has no image_id or no category_id"
    assert said.pop("annotations, member 3").startswith("not JSON")
    assert not said


def test_the_largest_box_counts(tmp_path: Path) -> None:
    def annotation(category: int, width: float, **more: Any) -> dict[str, Any]:
        return {"image_id": 1, "category_id": category, "bbox": [0, 0, width, 1], **more}

    boxes = [annotation(7, 2), annotation(8, 3), annotation(7, 3), annotation(7, 50, iscrowd=1)]
    file = {**WHOLE, "images": [{"id": 1, "file_name": "a"}], "annotations": boxes}
    assert read(written(tmp_path / "x.json", json.dumps(file)), largest=True)[0].categories == ("d\u00f6g",)
    assert read(tmp_path / "x.json")[0].categories == ("cat", "d\u00f6g")
    file["annotations"] = boxes[3:]
    assert read(written(tmp_path / "x.json", json.dumps(file)), largest=True)[0].categories == ("cat",)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    with (tmp_path / "x.json").open("w") as file:
        file.write('{"images": [')
        file.write(",".join(f'{{"id": {n}, "file_name": "{n:012}.jpg"}}' for n in range(4000)))
        file.write('], "annotations": [')
        outline = list(range(200))
        for number in range(4000):
            one = {"image_id": number, "category_id": 7, "segmentation": [outline]}
            file.write(("," if number else "") + json.dumps(one))
        file.write('], "categories": [{"id": 7, "name": "cat"}]}')
    size = (tmp_path / "x.json").stat().st_size
    tracemalloc.start()
    try:
        with Coco(tmp_path / "x.json") as coco:
            assert sum(1 for _ in coco.pictures(largest=False)) == 4000
        assert tracemalloc.get_traced_memory()[1] < size / 8
    finally:
        tracemalloc.stop()
