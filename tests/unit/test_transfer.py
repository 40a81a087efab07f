"""Encoding here, loading there: the file leads to the same collection as adding the pictures does."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import toys

import pixdex
from pixdex import Want
from pixdex.encoders.images import Decoding
from pixdex.errors import ConfigError, FingerprintMismatch, StoreFormat, Unsupported

pytest.importorskip("pyarrow")

import pyarrow.parquet as pq

from pixdex.transfer import encode, load


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return toys.folder(tmp_path / "in", 10)


@pytest.fixture
def file(root: Path, tmp_path: Path) -> Path:
    """Ten pictures encoded, and one that cannot be."""
    (root / "broken.jpg").write_text("no")
    encode(root, tmp_path / "v.parquet", encoder=toys.ToyEncoder(), fields={"album": "summer", "year": 2020})
    return tmp_path / "v.parquet"


def everything(url: str) -> dict[str, object]:
    """id -> payload and vector of every record."""
    with pixdex.open(url, encoder=toys.ToyEncoder()) as photos:
        found = {}
        for page in photos.collection.scan(want=Want(vectors=("image",))):
            rows = zip(page.batch.ids, page.batch.payloads, page.batch.vectors["image"].tolist(), strict=True)
            found |= {record: (payload, vector) for record, payload, vector in rows}
        return found


@pytest.fixture(params=["pq", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty place that stays between two openings."""
    return {"pq": f"pq://{tmp_path / 's.pix'}", "memory": f"memory://{tmp_path.name}-{os.getpid()}"}[request.param]


def test_loading_gives_what_adding_gives(root, file, url, tmp_path):
    report = load(url, file)
    assert report.added == 10
    assert [(Path(row.path).name, row.reason) for row in report.quarantined] == [("broken.jpg", "not a picture")]
    direct = f"pq://{tmp_path / 'direct.pix'}"
    with pixdex.open(direct, encoder=toys.ToyEncoder()) as photos:
        photos.add(root, fields={"album": "summer", "year": 2020})
        spec = photos.collection.spec
    assert everything(url) == everything(direct)
    toy = toys.ToyEncoder()
    with pixdex.open(url, encoder=toy) as photos:
        assert photos.collection.spec == spec
        assert photos.add(root, fields={"album": "summer"}).unchanged == 10
        assert toy.total == 0
        assert photos.search("in/03.png", k=1, where=pixdex.F.year == 2020)[0].id == "in/03.png"


def test_loading_again_writes_nothing(file, url):
    load(url, file)
    with pixdex.open(url, encoder=toys.ToyEncoder()) as photos:
        before = toys.revs(photos)
    report = load(url, file)
    assert (report.added, report.unchanged) == (0, 10)
    with pixdex.open(url, encoder=toys.ToyEncoder()) as photos:
        assert toys.revs(photos) == before


def test_loading_needs_no_encoder(file, url, monkeypatch):
    from pixdex import encoders

    monkeypatch.setattr(encoders, "load", lambda reference: pytest.fail(f"{reference} was loaded"))
    assert load(url, file).added == 10


def test_loading_loads_no_library_of_encoders(file, tmp_path):
    code = (
        "import sys; from pixdex.transfer import load; load(*sys.argv[1:], progress=False)\n"
        "print({'torch', 'transformers', 'onnxruntime', 'openvino'} & sys.modules.keys() or '')"
    )
    line = [sys.executable, "-c", code, f"pq://{tmp_path / 's.pix'}", str(file)]
    assert subprocess.run(line, check=True, capture_output=True, text=True).stdout == "\n"


def test_tokens_go_along_when_asked_for(root, url, tmp_path):
    encode(root, tmp_path / "v.parquet", encoder=toys.ToyEncoder(), tokens=True)
    load(url, tmp_path / "v.parquet")
    with pixdex.open(url, encoder=toys.ToyEncoder()) as photos:
        assert photos.get("in/00.png", want=Want(tokens=True)).tokens[0].shape == (16, 3)
        assert photos.search(root / "04.png", rerank="maxsim", k=1)[0].id == "in/04.png"


def test_tokens_that_a_collection_does_not_keep_are_left_out_and_that_is_said(root, url, tmp_path):
    with pixdex.open(url, encoder=toys.ToyEncoder()) as photos:
        photos.add(root / "00.png")
    encode(root, tmp_path / "v.parquet", encoder=toys.ToyEncoder(), tokens=True)
    report = load(url, tmp_path / "v.parquet")
    assert (report.added, report.unchanged) == (9, 1)
    assert report.notices == ("this collection keeps no tokens: they are left out",)


def test_an_encoder_without_tokens_says_so_and_leaves_no_file(root, tmp_path):
    with pytest.raises(Unsupported, match="makes no tokens"):
        encode(root, tmp_path / "v.parquet", encoder=toys.ToyEncoder(with_tokens=False), tokens=True)
    assert list(tmp_path.iterdir()) == [root]


