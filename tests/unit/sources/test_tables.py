"""Tables and lists of pictures, as spreadsheets, scripts and data sets write them."""

from __future__ import annotations

import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
import toys

from pixdex import F
from pixdex.errors import ConfigError
from pixdex.pictures import Refused
from pixdex.report import Report
from pixdex.sources import Sources, _rows
from pixdex.spec import Fingerprint, Spec, Vector


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return toys.folder(tmp_path / "in", 5)


def table(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def reasons(report: Report) -> dict[str, str]:
    return {Path(row.path).name: row.reason for row in report.quarantined}


# --- lists ------------------------------------------------------------------------------------------


def test_a_list_names_pictures_relative_to_itself(photos, root, tmp_path):
    toys.write(tmp_path / "else.png", 20)
    path = table(
        root / "list.txt", f"00.png\n\n  \n./01.png\r\n../else.png\n{root}/02.png\n{tmp_path}/else.png\nnone.png\n"
    )
    report = photos.add(path)
    assert (report.added, report.reused) == (4, 1)
    assert reasons(report) == {"none.png": "cannot be read: no such file or directory"}
    names = {"in/00.png", "in/01.png", "in/../else.png", "in/02.png", f"in/{tmp_path}/else.png"}
    assert set(toys.revs(photos)) == names
    assert photos.add(root).added == 2, "the others have the ids that their folder gives them"
    assert toys.payloads(photos)["in/../else.png"]["path"] == f"{root}/../else.png"


def test_a_list_of_names_that_are_not_utf_8(photos, root):
    raw = os.fsencode(root)
    try:
        Path(os.fsdecode(raw + b"/caf\xe9.png")).write_bytes(toys.png(9))
    except OSError:
        pytest.skip("this file system takes no such name")
    assert photos.add(table(root / "list.txt", b"caf\xe9.png\n00.png\n")).added == 2
    assert hashlib.blake2b(b"in/caf\xe9.png", digest_size=16).hexdigest() in toys.revs(photos)


def test_other_text_is_a_list_of_what_is_not_there(photos, root):
    report = photos.add(table(root / "notes.txt", "buy milk\ncall ada\n"))
    assert reasons(report) == dict.fromkeys(("buy milk", "call ada"), "cannot be read: no such file or directory")


def test_an_empty_list_is_refused(photos, root):
    with pytest.raises(ConfigError, match=r"list\.txt is empty"):
        photos.add(table(root / "list.txt", "\n\n"))
    assert not photos._connector.names(timeout=5)


# --- CSV --------------------------------------------------------------------------------------------

SHEET = """path,album,year,rating,seen,code,note
00.png,summer,2020,4.5,true,007,"two
lines, and a comma"
01.png,winter,2021,3,FALSE,008,
02.png,,,,,,
"""


def test_columns_become_typed_fields_and_empty_cells_are_absent(photos, root):
    report = photos.add(table(root / "t.csv", SHEET))
    assert report.added == 3
    fields = photos.info().fields
    shown = {name: fields[name] for name in ("album", "year", "rating", "seen", "code", "note")}
    assert shown == {
        "album": "text", "year": "int", "rating": "float", "seen": "bool", "code": "text", "note": "text"
    }  # fmt: skip
    payloads = toys.payloads(photos)
    assert payloads["in/00.png"]["note"] == "two\nlines, and a comma"
    assert payloads["in/01.png"]["code"] == "008"
    assert "year" not in payloads["in/02.png"]
    assert photos.count((F.year >= 2021) & (F.rating <= 3) & ~(F.seen == True)) == 1  # noqa: E712
    assert photos.count(~F.note.exists()) == 2
    assert photos.add(root / "t.csv").unchanged == 3


def test_declared_fields_say_how_cells_are_read(made, root):
    photos = made(
        fields={"year": "text", "when": "time", "spot": "geo", "tags": "text[]", "n": "int", "ok": "bool", "x": "float"}
    )
    text = (
        "file;year;when;spot;tags;n;ok;x\n"
        '00.png;2020;2020-05-01T12:00:00+02:00;47.5, 8.5;"[""a"",""b""]"; 7 ;yes;1e3\n'
        '01.png;2021;2020-05-01T12:00:00Z;"{""lat"": 1, ""lon"": 2}";a;-1;0;2\n'
    )
    report = photos.add(table(root / "t.csv", text))
    assert report.quarantined == ()
    one, two = (toys.payloads(photos)[f"in/0{n}.png"] for n in (0, 1))
    assert (one["year"], one["when"]) == ("2020", datetime(2020, 5, 1, 10, tzinfo=UTC))
    assert (one["spot"], two["spot"]) == ({"lat": 47.5, "lon": 8.5}, {"lat": 1.0, "lon": 2.0})
    assert (one["tags"], two["tags"]) == (["a", "b"], ["a"])
    assert (one["n"], one["ok"], one["x"]) == (7, True, 1000)
    assert (two["n"], two["ok"], two["x"]) == (-1, False, 2)


@pytest.mark.parametrize(
    ("kind", "cell", "reason"),
    [
        ("int", "many", "field 'f' is declared int, got 'many'"),
        ("float", "1,5", "field 'f' is declared float, got '1,5'"),
        ("bool", "maybe", "field 'f' is declared bool, got 'maybe'"),
        ("time", "yesterday", "field 'f': 'yesterday' is no ISO 8601 time"),
        ("time", "2020-05-01", "has no time zone"),
        ("geo", "north", "field 'f' is declared geo, got 'north'"),
        ("geo", "95, 8", "field 'f' is a place"),
        ("int[]", "[1, 2", "field 'f' is declared int, got"),
        ("int", "99999999999999999999", "beyond 2^53"),
        ("float", "nan", "not a finite number"),
    ],
)
def test_a_cell_that_does_not_fit_is_one_row(made, root, kind, cell, reason):
    photos = made(fields={"f": kind})
    report = photos.add(table(root / "t.csv", f'path,f\n00.png,"{cell}"\n01.png,\n'))
    assert report.added == 1
    assert list(reasons(report)) == ["t.csv:2"]
    assert reason in reasons(report)["t.csv:2"]


def test_a_column_that_is_not_declared_is_read_by_its_look(photos, root):
    photos.add(root / "04.png")
    report = photos.add(table(root / "t.csv", "path,a,b\n00.png,3,007\n01.png,x,2.5\n"))
    assert report.added == 2
    payloads = toys.payloads(photos)
    assert [(payloads[f"in/0{n}.png"]["a"], payloads[f"in/0{n}.png"]["b"]) for n in (0, 1)] == [(3, "007"), ("x", 2.5)]
    assert photos.add(root / "t.csv").unchanged == 2


@pytest.mark.parametrize(
    ("heads", "column", "used"),
    [
        ("album,path", None, "path"),
        ("album,File", None, "File"),
        ("image,filename", None, "filename"),
        ("url,album", None, "url"),
        ("path,mine", "mine", "mine"),
    ],
)
def test_the_column_of_pictures(photos, root, heads, column, used):
    cells = ",".join("00.png" if name == used else "x.y" for name in heads.split(","))
    assert photos.add(table(root / "t.csv", f"{heads}\n{cells}\n"), column=column).added == 1
    assert used not in photos.info().fields or used == "path"


def test_a_column_that_is_not_there_names_those_that_are(photos, root):
    path = table(root / "t.csv", "album,picture\nx,00.png\n")
    with pytest.raises(
        ConfigError, match=r"--column \(column=\) which column names the pictures \(there are: album, pict"
    ):
        photos.add(path)
    with pytest.raises(ConfigError, match="there is no column 'pictures' .did you mean 'picture'"):
        photos.add(path, column="pictures")
    assert not photos._connector.names(timeout=5)
    assert photos.add(path, column="picture").added == 1


def test_ids_may_be_a_column(photos, root):
    path = table(
        root / "t.csv", f"id,path,album\nA-1,00.png,x\n7,01.png,y\n{'x' * 600},02.png,z\n,03.png,w\nA-1,04.png,v\n"
    )
    report = photos.add(path)
    assert set(toys.revs(photos)) == {"A-1", "7", "in/03.png"}
    assert toys.payloads(photos)["A-1"]["album"] == "v", "of the same id the last stands"
    assert "600 bytes" in reasons(report)["t.csv:4"]
    assert "id" not in photos.info().fields


def test_what_pixdex_fills_is_not_taken_from_a_table(photos, root):
    report = photos.add(
        table(root / "t.csv", "file,width,path,_x,my album,\n00.png,9,elsewhere,1,y,z\n"), column="file"
    )
    payload = toys.payloads(photos)["in/00.png"]
    assert (payload["width"], payload["path"], payload["my album"]) == (32, str(root / "00.png"), "y")
    assert [notice for notice in report.notices if "left out" in notice] == [
        "column 'width' is left out: a field of that name is filled by pixdex",
        "column 'path' is left out: a field of that name is filled by pixdex",
        "column '_x' is left out: a field of that name is filled by pixdex",
    ]


def test_fields_of_the_call_are_of_every_picture(photos, root):
    photos.add(table(root / "t.csv", "path,album\n00.png,x\n01.png,y\n"), fields={"album": "all", "n": 1})
    assert {payload["album"] for payload in toys.payloads(photos).values()} == {"all"}
    assert photos.count(F.n == 1) == 2


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_what_spreadsheets_write(photos, root, encoding, mark):
    text = f"path{mark}ort\r\n00.png{mark}Zürich\r\n"
    photos.add(table(root / "t.csv", text.encode(encoding)))
    assert toys.payloads(photos)["in/00.png"]["ort"] == "Zürich"


def test_bytes_that_are_not_utf_8_are_shown_with_escapes(photos, root):
    photos.add(table(root / "t.csv", "path,ort\n00.png,Zürich\n".encode("latin-1")))
    assert toys.payloads(photos)["in/00.png"]["ort"] == r"Z\xfcrich"


def test_addresses_and_headings_that_are_not_utf_8(photos, root):
    rows = b"path,gr\xf6sse\nhttps://example.org/\xe9.png,1\n00.png,2\n"
    report = photos.add(table(root / "t.csv", rows))
    assert report.added == 1
    assert report.quarantined[0].path == r"https://example.org/\xe9.png"
    assert toys.payloads(photos)["in/00.png"][r"gr\xf6sse"] == 2


def test_rows_that_make_no_sense_are_rows_of_the_report(photos, root):
    path = table(root / "t.csv", 'path,album\n00.png,x,y\n,z\n\n01.png\n   ,a\n02.png,"' + "x" * 200_000 + "\n")
    report = photos.add(path)
    assert report.added == 1
    assert reasons(report) == {
        "t.csv:2": "3 cells under 2 columns",
        "t.csv:3": "'path' names no picture",
        "t.csv:6": "'path' names no picture: '   '",
        "t.csv:7": "the table cannot be read further: field larger than field limit (131072)",
    }


def test_text_too_long_for_a_field_is_kept_undeclared(photos, root):
    photos.add(table(root / "t.csv", f"path,story\n00.png,short\n01.png,{'long ' * 4000}\n"))
    assert "story" not in photos.info().fields
    assert len(toys.payloads(photos)["in/01.png"]["story"]) == 20_000


# --- JSON lines -------------------------------------------------------------------------------------


def lines(path: Path, *rows: object) -> Path:
    return table(path, "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))


def test_json_lines_keep_their_types(photos, root):
    report = photos.add(
        lines(
            root / "t.jsonl",
            {"image": "00.png", "year": 2020, "x": 1, "tags": ["a", "b"], "exif": {"iso": 100}, "code": "007", "id": 5},
            {"image": "01.png", "year": None, "x": 2.5, "tags": [], "note": ""},
            {"image": "02.png", "mixed": 1},
            {"image": "03.png", "mixed": "one"},
        )
    )
    assert report.added == 4
    fields = photos.info().fields
    shown = {name: fields.get(name) for name in ("year", "x", "tags", "exif", "code", "mixed", "id")}
    assert shown == {
        "year": "int", "x": "float", "tags": "text[]", "exif": None, "code": "text", "mixed": None, "id": None
    }  # fmt: skip
    payloads = toys.payloads(photos)
    assert payloads["5"]["exif"] == {"iso": 100}
    assert (payloads["in/02.png"]["mixed"], payloads["in/03.png"]["mixed"]) == (1, "one")
    assert "year" not in payloads["in/01.png"]
    assert photos.add(root / "t.jsonl").unchanged == 4


def test_lines_that_are_no_objects_are_rows_of_the_report(photos, root):
    path = lines(root / "t.jsonl", {"path": "00.png"}, "{broken", "[1]", "", {"path": 7}, {"other": 1})
    report = photos.add(path)
    assert report.added == 1
    assert reasons(report)["t.jsonl:2"].startswith("not JSON: ")
    assert reasons(report)["t.jsonl:3"] == "a line is a JSON object, not list"
    assert reasons(report)["t.jsonl:5"] == "'path' names no picture: 7"
    assert reasons(report)["t.jsonl:6"] == "'path' names no picture"


def test_a_value_of_another_kind_than_declared_is_one_row(made, root):
    photos = made(fields={"year": "int"})
    report = photos.add(lines(root / "t.jsonl", {"path": "00.png", "year": "MMXX"}, {"path": "01.png", "year": 2020}))
    assert report.added == 1
    assert "field 'year' is declared int, got str 'MMXX'" in reasons(report)["t.jsonl:1"]


# --- Parquet ----------------------------------------------------------------------------------------


def test_parquet_keeps_its_types(photos, root):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    moment = datetime(2020, 5, 1, 12, tzinfo=UTC)
    rows = {
        "path": [f"0{n}.png" for n in range(4)],
        "year": pa.array([2020, None, 2021, 2022], pa.int32()),
        "rating": [1.5, float("nan"), 2.0, 3.0],
        "tags": [["a"], [], None, ["b", "c"]],
        "when": pa.array([moment] * 4, pa.timestamp("us", tz="UTC")),
        "local": pa.array([datetime(2020, 1, 1)] * 4, pa.timestamp("us")),
        "album": pa.array(["x", "y", "x", None]).dictionary_encode(),
        "blob": [b"x"] * 4,
        "info": [{"iso": 100}] * 4,
    }
    pq.write_table(pa.table(rows), root / "t.parquet")
    report = photos.add(root / "t.parquet")
    assert (report.added, report.quarantined) == (4, ())
    fields = photos.info().fields
    shown = {name: fields.get(name) for name in rows if name != "path"}
    assert shown == {
        "year": "int", "rating": "float", "tags": "text[]", "when": "time", "local": None, "album": "text",
        "blob": None, "info": None,
    }  # fmt: skip
    payload = toys.payloads(photos)["in/00.png"]
    assert (payload["year"], payload["when"], payload["local"]) == (2020, moment, "2020-01-01T00:00:00")
    assert (payload["info"], payload["album"]) == ({"iso": 100}, "x")
    assert "blob" not in payload
    assert "rating" not in toys.payloads(photos)["in/01.png"]
    assert photos.add(root / "t.parquet").unchanged == 4


def test_parquet_may_hold_the_pictures(photos, root):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = [
        {"bytes": toys.png(10), "path": "same.png"},
        {"bytes": toys.png(11), "path": "same.png"},
        {"bytes": None, "path": "00.png"},
        {"bytes": None, "path": None},
        {"bytes": b"no", "path": None},
    ]
    depth = pa.array([{"bytes": b"x", "path": None}] * 5, kind)
    columns = {"image": pa.array(images, kind), "depth": depth, "label": [3, 4, 5, 6, 7]}
    pq.write_table(pa.table(columns), root / "t.parquet")
    report = photos.add(root / "t.parquet")
    assert report.added == 3
    assert {row.path: row.reason for row in report.quarantined} == {
        f"{root}/t.parquet:4": "'image' names no picture: {'bytes': None, 'path': None}",
        "in/t.parquet/5": "not a picture",
    }
    assert set(toys.payloads(photos)) == {"in/t.parquet/1", "in/t.parquet/2", "in/00.png"}
    found = photos.search(toys.png(11), k=1, where=F.label == 4)[0]
    assert (found.id, found.payload["path"]) == ("in/t.parquet/2", f"{root}/t.parquet:2")
    assert "depth" not in found.payload
    assert photos.add(root / "t.parquet").unchanged == 3
    plain = pa.table({"id": [f"p{n}" for n in range(40)], "png": [toys.png(n) for n in range(40)]})
    pq.write_table(plain, root / "plain.parquet")
    with pytest.raises(ConfigError, match=r"say with --column \(column=\) which column"):
        photos.add(root / "plain.parquet")
    report = photos.add(root / "plain.parquet", column="png")
    assert (report.added, report.reused) == (37, 3)
    assert photos.search(toys.png(39), k=1)[0].id == "p39"


def test_a_group_of_too_many_pictures_is_not_read(photos, root, monkeypatch):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(_rows, "_MAX_GROUP", 5_000)
    pages = pa.table({"image": [toys.png(1), toys.png(2), bytes(9_000)]})
    pq.write_table(pages, root / "t.parquet", row_group_size=2)
    report = photos.add(root / "t.parquet")
    assert report.added == 2
    (row,) = report.quarantined
    assert row.path == f"{root}/t.parquet:3"
    assert "bytes of pictures in one row group, the limit is 5000: write smaller ones" in row.reason


def test_a_file_that_is_no_parquet_is_refused(photos, root):
    pytest.importorskip("pyarrow")
    with pytest.raises(ConfigError, match="cannot be read as Parquet"):
        photos.add(table(root / "t.parquet", b"PAR1 no"))
    assert not photos._connector.names(timeout=5)


def test_without_pyarrow_the_extra_is_named(photos, root, monkeypatch):
    import sys

    from pixdex.errors import MissingDependency

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingDependency, match=r'pyarrow is not installed: pip install "pixdex\[parquet\]"'):
        photos.add(table(root / "t.parquet", b"PAR1"))


# --- all of them ------------------------------------------------------------------------------------


def test_a_table_has_no_single_id(photos, root):
    with pytest.raises(ConfigError, match="give one id per picture"):
        photos.add(table(root / "t.csv", "path\n00.png\n"), ids=["a"])


def test_a_picture_called_like_a_table_is_a_picture(photos, root):
    (root / "x.csv").write_bytes(toys.png(30))
    assert photos.add(root / "x.csv").added == 1


def test_tables_in_a_folder_are_other_files(photos, root):
    table(root / "t.csv", "path\n00.png\n")
    report = photos.add(root)
    assert (report.added, report.ignored) == (5, 1)


def test_a_table_that_vanishes_is_one_row(root):
    path = table(root / "t.csv", "path\n00.png\n")
    with Sources() as sources:
        source = sources.of(path)
        path.unlink()
        with pytest.raises(ConfigError, match="cannot be read: No such file"):
            source.check()
        spec = Spec(vectors=(Vector(dim=4, fingerprint=Fingerprint(encoder="none", digest="00" * 8)),))
        (item,) = source.items(spec)
    assert isinstance(item.picture, Refused)
    assert "No such file" in item.picture.reason


def test_addresses_in_a_table_are_fetched_on_request_only(photos, root):
    path = table(root / "t.csv", f"path\nhttps://example.org/a.png\ns3://bucket/b.png\nfile://{root}/00.png\n01.png\n")
    report = photos.add(path)
    assert report.added == 2
    assert {row.path: row.reason for row in report.quarantined} == dict.fromkeys(
        ("https://example.org/a.png", "s3://bucket/b.png"),
        "it is an address, and addresses are fetched with allow_remote only",
    )


def test_a_table_of_an_iterator_is_read_too(photos, root):
    assert photos.add(iter([table(root / "t.csv", "path,album\n00.png,x\n")])).added == 1
