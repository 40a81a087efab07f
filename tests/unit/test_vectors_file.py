"""The file of encoded pictures: what is written is read, and a file is whole or not there."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pixdex import vectors_file
from pixdex.errors import ConfigError, MissingDependency
from pixdex.records_file import RecordsFile
from pixdex.report import Quarantined
from pixdex.spec import Field, Fingerprint, Kind, Spec, TokenSpec, Vector
from pixdex.types import Batch
from pixdex.vectors_file import VectorsFile, Writer, is_vectors

pq = pytest.importorskip("pyarrow.parquet")

FINGERPRINT = Fingerprint(encoder="none", digest="00" * 8, parts={"weights": "11"})
SPEC = Spec(
    vectors=(Vector(dim=4, fingerprint=FINGERPRINT),),
    fields=(Field(name="year", kind=Kind.INT),),
    tokens=TokenSpec(count=3, dim=2, dtype="int8", fingerprint=FINGERPRINT),
    encoder="none:4",
)


def records(count: int, start: int = 0) -> Batch:
    rng = np.random.default_rng(start)
    return Batch(
        tuple(f"r{n}" for n in range(start, start + count)),
        {"image": rng.standard_normal((count, 4)).astype(np.float32)},
        tuple({"year": n, "note": "ä", "_rev": 7} for n in range(start, start + count)),
        tuple(None if n % 3 == 0 else rng.integers(-9, 9, (n % 3, 2)).astype(np.int8) for n in range(count)),
    )


def written(path: Path, *batches: Batch, spec: Spec = SPEC) -> Path:
    with Writer(path, spec) as writer:
        for batch in batches:
            writer.write(batch)
        writer.write_unusable([Quarantined("a.jpg", "not a picture")])
        writer.finish()
    return path


def test_what_is_written_is_read(tmp_path):
    batch = records(10)
    file = VectorsFile.open(written(tmp_path / "v.parquet", batch))
    assert file.spec == SPEC
    assert file.count == 11
    (part,) = file.parts()
    assert part.batch.ids == batch.ids
    assert part.batch.vectors["image"].dtype == np.float32
    assert (part.batch.vectors["image"] == batch.vectors["image"]).all()
    assert part.batch.payloads[3] == {"year": 3, "note": "ä"}, "a revision is of one store"
    for ours, theirs in zip(part.batch.tokens, batch.tokens, strict=True):
        assert (ours is None and theirs is None) or (ours.dtype == np.int8 and (ours == theirs).all())
    assert part.unusable == (Quarantined("a.jpg", "not a picture"),)


def test_tokens_of_bits_are_read_as_they_were_packed(tmp_path):
    spec = replace(SPEC, tokens=TokenSpec(count=3, dim=16, dtype="bits", fingerprint=FINGERPRINT))
    tokens = np.random.default_rng(1).integers(0, 256, (3, 2)).astype(np.uint8)
    batch = replace(records(1), tokens=(tokens,))
    (part,) = VectorsFile.open(written(tmp_path / "v.parquet", batch, spec=spec)).parts()
    assert part.batch.tokens[0].dtype == np.uint8
    assert (part.batch.tokens[0] == tokens).all()


def test_rows_come_in_parts_and_lie_in_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(vectors_file, "_GROUP_ROWS", 1000)
    path = written(tmp_path / "v.parquet", *(records(128, 128 * n) for n in range(20)))
    file = VectorsFile.open(path)
    sizes = [len(part.batch) for part in file.parts(100)]
    assert sum(sizes) == 2560
    assert max(sizes) <= 100
    assert 2 <= pq.ParquetFile(path).num_row_groups <= 4
    ids = [record for part in file.parts(100) for record in part.batch.ids]
    assert ids == [f"r{n}" for n in range(2560)]


def test_the_file_is_plain_parquet_with_the_encoder_in_its_metadata(tmp_path):
    path = written(tmp_path / "v.parquet", records(2))
    table = pq.read_table(path)
    columns = ["id", "vector_image", "year", "payload", "tokens", "tokens_shape", "status", "picture", "reason"]
    assert table.schema.names == columns
    assert str(table.schema.field("vector_image").type).startswith("fixed_size_list<")
    assert table.column("year").to_pylist() == [0, 1, None]
    assert table.column("status").to_pylist() == ["ok", "ok", "unusable"]
    found = pq.read_metadata(path).metadata
    assert found[b"pixdex.encoder"] == b"none:4"
    assert found[b"pixdex.fingerprint"] == FINGERPRINT.digest.encode()
    assert Spec.from_json(found[b"pixdex.spec"]) == SPEC


def test_a_file_of_the_first_version_is_read(tmp_path):
    import pyarrow as pa

    vector = pa.FixedSizeListArray.from_arrays(pa.array([1, 2, 3, 4, 0, 0, 0, 0], pa.float32()), 4)
    table = pa.table(
        {
            "id": ["a", None],
            "vector": pa.array([vector[0].as_py(), None], vector.type),
            "fields": ['{"year":7}', None],
            "tokens": pa.array([bytes([1, 2, 3, 255]), None], pa.binary()),
            "status": ["ok", "unusable"],
            "picture": [None, "b.jpg"],
            "reason": [None, "no"],
        }
    )
    metadata = {"pixdex.version": "1", "pixdex.spec": SPEC.to_json()}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "v.parquet")
    (part,) = VectorsFile.open(tmp_path / "v.parquet").parts()
    assert part.batch.ids == ("a",)
    assert part.batch.vectors["image"].tolist() == [[1, 2, 3, 4]]
    assert part.batch.payloads == ({"year": 7},)
    assert part.batch.tokens[0].tolist() == [[1, 2], [3, -1]]
    assert part.unusable == (Quarantined("b.jpg", "no"),)
    assert RecordsFile(tmp_path / "v.parquet").count("main", None, timeout=None) == 1


def test_every_vector_and_kind_of_field_has_a_column(tmp_path):
    spec = Spec(
        vectors=(*SPEC.vectors, Vector(name="text", dim=2, metric="dot", fingerprint=FINGERPRINT)),
        fields=(
            Field(name="status", kind=Kind.TEXT),
            Field(name="taken", kind=Kind.TIME),
            Field(name="place", kind=Kind.GEO),
            Field(name="tags", kind=Kind.TEXT, many=True),
        ),
    )
    payload = {
        "status": "new",
        "taken": "2024-05-06T07:08:09.000001+00:00",
        "place": {"lat": 1.0, "lon": 2.0},
        "tags": [],
    }
    batch = Batch(
        ("a", "b"),
        {"image": np.ones((2, 4), np.float32), "text": np.ones((2, 2), np.float32)},
        (payload, {}),
        absent={"text": np.array([True, False])},
    )
    path = tmp_path / "v.parquet"
    with Writer(path, spec, unusable=False) as writer:
        writer.write(batch)
        writer.finish()
    table = pq.read_table(path)
    assert table.schema.names == [
        "id",
        "vector_image",
        "vector_text",
        "field_status",
        "taken",
        "place",
        "tags",
        "payload",
    ]
    assert table.column("taken").to_pylist()[0].isoformat() == payload["taken"]
    assert table.column("place").to_pylist() == [{"lat": 1.0, "lon": 2.0}, None]
    assert table.column("vector_text").to_pylist() == [None, [1, 1]]
    (part,) = VectorsFile.open(path).parts()
    assert part.batch.payloads == (payload, {})
    assert part.batch.present("text").tolist() == [False, True]
    assert part.batch.present("image").all()


def test_without_tokens_there_is_no_column_for_them(tmp_path):
    spec = Spec(vectors=SPEC.vectors)
    path = written(tmp_path / "v.parquet", records(2), spec=spec)
    assert "tokens" not in pq.read_schema(path).names
    (part,) = VectorsFile.open(path).parts()
    assert part.batch.tokens is None


def test_an_empty_file_and_one_of_unusable_pictures_can_be_read(tmp_path):
    (part,) = VectorsFile.open(written(tmp_path / "v.parquet")).parts()
    assert len(part.batch) == 0
    assert len(part.unusable) == 1
    with Writer(tmp_path / "none.parquet", SPEC) as writer:
        writer.finish()
    assert list(VectorsFile.open(tmp_path / "none.parquet").parts()) == []


def test_a_file_is_there_when_it_is_whole(tmp_path):
    path = written(tmp_path / "v.parquet", records(3))
    before = path.read_bytes()
    writer = Writer(path, SPEC)
    writer.write(records(2000))
    writer.close()  # as Ctrl-C would
    with Writer(path, SPEC) as writer:
        writer.write(records(2))
        assert path.read_bytes() == before
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_has_the_permissions_of_any_new_file(tmp_path):
    plain = tmp_path / "plain"
    plain.touch()
    assert written(tmp_path / "v.parquet").stat().st_mode == plain.stat().st_mode


def test_a_place_that_cannot_be_written_to_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"v\.parquet cannot be written: No such file or directory"):
        Writer(tmp_path / "none/v.parquet", SPEC)


def test_a_folder_in_its_place_is_told(tmp_path):
    (tmp_path / "v.parquet").mkdir()
    with pytest.raises(ConfigError, match=r"v\.parquet cannot be written: Is a directory"):
        written(tmp_path / "v.parquet", records(1))
    assert [path.name for path in tmp_path.iterdir()] == ["v.parquet"]


def test_other_files_are_told_apart(tmp_path):
    import pyarrow as pa

    pq.write_table(pa.table({"path": ["a.png"]}), tmp_path / "other.parquet")
    (tmp_path / "text.parquet").write_text("no")
    os.mkfifo(tmp_path / "pipe.parquet")
    for name in ("other.parquet", "text.parquet", "none.parquet", "pipe.parquet"):
        assert not is_vectors(tmp_path / name)
        with pytest.raises(ConfigError, match="holds no vectors that pixdex wrote"):
            VectorsFile.open(tmp_path / name)
    assert is_vectors(written(tmp_path / "v.parquet"))
    (tmp_path / "v.parquet").rename(tmp_path / "v.dat")
    assert not is_vectors(tmp_path / "v.dat")


def changed(path: Path, **metadata: str) -> Path:
    table = pq.read_table(path)
    old = {key.decode(): value for key, value in pq.read_metadata(path).metadata.items() if key != b"ARROW:schema"}
    pq.write_table(table.replace_schema_metadata({**old, **metadata}), path)
    return path


def test_a_newer_or_odd_file_is_refused(tmp_path):
    path = written(tmp_path / "v.parquet", records(2))
    with pytest.raises(ConfigError, match="was written by a newer pixdex"):
        VectorsFile.open(changed(path, **{"pixdex.version": "3"}))
    with pytest.raises(ConfigError, match="cannot be read"):
        VectorsFile.open(changed(path, **{"pixdex.version": "2", "pixdex.spec": "[]"}))


def test_a_damaged_file_says_so(tmp_path):
    path = written(tmp_path / "v.parquet", *(records(1000, 1000 * n) for n in range(3)))
    data = bytearray(path.read_bytes())
    data[1000:9000] = bytes(8000)
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"v\.parquet is damaged"):
        list(VectorsFile.open(path).parts())


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "v.parquet").touch()
    for call in (lambda: Writer(tmp_path / "x.parquet", SPEC), lambda: is_vectors(tmp_path / "v.parquet")):
        with pytest.raises(MissingDependency, match=r'pip install "pixdex\[parquet\]"'):
            call()
    assert not is_vectors(tmp_path / "v.jpg")
