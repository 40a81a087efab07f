"""Labels that exist already, on records that exist already: on every store the same, and nothing else of a record is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toys

import pixdex
from pixdex import F, Want, evaluating
from pixdex.errors import ConfigError, InvalidRecord, NotFound, StoreLocked, Unsupported
from pixdex.index import ImageIndex
from pixdex.labelling import By, label

STORES = {
    "memory": "memory://{}",
    "pq": "pq://{}.pix",
    "qdrant+local": "qdrant+local://{}.qdrant#photos",
    "milvus+lite": "milvus+lite://{}.db#photos",
}
COUNT = 6
ALL = Want(vectors=("image",), tokens=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return toys.folder(tmp_path / "in", COUNT)


@pytest.fixture(params=STORES)
def everywhere(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "milvus+lite":
        pytest.importorskip("milvus_lite")
    if request.param == "qdrant+local":
        pytest.importorskip("qdrant_client")
    return STORES[request.param].format(tmp_path / "store")


@pytest.fixture
def filled(made: Any, root: Path) -> ImageIndex:
    """Six pictures in memory."""
    index: ImageIndex = made()
    index.add(root)
    return index


@pytest.fixture
def table(root: Path) -> Iterator[Any]:
    """Writes a table beside the pictures."""

    def write(text: str | bytes, name: str = "labels.csv") -> Path:
        path = root / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def labels(index: ImageIndex, field: str = "label") -> dict[str, Any]:
    """File name -> label."""
    return {Path(record).name: payload.get(field) for record, payload in toys.payloads(index).items()}


# --- on every store -----------------------------------------------------------------------------------


def test_labels_of_a_table_reach_the_records_and_nothing_else_changes(everywhere: str, root: Path, table: Any) -> None:
    shot = datetime(2020, 5, 17, 16, 30, tzinfo=UTC)
    fields = {"when": shot, "where": {"lat": 47.0, "lon": 8.0}, "tags": ["a", "b"], "label": None}
    said = {"when": "time", "where": "geo", "tags": "text[]", "label": "text"}
    with pixdex.open(everywhere, encoder=toys.ToyEncoder(), fields=said, tokens=True) as index:
        index.add(root, fields={**fields, "free": {"deep": [1, {"x": None}]}})
        ids = sorted(toys.revs(index))
        before, revs = index.get(ids, want=ALL), toys.revs(index)
        rows = table("path;label\n00.png;cat\n./01.png;dog\n" + f"{root}/02.png;cat\n../in/03.png;dog\n99.png;cat\n")
        done = label(index, rows)
        assert (done.labelled, done.changed, done.unchanged, done.rows, done.records) == (4, 0, 0, 5, COUNT)
        assert done.unknown.examples == (f"line 6: {root}/99.png",)
        assert labels(index) == dict(zip(sorted(labels(index)), ["cat", "dog", "cat", "dog", None, None], strict=True))
        after, now = index.get(ids, want=ALL), toys.revs(index)
        np.testing.assert_allclose(after.vectors["image"], before.vectors["image"], atol=1e-6)
        for one, other in zip(after.tokens or (), before.tokens or (), strict=True):
            np.testing.assert_array_equal(one, other)
        for one, other in zip(after.payloads or (), before.payloads or (), strict=True):
            assert {**one, "label": None} == other
        assert [record for record in ids if now[record] != revs[record]] == ids[:4]
        assert index.count(F.label == "cat") == 2
        assert index.count(F.when == shot) == COUNT

        again = label(index, rows)
        assert (again.labelled, again.changed, again.unchanged) == (0, 0, 4)
        assert toys.revs(index) == now, "what has its label already is not written again"
        assert evaluating.evaluate(index, label="label").queries


def test_a_field_that_is_not_there_is_declared_where_the_store_can(everywhere: str, root: Path, table: Any) -> None:
    with pixdex.open(everywhere, encoder=toys.ToyEncoder()) as index:
        index.add(root)
        rows = table("path,species\n00.png,7\n01.png,8\n")
        if index.collection.capabilities.alter:
            assert label(index, rows, label="species").declared == ("species",)
            assert index.count(F.species >= 8) == 1
            return
        with pytest.raises(Unsupported, match=r"cannot add fields.*declare=False"):
            label(index, rows, label="species")
        assert set(labels(index, "species").values()) == {None}
        done = label(index, rows, label="species", declare=False)
        assert done.notices == ("field 'species' is not declared, so it is kept but cannot be filtered on",)
        assert sorted(filter(None, labels(index, "species").values())) == [7, 8]
        assert label(index, rows, label="species", declare=False).unchanged == 2


# --- which record a row is about ----------------------------------------------------------------------


def test_by_id(filled: ImageIndex, table: Any) -> None:
    rows = table("id,label\nin/00.png,cat\nin/77.png,dog\n" + f"{'x' * 600},cat\n")
    done = label(filled, rows)
    assert (done.labelled, done.unknown.examples) == (1, ("line 3: in/77.png",))
    assert done.unusable.count == 1
    assert "512" in done.unusable.examples[0]


def test_by_the_end_of_paths_and_what_is_ambiguous_is_named(made: Any, tmp_path: Path, table: Any) -> None:
    index = made()
    for number, place in enumerate(("a/x/1.png", "b/xa/1.png", "a/2.png")):
        toys.write(tmp_path / "data" / place, number)
    index.add(tmp_path / "data")
    rows = table("file,label\n1.png,cat\nx/1.png,dog\n2.png,cat\n/gone/2.png,cat\n.png,cat\n")
    done = label(index, rows, by="name")
    assert done.ambiguous.examples == (f"line 2: 1.png is {tmp_path}/data/a/x/1.png, {tmp_path}/data/b/xa/1.png",)
    assert labels_by_path(index, tmp_path / "data") == {"a/x/1.png": "dog", "b/xa/1.png": None, "a/2.png": "cat"}
    assert (done.labelled, done.repeated, done.unknown.count) == (2, 1, 1), (
        "names are whole: .png is no end of 1.png, nor x/1.png of xa/1.png"
    )


def labels_by_path(index: ImageIndex, root: Path) -> dict[str, Any]:
    return {str(Path(p["path"]).relative_to(root)): p.get("label") for p in toys.payloads(index).values()}


@pytest.mark.parametrize("few", [0, 1000])
def test_paths_are_found_by_a_filter_or_by_reading_all(
    made: Any, tmp_path: Path, table: Any, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    """As stored, as the collection knows its folders, as a table wrote them; on a folder that need not be here."""
    from pixdex import _label_finding

    monkeypatch.setattr(_label_finding, "_FEW", few)
    toys.folder(tmp_path / "real", 2)
    (tmp_path / "link").symlink_to("real", target_is_directory=True)
    monkeypatch.chdir(tmp_path / "real")
    index = made()
    index.add("../link")  # stored as .../real/../link/00.png
    index.add(table("path\n../real/../in/05.png\n", "pictures.csv"))
    index.add(toys.png(40), ids=["drawn"])
    index.add(toys.png(41), ids=["s3://bucket/41.png"])  # bytes, which have no path: their id is what names them
    rows = table(
        f"path,label\n{tmp_path}/real/00.png,cat\n{tmp_path}/link/01.png,dog\n../real/../in/05.png,cow\ndrawn,ox\n"
        "s3://bucket/41.png,ewe\n"
    )
    done = label(index, rows)
    assert (done.labelled, done.unknown.count) == (4, 1)
    assert sorted(filter(None, labels(index).values())) == ["cat", "cow", "dog", "ewe"]
    elsewhere = table("path,label\n00.png,hen\n")
    assert label(index, elsewhere, root=tmp_path / "real").changed == 1


def test_addresses_and_ids_of_images(filled: ImageIndex, root: Path, table: Any) -> None:
    place = "https://example.org/a//b.png"
    filled.collection.upsert(pixdex.Batch(("77", "odd"), payloads=({"path": place}, {"path": "x"})))
    assert label(filled, table(f"url,label\n{place},cat\n")).labelled == 1
    assert label(filled, table("url,label\nhttps://elsewhere/b.png,dog\n"), by="name").changed == 1
    image = {"images": [{"id": 77}], "annotations": [{"image_id": 77, "category_id": 1}]}
    file = coco(root / "x.json", **image, categories=[{"id": 1, "name": "cow"}])
    assert label(filled, file).unusable.examples == ("image 77: it has no file_name",)
    assert label(filled, file, by=By.ID).changed == 1


def test_where_nothing_fits_it_is_said_how_paths_look(filled: ImageIndex, tmp_path: Path, root: Path) -> None:
    other = tmp_path / "else" / "labels.csv"
    other.parent.mkdir()
    other.write_text("path,label\n00.png,cat\n")
    done = label(filled, other)
    assert done.matched == 0
    assert str(root) in done.notices[0]
    assert f"relative to {tmp_path}/else (--root, root=)" in done.notices[0]
    assert "declared" not in filled.info().fields
    assert label(filled, other, root=root).labelled == 1


def test_a_picture_that_is_there_under_two_ids_is_labelled_under_both(
    filled: ImageIndex, root: Path, table: Any
) -> None:
    filled.add(root / "00.png", ids=["mine"])
    assert label(filled, table("path,label\n00.png,cat\n")).labelled == 2


# --- what rows say ------------------------------------------------------------------------------------


def test_rows_that_contradict_one_another_are_named_and_their_records_left(filled: ImageIndex, table: Any) -> None:
    rows = table("path,label\n00.png,cat\n01.png,cat\n./00.png,dog\n01.png,cat\n02.png,\n03.png\n,cat\n04.png,a,b\n")
    done = label(filled, rows)
    assert done.contradictory.examples == ("in/00.png: 'cat' (line 2), 'dog' (line 4)",)
    assert (done.labelled, done.repeated, done.rows) == (1, 1, 8)
    assert done.unlabelled.count == 2
    assert done.unusable.examples == ("line 8: 'path' names no picture", "line 9: 3 cells under 2 columns")
    assert labels(filled)["00.png"] is None


def test_several_columns_and_a_field_of_another_name(filled: ImageIndex, table: Any) -> None:
    rows = table("path,species,sex\n00.png,fox,f\n01.png,owl,\n00.png,,f\n")
    assert label(filled, rows, label=["species", "sex"]).fields == ("species:text", "sex:text")
    assert (labels(filled, "species")["01.png"], labels(filled, "sex")["00.png"]) == ("owl", "f")
    assert label(filled, rows, label="species", field="kind").declared == ("kind",)
    with pytest.raises(ConfigError, match="2 columns"):
        label(filled, rows, label=["species", "sex"], field="kind")


def test_a_list_takes_all_that_rows_say(filled: ImageIndex, table: Any) -> None:
    rows = table('path,label\n00.png,cat\n00.png,dog\n00.png,cat\n01.png,"[""owl"", ""owl""]"\n')
    done = label(filled, rows, kind="text[]")
    assert (done.labelled, done.repeated, done.contradictory.count) == (2, 1, 0)
    assert labels(filled)["00.png"] == ["cat", "dog"]
    assert labels(filled)["01.png"] == ["owl"]
    assert filled.count(F.label.contains("dog")) == 1
    assert label(filled, rows).unchanged == 2


def test_what_does_not_fit_the_field_is_counted(made: Any, root: Path, table: Any) -> None:
    index = made(fields={"label": "int"})
    index.add(root)
    done = label(index, table(b"path,label\n00.png,3\n01.png,three\n02.png, 4 \n"))
    assert (done.labelled, done.unusable.count) == (2, 1)
    assert done.unusable.examples[0] == "line 3: field 'label' is declared int, got 'three'"
    with pytest.raises(ConfigError, match="declared as int already, not text"):
        label(index, table("path,label\n00.png,3\n"), kind="text")


def test_a_row_of_any_length_is_named_in_short(filled: ImageIndex, table: Any) -> None:
    done = label(filled, table(f"path,label\n{'a' * 100_000},cat\n{'b' * 100_000},\n"))
    (unknown,), (unlabelled,) = done.unknown.examples, done.unlabelled.examples
    assert unknown.startswith("line 2: /")
    assert unlabelled.startswith("line 3: bbb")
    assert max(map(len, (unknown, unlabelled))) < 500


def test_a_table_that_is_not_utf_8_is_not_half_read(filled: ImageIndex, table: Any) -> None:
    done = label(filled, table(b"\xef\xbb\xbfpath;label\n00.png;K\xe4fer\n01.png; K\xc3\xa4fer \n"))
    assert labels(filled)["01.png"] == "Käfer"
    assert done.unusable.examples == ("line 2: 'K\\\\xe4fer' is not UTF-8: save the file as that",)


def test_other_forms_of_tables(filled: ImageIndex, table: Any, root: Path) -> None:
    lines = '{"path": "00.png", "label": "cat"}\n{"path": "01.png"}\n[1]\n{"path": 3, "label": "cat"}\n'
    done = label(filled, table(lines, "labels.jsonl"))
    assert (done.labelled, done.unlabelled.count, done.unusable.count, done.unknown.count) == (1, 1, 1, 1)
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"id": ["in/02.png", "in/03.png"], "label": ["dog", None]}), root / "labels.parquet")
    assert label(filled, root / "labels.parquet").labelled == 1
    mixed = table('{"path": "00.png", "x": "a"}\n{"path": "01.png", "x": 1}\n', "mixed.jsonl")
    with pytest.raises(ConfigError, match="suggest no kind of field"):
        label(filled, mixed, label="x")


# --- COCO ---------------------------------------------------------------------------------------------


def coco(path: Path, **lists: Any) -> Path:
    path.write_text(json.dumps({"info": {"images": ["no"]}, **lists}))
    return path


def test_categories_of_coco(filled: ImageIndex, root: Path) -> None:
    images = [{"id": n, "file_name": f"0{n}.png"} for n in range(4)]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    annotations = [
        {"id": 1, "image_id": 0, "category_id": 1, "bbox": [0, 0, 2, 2], "area": 900},
        {"id": 2, "image_id": 0, "category_id": 2, "bbox": [0, 0, 3, 2], "area": 1},
        {"id": 3, "image_id": 0, "category_id": 1, "bbox": [0, 0, 9, 9], "iscrowd": 1},
        {"id": 4, "image_id": 1, "category_id": 1},
        {"id": 5, "image_id": 1, "category_id": 1},
        {"id": 60, "image_id": 2, "category_id": 3},
        {"id": 70, "image_id": 9, "category_id": 1},
    ]
    file = coco(root / "instances.json", images=images, annotations=annotations, categories=categories)
    revs = toys.revs(filled)
    with pytest.raises(ConfigError, match=r"'00.png' has several categories \(cat, dog\).*--largest"):
        label(filled, file)
    assert toys.revs(filled) == revs
    done = label(filled, file, largest=True)
    assert (labels(filled)["00.png"], labels(filled)["01.png"]) == ("dog", "cat")
    assert (done.labelled, done.unlabelled.examples) == (2, ("image 2: 02.png", "image 3: 03.png"))
    assert sorted(done.unusable.examples) == [
        "annotation 60: its category 3 is none of the file's",
        "annotation 70: it is of image 9, which the file does not have",
    ]
    label(filled, file, field="seen", kind="text[]")
    assert (labels(filled, "seen")["00.png"], labels(filled, "seen")["01.png"]) == (["cat", "dog"], ["cat"])


@pytest.mark.parametrize("kind", ["text", "text[]"])
def test_a_category_that_cannot_be_a_label_stops_nothing(filled: ImageIndex, root: Path, kind: str) -> None:
    names = ["cat", " ", "x" * 9000, None]
    file = coco(
        root / "x.json",
        images=[{"id": n, "file_name": f"0{n}.png"} for n in range(4)],
        annotations=[{"id": n, "image_id": n, "category_id": n} for n in range(4)],
        categories=[{"id": n, "name": name} for n, name in enumerate(names)],
    )
    done = label(filled, file, kind=kind)
    assert (done.labelled, done.unlabelled.count, done.unusable.count) == (1, 2, 3)
    assert {"annotation 1: its category 1 has no name", "annotation 3: its category 3 has no name"} <= set(
        done.unusable.examples
    )
    assert [name for name, value in labels(filled).items() if value] == ["00.png"]


def test_coco_and_a_field_that_is_no_text(made: Any, root: Path) -> None:
    index = made(fields={"label": "int"})
    index.add(root)
    file = coco(root / "x.json", images=[], annotations=[], categories=[])
    with pytest.raises(ConfigError, match="categories are text, field 'label' is int"):
        label(index, file)
    with pytest.raises(ConfigError, match="no columns"):
        label(index, file, label="species")


# --- what is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("path,labels\n00.png,cat\n", {}, r"no column 'label' of labels \(did you mean 'labels'"),
        ("picture,label\n00.png,cat\n", {}, r"say with --column \(column=\) which column names the pictures"),
        ("path,label\n00.png,cat\n", {"column": "paths"}, r"no column 'paths' \(did you mean 'path'"),
        ("", {}, "is empty"),
        ("path,label\n", {"by": "hash"}, "one of path, name, id"),
        ("path,width\n00.png,3\n", {"label": "width"}, "'width' is filled by pixdex"),
        ("path,label\n00.png,cat\n", {"field": "my field"}, "my field"),
        ("path,label\n00.png,cat\n", {"kind": "words"}, "unknown kind"),
        ("path,label\n00.png,cat\n", {"largest": True}, "no boxes"),
    ],
)
def test_tables_that_cannot_mean_anything(filled: ImageIndex, table: Any, text: str, options: Any, said: str) -> None:
    revs = toys.revs(filled)
    with pytest.raises(ConfigError, match=said):
        label(filled, table(text), **options)
    assert toys.revs(filled) == revs


def test_files_that_are_none(filled: ImageIndex, root: Path, table: Any) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        label(filled, root / "none.csv")
    with pytest.raises(ConfigError, match=r"labels stand in a table .*, or COCO"):
        label(filled, root / "00.png")
    folder = root / "folder.csv"
    folder.mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        label(filled, folder)


def test_collections_that_cannot_be_labelled(made: Any, root: Path, table: Any, tmp_path: Path) -> None:
    rows = table("path,label\n00.png,cat\n")
    with pytest.raises(NotFound):
        label(made(), rows)
    index = made()
    index.add(root)
    index.collection.upsert(pixdex.Batch(("odd",), payloads=({"label": 3},)))
    with pytest.raises(InvalidRecord, match=r"'odd'.*no field was added"):
        label(index, rows)
    assert labels(index)["00.png"] is None


def test_another_tools_collection_is_not_written(tmp_path: Path, table: Any) -> None:
    pytest.importorskip("qdrant_client")
    from test_copying import adopted

    with pytest.raises(Unsupported, match=r"label: .* made by another tool.*with that tool"):
        label(adopted(tmp_path / "theirs"), table("path,label\n00.png,cat\n"), dry_run=True)


def test_another_job_at_the_collection(tmp_path: Path, root: Path, table: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from pixdex.connectors import connect
    from pixdex.encoders.decoding import Decoding
    from pixdex.jobs import Job, journal_for

    monkeypatch.setenv("PIXDEX_STATE", str(tmp_path / "state"))
    url = f"pq://{tmp_path / 'p.pix'}"
    with pixdex.open(url, encoder=toys.ToyEncoder()) as index:
        index.add(root)
    rows = table("path,label\n00.png,cat\n")
    connector, name = connect(url)
    connector.alias("album", name, timeout=None)
    for address in (url, f"{url}#album"):  # it is one collection by all its names
        with journal_for(Job(), url, connector, name, "toy", Decoding()), pytest.raises(StoreLocked):
            label(address, rows)
    connector.close()
    assert label(url, rows, dry_run=True).labelled == 1
    assert label(url, rows).labelled == 1


# --- dry, interrupted, with captions --------------------------------------------------------------------


def test_a_dry_run_says_the_same_and_writes_nothing(filled: ImageIndex, table: Any) -> None:
    rows = table("path,label\n00.png,cat\n01.png,dog\n88.png,dog\n")
    revs = toys.revs(filled)
    dry = label(filled, rows, dry_run=True)
    assert (toys.revs(filled), filled.collection.spec.field("label")) == (revs, None)
    done = label(filled, rows)
    assert (dry.labelled, dry.declared, dry.unknown) == (done.labelled, done.declared, done.unknown)
    assert (dry.dry_run, done.dry_run) == (True, False)


def test_stopped_half_way_the_same_call_goes_on(
    made: Any, root: Path, table: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pixdex import labelling

    monkeypatch.setattr(labelling, "_CHUNK", 2)
    index = made(fields={"label": "text"})
    index.add(root)
    rows = table("path,label\n" + "".join(f"0{n}.png,cat\n" for n in range(COUNT)))

    def stop(done: int, total: int) -> None:
        if sum(value is not None for value in labels(index).values()) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        label(index, rows, progress=stop)
    again = label(index, rows)
    assert (again.unchanged, again.labelled) == (4, 2)


def test_a_caption_that_changes_gets_its_new_vector(made: Any, root: Path, table: Any) -> None:
    from test_captions import ToyWords

    index = made(text_encoder=ToyWords())
    index.add(root, fields={"says": "a red car"}, text="says")
    before = index.get("in/00.png", want=Want(vectors=("image", "text")))
    done = label(index, table("path,says\n00.png,a blue boat\n"), label="says")
    after = index.get("in/00.png", want=Want(vectors=("image", "text")))
    assert done.changed == 1
    np.testing.assert_allclose(after.vectors["image"], before.vectors["image"], atol=1e-6)
    assert np.abs(after.vectors["text"] - before.vectors["text"]).max() > 0.01
    assert index.search(text="a blue boat", k=1)[0].id == "in/00.png"
    done = label(index, table("path,says\n00.png,nothing\n"), label="says")
    assert "'words' makes no usable vector" in "".join(done.notices)


def test_the_ways_are_words() -> None:
    assert [*By] == ["path", "name", "id"]
