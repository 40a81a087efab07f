"""A Parquet file behind the port: written in parts, whole or not there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pixdex.errors import AlreadyExists, ConfigError, NotFound, StoreFormat, StoreFull, Unsupported
from pixdex.spec import Fingerprint, Spec, Vector
from pixdex.types import Batch, Scan, Want

pytest.importorskip("pyarrow")

from pixdex.records_file import RecordsFile, is_file

SPEC = Spec(vectors=(Vector(dim=2, fingerprint=Fingerprint(encoder="none", digest="00" * 8)),))
COLUMN = SPEC.vectors[0].column
WANT = Want(vectors=(COLUMN,))


def batch(**records: int) -> Batch:
    vectors = np.array([[n, 1] for n in records.values()], np.float32)
    return Batch(tuple(records), {COLUMN: vectors}, tuple({"n": n, "_rev": 1} for n in records.values()))


@pytest.fixture
def file(tmp_path: Path) -> RecordsFile:
    store = RecordsFile(tmp_path / "x.parquet")
    store.create("main", SPEC, timeout=None)
    return store


def held(store: RecordsFile, size: int = 100) -> dict[str, int]:
    found, after = {}, None
    while True:
        page = store.scan("main", Scan(size=size, after=after, want=WANT), timeout=None)
        for record, payload, vector in zip(
            page.batch.ids, page.batch.payloads, page.batch.vectors[COLUMN], strict=True
        ):
            assert record not in found
            assert payload == {"n": vector[0]}
            found[record] = payload["n"]
        after = page.after
        if after is None:
            return found


def test_what_is_written_last_counts_before_and_after_it_is_one_file(file, tmp_path):
    file.upsert("main", batch(a=1, b=2, c=3), timeout=None)
    file.upsert("main", batch(b=5, d=4), timeout=None)
    file.delete("main", ["c", "none"], timeout=None)
    expected = {"a": 1, "b": 5, "d": 4}
    assert held(file, 1) == held(file) == expected
    assert not (tmp_path / "x.parquet").exists()
    for store in (file, RecordsFile(tmp_path / "x.parquet")):
        store.settle("main", timeout=None)
        assert held(store, 2) == expected
        assert store.count("main", None, timeout=None) == 3
        assert store.fetch("main", ["d", "c", "b"], want=WANT, timeout=None).vectors[COLUMN].tolist() == [
            [5, 1],
            [4, 1],
        ]
    assert [path.name for path in tmp_path.iterdir()] == ["x.parquet"]
    file.upsert("main", batch(c=9), timeout=None)
    file.delete("main", ["a"], timeout=None)
    assert held(RecordsFile(tmp_path / "x.parquet")) == {"b": 5, "d": 4, "c": 9}
    file.settle("main", timeout=None)
    assert held(file) == {"b": 5, "d": 4, "c": 9}


def test_killed_between_the_file_and_its_parts_it_is_the_same(file, tmp_path):
    import shutil

    file.upsert("main", batch(a=1, b=2), timeout=None)
    shutil.copytree(tmp_path / "x.parquet.partial", tmp_path / "kept")
    file.settle("main", timeout=None)
    (tmp_path / "kept").rename(tmp_path / "x.parquet.partial")
    assert held(RecordsFile(tmp_path / "x.parquet")) == {"a": 1, "b": 2}


def test_killed_while_the_parts_are_removed_nothing_older_counts_again(file, tmp_path, monkeypatch):
    from pixdex import records_file

    file.upsert("main", batch(a=1, b=2), timeout=None)
    file.upsert("main", batch(b=5), timeout=None)
    file.delete("main", ["a"], timeout=None)

    def removed_from_the_end(folder: Path, **options: object) -> None:
        if folder.exists():
            for path in sorted(folder.glob("[0-9]*"))[1:]:
                path.unlink()
            raise KeyboardInterrupt

    monkeypatch.setattr(records_file.shutil, "rmtree", removed_from_the_end)
    with pytest.raises(KeyboardInterrupt):
        file.settle("main", timeout=None)
    monkeypatch.undo()
    again = RecordsFile(tmp_path / "x.parquet")
    assert held(again) == {"b": 5}
    again.upsert("main", batch(c=1), timeout=None)
    again.settle("main", timeout=None)
    assert [path.name for path in tmp_path.iterdir()] == ["x.parquet"]


def test_what_encode_left_unfinished_beside_a_file_is_not_touched(file, tmp_path):
    file.upsert("main", batch(a=1), timeout=None)
    file.settle("main", timeout=None)
    (tmp_path / "x.parquet.partial/store").mkdir(parents=True)
    file.settle("main", timeout=None)
    with pytest.raises(ConfigError, match="is not what an unfinished copy leaves"):
        file.upsert("main", batch(b=2), timeout=None)
    assert (tmp_path / "x.parquet.partial/store").is_dir()
    assert held(file) == {"a": 1}


def test_a_file_that_cannot_be_put_in_its_place_is_told(file, tmp_path):
    file.upsert("main", batch(a=1), timeout=None)
    (tmp_path / "x.parquet").mkdir()
    with pytest.raises(StoreFull, match=r"x\.parquet cannot be written: Is a directory"):
        file.settle("main", timeout=None)


@pytest.mark.parametrize("payload", ['{"n"', None, "[1]"])
def test_a_damaged_payload_is_told(file, tmp_path, payload):
    import pyarrow as pa
    from pyarrow import parquet

    file.upsert("main", batch(a=1, b=2), timeout=None)
    file.settle("main", timeout=None)
    path = tmp_path / "x.parquet"
    with parquet.ParquetFile(path) as opened:
        table = opened.read().replace_schema_metadata(opened.metadata.metadata)
    at = table.schema.names.index("payload")
    parquet.write_table(table.set_column(at, table.schema.field(at), pa.array(['{"n": 1}', payload])), path)
    store = RecordsFile(path)
    with pytest.raises(ConfigError, match=r"x\.parquet is damaged"):
        held(store)
    assert "is damaged" in store.verify("main", timeout=None)[0].what


@pytest.mark.parametrize("status", [None, "ok", "unusable"])
def test_a_record_without_an_id_is_told_and_a_picture_that_could_not_be_used_has_none(file, tmp_path, status):
    import pyarrow as pa
    from pyarrow import parquet

    file.upsert("main", batch(a=1, b=2, c=3), timeout=None)
    file.settle("main", timeout=None)
    path = tmp_path / "x.parquet"
    with parquet.ParquetFile(path) as opened:
        table = opened.read().replace_schema_metadata(opened.metadata.metadata)
    ids = pa.array([None if record == "b" else record for record in table.column("id").to_pylist()])
    table = table.set_column(0, "id", ids)
    if status is not None:
        said = ["ok" if record.is_valid else status for record in ids]
        table = table.append_column("status", pa.array(said))
    parquet.write_table(table, path)
    store = RecordsFile(path)
    if status == "unusable":
        assert held(store) == {"a": 1, "c": 3}
        return
    with pytest.raises(
        ConfigError, match=r"x\.parquet: row 1, the first being 0, has no id: give it one, or leave it out"
    ):
        store.count("main", None, timeout=None)


def test_records_are_added_to_what_encode_wrote(tmp_path):
    from pixdex.report import Quarantined
    from pixdex.vectors_file import Writer

    path = tmp_path / "x.parquet"
    with Writer(path, SPEC) as writer:
        writer.write(Batch(("a", "b"), {"image": np.array([[1, 1], [2, 1]], np.float32)}, ({"n": 1}, {"n": 2})))
        writer.write_unusable([Quarantined("c.jpg", "is no picture")])
        writer.finish()
    store = RecordsFile(path)
    store.upsert("main", batch(b=5, d=4), timeout=None)
    store.settle("main", timeout=None)
    assert held(RecordsFile(path)) == {"a": 1, "b": 5, "d": 4}


def test_an_empty_collection_is_a_file_too(file, tmp_path):
    assert held(file) == {}
    file.settle("main", timeout=None)
    assert held(RecordsFile(tmp_path / "x.parquet")) == {}
    assert RecordsFile(tmp_path / "x.parquet").describe("main", timeout=None) == SPEC


def test_what_is_there_is_not_replaced(file, tmp_path):
    for _ in range(2):
        with pytest.raises(AlreadyExists):
            RecordsFile(tmp_path / "x.parquet").create("main", SPEC, timeout=None)
        file.settle("main", timeout=None)
    (tmp_path / "y.parquet.partial").mkdir()
    (tmp_path / "y.parquet.partial/store").mkdir()
    with pytest.raises(ConfigError, match="is not what an unfinished copy leaves"):
        RecordsFile(tmp_path / "y.parquet").create("main", SPEC, timeout=None)


def test_what_is_no_such_file_is_told(tmp_path):
    store = RecordsFile(tmp_path / "x.parquet")
    with pytest.raises(NotFound, match="there is no file"):
        store.describe("main", timeout=None)
    with pytest.raises(NotFound):
        store.count("main", None, timeout=None)
    with pytest.raises(ConfigError, match=r"none/x\.parquet cannot be written: No such file or directory"):
        RecordsFile(tmp_path / "none/x.parquet").create("main", SPEC, timeout=None)
    (tmp_path / "x.parquet").write_text("no")
    with pytest.raises(StoreFormat, match="holds no vectors that pixdex wrote"):
        store.describe("main", timeout=None)
    with pytest.raises(Unsupported, match="no aliases"):
        store.alias("a", "main", timeout=None)
    assert is_file("a/b.parquet")
    assert not is_file("pq://b.parquet")
    assert not is_file("b.pix")
