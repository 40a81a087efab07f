"""Pictures that COCO's annotations name, with what these say of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import toys

from pixdex import F
from pixdex.errors import ConfigError
from pixdex.jobs import Job
from pixdex.report import Report
from pixdex.spec import Kind

OPEN = {"allow_remote": True, "allow_private": True}
CATEGORIES = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return toys.folder(tmp_path / "val", 4)


def coco(path: Path, images: list[dict[str, Any]] | None = None, **lists: Any) -> Path:
    """A file that names 00.png to 03.png, where nothing else is said."""
    if images is None:
        images = [{"id": number, "file_name": f"{number:02}.png", "width": 9, "height": 9} for number in range(4)]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"images": images, **lists}))
    return path


def of(image: int, category: int | None = None, **more: Any) -> dict[str, Any]:
    return {"image_id": image, **({} if category is None else {"category_id": category}), **more}


def reasons(report: Report) -> dict[str, str]:
    return {row.path.rpartition(": ")[2]: row.reason for row in report.quarantined}


def test_categories_captions_and_licenses_become_fields(photos, root, tmp_path):
    images = [
        {"id": 5, "file_name": "00.png", "license": 3},
        {"id": 6, "file_name": "01.png", "license": 4},
        {"id": 7, "file_name": "02.png", "license": 9},
    ]
    licenses = [{"id": 3, "name": "CC BY", "url": "x"}, {"id": 4, "name": ""}]
    annotations = [of(5, 2), of(5, 1), of(5, 2), of(6, 1), of(6, caption=" A cat. "), of(6, caption="Two."), of(7, 2)]
    path = coco(root / "all.json", images, licenses=licenses, annotations=annotations, categories=CATEGORIES)
    report = photos.add(path)
    assert (report.added, report.quarantined) == (3, ())
    assert report.notices[0] == "field 'label' is declared as text[] (open(fields=...) overrides)"
    there = toys.payloads(photos)
    assert there["val/00.png"] | {"label": ["dog", "cat"], "license": "CC BY"} == there["val/00.png"]
    assert there["val/01.png"] | {"label": ["cat"], "caption": ["A cat.", "Two."]} == there["val/01.png"]
    assert not {"license", "caption"} & there["val/02.png"].keys() - {"label"}
    assert there["val/00.png"]["width"] == 32, "of the picture, not of the file"
    fields = {
        f.name: (f.kind, f.many) for f in photos.collection.spec.fields if f.name in {"label", "caption", "license"}
    }
    assert fields == {"label": (Kind.TEXT, True), "caption": (Kind.TEXT, True), "license": (Kind.TEXT, False)}
    assert photos.collection.count(F.label.contains("dog")) == 2
    assert photos.add(root).unchanged == 3, "they have the ids that their folder gives them"
    assert photos.add(path).unchanged == 3


@pytest.mark.parametrize(
    ("file", "pictures"),
    [
        ("val/x.json", "val"),
        ("x.json", "images"),
        ("sets/x.json", "."),
        ("sets/x.json", "images"),
        ("annotations/instances_val2017.json", "val2017"),
        ("annotations/captions_val2017.json", "images/val2017"),
    ],
)
def test_pictures_are_found_where_such_files_lie(made, tmp_path, file, pictures):
    folder = tmp_path / "set" / pictures
    toys.folder(folder, 4)
    (tmp_path / "set" / file).parent.mkdir(parents=True, exist_ok=True)
    photos = made()
    report = photos.add(coco(tmp_path / "set" / file, annotations=[of(0, 1)], categories=CATEGORIES))
    assert (report.added, report.quarantined) == (4, ())
    assert f"{folder.resolve().name}/00.png" in toys.revs(photos)
    assert photos.add(tmp_path / "set" / file, source="mine").reused == 4


def test_one_caption_each_is_a_text_and_is_found_by(photos, root):
    path = coco(root / "c.json", annotations=[of(0, caption="a cat"), of(1, caption="a dog")])
    assert photos.add(path).added == 4
    field = photos.collection.spec.field("caption")
    assert (field.kind, field.many) == (Kind.TEXT, False)
    assert photos.collection.count(F.caption == "a dog") == 1
    assert photos.collection.spec.field("label") is None


def test_what_a_collection_has_declared_otherwise(made, root):
    photos = made(fields={"label": "text", "license": "text[]"})
    images = [{"id": n, "file_name": f"{n:02}.png", "license": 1} for n in range(2)]
    path = coco(
        root / "x.json", images, annotations=[of(0, 1), of(1, 1), of(1, 2)], categories=CATEGORIES, licenses=[{"id": 1, "name": "CC0"}]
    )  # fmt: skip
    report = photos.add(path)
    assert report.added == 1
    assert toys.payloads(photos)["val/00.png"]["label"] == "cat"
    assert toys.payloads(photos)["val/00.png"]["license"] == ["CC0"]
    assert "field 'label' is one text, and there are 2 (cat, dog)" in reasons(report)["image 1"]
    assert "pixdex label --largest" in reasons(report)["image 1"]


def test_what_cannot_be_used_is_a_row_or_counted(photos, root):
    images = [{"id": 0, "file_name": "00.png"}, {"id": 0, "file_name": "01.png"}, {"file_name": "02.png"}, {"id": 3}]
    images += [{"id": 4, "file_name": "gone.png"}, {"id": 5, "file_name": "x" * 600 + "/" + "y"}]
    annotations = [of(0, 1), of(0, 7), of(99, 1), {"id": 8}]
    report = photos.add(coco(root / "x.json", images, annotations=annotations, categories=CATEGORIES))
    assert report.added == 1
    found = reasons(report)
    assert found["image 0"] == "this id stands twice"
    assert found["an image '02.png'"] == "it has no id"
    assert found["image 3"] == "it has no file_name"
    assert found[str(root / "gone.png")] == "cannot be read: no such file or directory"
    assert len(found) == 5
    (notice,) = (said for said in report.notices if "annotations" in said)
    assert notice.startswith("3 annotations of ")
    assert "cannot be used, such as annotation 8: it has no image_id" in notice


@pytest.mark.parametrize("absolute", [True, False])
def test_what_leads_out_of_the_folder_is_refused_and_not_looked_at(photos, root, tmp_path, absolute):
    own = toys.write(tmp_path / "own.png", 90)
    outside = str(own) if absolute else "../own.png"
    elsewhere = [outside, f"file://{own}", "sub/../../more.png", "../val2/a.png", ".."]
    images = [{"id": n, "file_name": name} for n, name in enumerate(elsewhere)]
    images += [{"id": 7, "file_name": "gone.png", "coco_url": f"file://{own}"}, {"id": 8, "coco_url": f"file://{own}"}]
    images += [{"id": 10, "file_name": f"{root}/00.png"}, {"id": 11, "file_name": "sub/../01.png"}]
    images += [{"id": 12, "file_name": f"file://{root}/02.png"}]
    report = photos.add(coco(root / "annotations" / "x.json", images), **OPEN)
    assert set(toys.revs(photos)) == {"val/00.png", "val/01.png", "val/02.png"}, "ids are those of the folder"
    found = reasons(report)
    assert found["image 0"] == f"{outside} leads out of the folder {root}: name what lies elsewhere in a table (.csv)"
    assert len(found) == 7
    assert found[str(root / "gone.png")] == "cannot be read: no such file or directory"
    assert found["image 8"] == "it has no file_name"


def test_a_name_that_no_file_can_have_is_a_row_and_stops_no_later_sync(photos, root):
    report = photos.add(
        coco(root / "x.json", [{"id": 1, "file_name": "a\0.png"}, {"id": 2, "file_name": "00.png"}]), job=Job()
    )
    assert (report.added, len(report.quarantined)) == (1, 1)
    report = photos.add(root, job=Job(sync=True))
    assert (report.added, report.unchanged, report.removed) == (3, 1, 0)


def test_several_images_of_one_file_are_one_picture(photos, root):
    images = [{"id": n, "file_name": f"{'./' * n}{n % 2:02}.png", "license": 1} for n in range(4)]
    annotations = [of(2, 2), of(0, 1), of(1, 1), of(3, 1), of(2, caption="A dog."), of(9, caption="of none")]
    licenses = [{"id": 1, "name": "CC0"}]
    path = coco(root / "x.json", images, annotations=annotations, categories=CATEGORIES, licenses=licenses)
    report = photos.add(path)
    assert (report.added, report.unchanged, report.quarantined) == (2, 0, ())
    there = toys.payloads(photos)
    assert there["val/00.png"] | {"label": ["dog", "cat"], "caption": "A dog.", "license": "CC0"} == there["val/00.png"]
    assert there["val/01.png"]["label"] == ["cat"]
    (notice,) = (said for said in report.notices if "annotations" in said)
    assert notice.startswith("1 annotations of ")
    assert notice.endswith("it is of image 9, which the file does not have")
    assert photos.add(path).unchanged == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("[1, 2]", "is no COCO file"),
        ('{"a": 1}', "is no COCO file.*no list 'images'"),
        ('{"images": []', "ends early: fetch it again"),
        ('{"images": []}', "its list 'images' is empty"),
    ],
)
def test_other_files_are_named_before_a_collection_is_made(photos, root, text, said):
    (root / "x.json").write_text(text)
    with pytest.raises(ConfigError, match=rf"x\.json.*{said}|x\.json {said}"):
        photos.add(root / "x.json")
    assert not photos._connector.names(timeout=5)


def test_pictures_that_lie_elsewhere_are_not_looked_for_one_by_one(photos, tmp_path):
    path = coco(tmp_path / "sets" / "x.json")
    with pytest.raises(
        ConfigError, match=r"none of the 4 pictures .*x\.json names lies in .*sets, .*put it beside them$"
    ):
        photos.add(path)
    coco(path, [{"id": 1, "file_name": "a.png", "flickr_url": "http://x/a.png"}])
    with pytest.raises(ConfigError, match=r"put it beside them; to fetch them .* say allow_remote=True"):
        photos.add(path)
    assert not photos._connector.names(timeout=5)


def test_a_file_that_changes_after_it_was_looked_at_stops_nothing(photos, root, monkeypatch):
    from pixdex.sources.annotations import Annotations

    path = coco(root / "x.json")
    real = Annotations.items

    def changed(self, spec):
        path.write_text("{")
        return real(self, spec)

    monkeypatch.setattr(Annotations, "items", changed)
    report = photos.add([path, root / "00.png"])
    assert report.added == 1
    assert "ends early" in report.quarantined[0].reason