def test_vectors_of_another_encoder_are_refused_before_anything_is_written(root, file, url):
    with pixdex.open(url, encoder=toys.ToyEncoder("other")) as photos:
        photos.add(root / "00.png")
    with pytest.raises(FingerprintMismatch, match=r"holds vectors of other \[.*not of toy \["):
        load(url, file)
    with pixdex.open(url, encoder=toys.ToyEncoder("other")) as photos:
        assert photos.count() == 1


def test_a_record_that_is_there_keeps_its_fields_and_other_vectors(root, file, url, toy):
    with pixdex.open(url, encoder=toy) as photos:
        photos.add(root / "00.png", fields={"rating": 5, "album": "old"})
        caption = pixdex.Vector(name="text", dim=2, metric="dot", fingerprint=toy.fingerprint)
        photos.collection.alter(vectors=[caption])
        batch = photos.get("in/00.png", want=Want(vectors=("image",)))
        photos.collection.upsert(replace(batch, vectors={**batch.vectors, "text": np.array([[1.0, 2.0]])}, revs=None))
    load(url, file)
    with pixdex.open(url, encoder=toy) as photos:
        found = photos.get(["in/00.png", "in/01.png"], want=Want(vectors=("image", "text")))
        assert (found.payloads[0]["rating"], found.payloads[0]["album"]) == (5, "summer")
        assert found.present("text").tolist() == [True, False]
        assert found.vectors["text"][0].tolist() == [1, 2]


def test_fields_of_another_kind_are_refused_and_values_are_rows(root, url, tmp_path):
    with pixdex.open(url, encoder=toys.ToyEncoder(), fields={"year": "int"}) as photos:
        photos.add(root / "00.png")
    path = tmp_path / "v.parquet"
    encode(root, path, encoder=toys.ToyEncoder(), fields={"year": "MMXX"})
    with pytest.raises(ConfigError, match="field 'year' is text in the file and declared as int in the collection"):
        load(url, path)
    table = root / "t.jsonl"
    table.write_text('{"path": "00.png", "year": "MMXX"}\n{"path": "01.png", "year": 2020}\n')
    encode(table, path, encoder=toys.ToyEncoder())
    report = load(url, path)
    assert report.added == 1
    assert report.quarantined[0].path == "in/00.png"
    assert "field 'year' is declared int, got str 'MMXX'" in report.quarantined[0].reason


def test_fields_that_a_collection_does_not_declare_are_kept_and_said(root, file, url):
    with pixdex.open(url, encoder=toys.ToyEncoder()) as photos:
        photos.add(root / "00.png")
    assert load(url, file).notices == tuple(
        f"field {name!r} is not declared here, so it is kept but cannot be filtered on" for name in ("album", "year")
    )


def test_two_folders_of_one_name_are_told_apart(file, url, tmp_path):
    other = toys.folder(tmp_path / "else/in", 2, start=50)
    with pixdex.open(url, encoder=toys.ToyEncoder()) as photos:
        photos.add(other)
    with pytest.raises(ConfigError, match="source 'in' stands for .*else/in in this collection and for"):
        load(url, file)


def test_the_file_of_a_table_has_its_fields(root, url, tmp_path):
    (root / "t.csv").write_text("path,album,year\n00.png,x,2020\n01.png,y,\nnone.png,z,1\n")
    report = encode(root / "t.csv", tmp_path / "v.parquet", encoder=toys.ToyEncoder(), declare={"year": "float"})
    assert (report.added, len(report.quarantined)) == (2, 1)
    load(url, tmp_path / "v.parquet")
    with pixdex.open(url, encoder=toys.ToyEncoder()) as photos:
        assert photos.info().fields["year"] == "float"
        assert photos.count(pixdex.F.album == "y") == 1


def test_several_things_and_ids(url, root, tmp_path):
    encode([toys.png(1), root / "02.png"], tmp_path / "v.parquet", encoder=toys.ToyEncoder(), ids=["a", "b"])
    load(url, tmp_path / "v.parquet")
    assert set(everything(url)) == {"a", "b"}


def test_more_pictures_than_a_part_holds(url, tmp_path):
    pictures = [toys.pixels(number, (8, 8)) for number in range(1300)]
    seen = []
    report = encode(iter(pictures), tmp_path / "v.parquet", encoder=toys.ToyEncoder(), progress=seen.append)
    assert report.added == 1300
    assert len(seen) > 5
    seen.clear()
    assert load(url, tmp_path / "v.parquet", progress=seen.append).added == 1300
    assert [one.added for one in seen] == [500, 1000, 1300]


def stop(report: pixdex.report.Report) -> None:
    raise KeyboardInterrupt


@pytest.fixture
def begun(tmp_path: Path) -> list[np.ndarray]:
    """The pictures of an encode that was interrupted on its way to ``v.parquet``."""
    pictures = [toys.pixels(number, (8, 8)) for number in range(400)]
    with pytest.raises(KeyboardInterrupt):
        encode(pictures, tmp_path / "v.parquet", encoder=toys.ToyEncoder(), fields={"year": 2020}, progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["v.parquet.partial"]
    return pictures


def test_an_interrupted_encode_goes_on_and_leads_to_the_same_file(begun, tmp_path):
    toy = toys.ToyEncoder()
    report = encode(begun, tmp_path / "v.parquet", encoder=toy, fields={"year": 2020})
    assert report.unchanged >= 64
    assert report.added + report.unchanged == 400
    assert toy.total == report.added
    encode(begun, tmp_path / "whole.parquet", encoder=toys.ToyEncoder(), fields={"year": 2020})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v.parquet", "whole.parquet"]
    one, other = (pq.read_table(tmp_path / name) for name in ("v.parquet", "whole.parquet"))
    assert one.equals(other)
    assert one.schema.metadata == other.schema.metadata


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"fields": {"year": 2021}}, "was begun with other pictures, fields or options"),
        ({"tokens": True}, "was begun with other pictures, fields or options"),
        ({"decoding": Decoding(frame=1)}, "was begun with other pictures, fields or options"),
        (
            {"encoder": toys.ToyEncoder("other")},
            "was begun with encoder 'toy:48', not 'other:48' .they differ in: encoder",
        ),
    ],
)
def test_what_was_begun_otherwise_is_refused_and_stays(begun, tmp_path, other, message):
    asked = {"encoder": toys.ToyEncoder(), "fields": {"year": 2020}}
    with pytest.raises(
        (ConfigError, FingerprintMismatch), match=r"v\.parquet\.partial " + message + ".* remove it to begin anew"
    ):
        encode(begun, tmp_path / "v.parquet", **{**asked, **other})
    assert encode(begun, tmp_path / "v.parquet", **asked).unchanged >= 64


def test_other_pictures_are_not_gone_on_with(begun, tmp_path):
    with pytest.raises(ConfigError, match="was begun with other pictures"):
        encode(begun[1:], tmp_path / "v.parquet", encoder=toys.ToyEncoder(), fields={"year": 2020})


def test_a_damaged_beginning_is_refused_with_the_remedy(begun, tmp_path):
    database = tmp_path / "v.parquet.partial/store/pixdex.sqlite"
    database.write_bytes(b"x" * database.stat().st_size)
    with pytest.raises(StoreFormat, match=r"v\.parquet\.partial is damaged .*: remove it to begin anew"):
        encode(begun, tmp_path / "v.parquet", encoder=toys.ToyEncoder(), fields={"year": 2020})


def test_what_is_not_ours_is_not_touched(root, tmp_path):
    (tmp_path / "v.parquet.partial").mkdir()
    (tmp_path / "v.parquet.partial/mine.txt").write_text("mine")
    (tmp_path / "folder.parquet").mkdir()
    for name, message in (
        ("v.parquet", r"v\.parquet\.partial is not what an unfinished encode leaves"),
        ("folder.parquet", "is a folder: name a file to write"),
        ("none/v.parquet", "cannot be written: No such file or directory"),
    ):
        with pytest.raises(ConfigError, match=message):
            encode(root, tmp_path / name, encoder=toys.ToyEncoder())
    assert (tmp_path / "v.parquet.partial/mine.txt").read_text() == "mine"


def test_the_file_before_stays_until_the_new_one_is_whole(root, tmp_path):
    path = tmp_path / "v.parquet"
    encode(root / "00.png", path, encoder=toys.ToyEncoder())
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        encode(root, path, encoder=toys.ToyEncoder(), progress=stop)
    assert path.read_bytes() == before
    encode(root, path, encoder=toys.ToyEncoder())
    assert pq.read_metadata(path).num_rows == 10


def test_an_interrupted_load_goes_on(url, tmp_path):
    pictures = [toys.pixels(number, (8, 8)) for number in range(700)]
    encode(pictures, tmp_path / "v.parquet", encoder=toys.ToyEncoder())
    with pytest.raises(KeyboardInterrupt):
        load(url, tmp_path / "v.parquet", progress=stop)
    report = load(url, tmp_path / "v.parquet")
    assert (report.added, report.unchanged) == (200, 500)


def test_add_takes_pictures_not_files_of_vectors(file, photos):
    with pytest.raises(ConfigError, match="holds pictures encoded already"):
        photos.add(file)


def test_what_is_no_such_file_is_refused_before_a_store_is_opened(root, tmp_path):
    with pytest.raises(ConfigError, match="holds no vectors that pixdex wrote"):
        load(f"pq://{tmp_path / 's.pix'}", root / "00.png")
    assert not (tmp_path / "s.pix").exists()


def test_the_name_of_the_file_says_what_it_is(root, tmp_path):
    with pytest.raises(ConfigError, match=r"v\.npz: the file is a Parquet file, and its name ends in \.parquet"):
        encode(root, tmp_path / "v.npz", encoder=toys.ToyEncoder())


def test_the_default_encoder_is_mini(root, url, tmp_path):
    encode(root / "00.png", tmp_path / "v.parquet")
    load(url, tmp_path / "v.parquet")
    with pixdex.open(url) as photos:
        assert photos.encoder.name == "mini"
        assert photos.search(root / "00.png", k=1)[0].score == pytest.approx(1, abs=1e-4)
