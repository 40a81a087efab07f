"""The values that travel between facade, ports and stores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import orjson
import pytest

from pixdex.errors import ConfigError, FingerprintMismatch, StoreFormat
from pixdex.spec import REV, Field, Fingerprint, Foreign, Kind, Metric, Source, Spec, TokenSpec, Vector
from pixdex.types import Batch

PRINT = Fingerprint(encoder="toy", digest="0123456789abcdef")
VECTOR = Vector(dim=4, fingerprint=PRINT)


@pytest.mark.parametrize("digest", ["", "1234567", "ABCDEF01", "xyz" * 4, "0" * 129, "01234567\n"])
def test_digest_is_hexadecimal(digest: str) -> None:
    with pytest.raises(ConfigError, match="digest"):
        Fingerprint(encoder="x", digest=digest)


def test_difference_says_which_part() -> None:
    one = Fingerprint(encoder="a", digest="0" * 8, parts={"weights": "1", "head": "2"})
    assert one.difference(one) == ""
    assert one.difference(Fingerprint(encoder="a", digest="1" * 8, parts={"weights": "1", "head": "3"})) == "head"
    other = Fingerprint(encoder="b", digest="1" * 8, parts={"weights": "1", "head": "2", "config": "4"})
    assert one.difference(other) == "encoder, config"
    assert one.difference(Fingerprint(encoder="a", digest="1" * 8, parts=one.parts)) == "digest"


@pytest.mark.parametrize("name", ["", "1a", "_a", "a-b", "a" * 41, "é", "a b"])
def test_vector_name_is_checked(name: str) -> None:
    with pytest.raises(ConfigError, match="vector name"):
        Vector(name=name, dim=4, fingerprint=PRINT)


def test_vector_needs_a_dimension() -> None:
    with pytest.raises(ConfigError, match="dimension"):
        Vector(dim=0, fingerprint=PRINT)


def test_physical_name_carries_the_fingerprint() -> None:
    assert VECTOR.column.startswith("image_")
    assert VECTOR.column == replace(VECTOR).column
    for other in (replace(VECTOR, dim=5), replace(VECTOR, metric=Metric.L2), replace(VECTOR, dtype="float16")):
        assert other.column != VECTOR.column
    assert VECTOR.column != Vector(dim=4, fingerprint=Fingerprint(encoder="toy", digest="1123456789abcdef")).column


def test_token_bytes() -> None:
    assert TokenSpec(count=3, dim=5, dtype="float16", fingerprint=PRINT).max_bytes == 30
    bits = TokenSpec(count=3, dim=16, dtype="bits", fingerprint=PRINT)
    assert (bits.max_bytes, bits.width, bits.stored_dtype) == (6, 2, "uint8")
    with pytest.raises(ConfigError, match="multiple of 8 values, eight to a byte, not 12"):
        TokenSpec(count=3, dim=12, dtype="bits", fingerprint=PRINT)


def test_spec_needs_a_vector() -> None:
    with pytest.raises(ConfigError, match="at least one vector"):
        Spec(vectors=())


def test_spec_refuses_names_that_stand_twice() -> None:
    with pytest.raises(ConfigError, match="vector 'image' is declared twice"):
        Spec(vectors=(VECTOR, VECTOR))
    with pytest.raises(ConfigError, match="field 'n' is declared twice"):
        Spec(vectors=(VECTOR,), fields=(Field(name="n", kind=Kind.INT), Field(name="n", kind=Kind.TEXT)))


@pytest.mark.parametrize("name", ["", "_rev", "1a", "a-b", "a.b", "a" * 64, "ä", "a\n"])
def test_field_name_is_checked(name: str) -> None:
    with pytest.raises(ConfigError, match="field name"):
        Spec(vectors=(VECTOR,), fields=(Field(name=name, kind=Kind.INT),))


def test_ordinals_follow_the_highest() -> None:
    fields = (Field(name="a", kind=Kind.INT), Field(name="b", kind=Kind.INT, ordinal=7), Field(name="c", kind=Kind.INT))
    spec = Spec(vectors=(VECTOR,), fields=fields)
    columns = [(f.name, f.column.partition("_")[0]) for f in spec.columns]
    assert columns == [("_rev", "f0"), ("a", "f8"), ("b", "f7"), ("c", "f9")]
    assert spec.field("_rev") is REV
    assert spec.field("c") == Field(name="c", kind=Kind.INT, ordinal=9)
    assert spec.field("nonesuch") is None


def test_vector_by_name() -> None:
    spec = Spec(vectors=(VECTOR, Vector(name="text", dim=2, fingerprint=PRINT)))
    assert spec.vector("text").dim == 2
    with pytest.raises(ConfigError, match=r"no vector 'x'.*image, text"):
        spec.vector("x")


@pytest.mark.parametrize(
    "spec",
    [
        Spec(vectors=(VECTOR,)),
        Spec(
            vectors=(VECTOR, Vector(name="t", dim=2, metric=Metric.L2, dtype="float16", fingerprint=PRINT)),
            fields=(Field(name="x", kind=Kind.GEO, many=True),),
            tokens=TokenSpec(count=2, dim=3, fingerprint=PRINT),
            encoder="hf:x",
            sources=(Source(name="a", root="/ä"),),
        ),
        Spec(
            vectors=(replace(VECTOR, stored_as="emb"),),
            fields=(Field(name="a", kind=Kind.INT, stored_as="b c"),),
            layout=Foreign(ids="uuid", key="pk", companion="more"),
        ),
    ],
)
def test_spec_round_trips_as_json(spec: Spec) -> None:
    assert Spec.from_json(spec.to_json()) == spec
    assert Spec.from_json(spec.to_json().encode()) == spec


def test_newer_spec_is_refused() -> None:
    document = {**orjson.loads(Spec(vectors=(VECTOR,)).to_json()), "version": 3}
    with pytest.raises(StoreFormat, match=r"newer pixdex.*pip install"):
        Spec.from_json(orjson.dumps(document))


def test_a_layout_of_before_the_first_release_is_refused() -> None:
    document = {**orjson.loads(Spec(vectors=(VECTOR,)).to_json()), "version": 1}
    with pytest.raises(StoreFormat, match="add its pictures again"):
        Spec.from_json(orjson.dumps(document))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"vectors": []}', '{"vectors": 1}', '{"version": "x"}'])
def test_what_is_no_spec_is_refused(text: str) -> None:
    with pytest.raises((StoreFormat, ConfigError)):
        Spec.from_json(text)


def test_batch_rows() -> None:
    matrix = np.arange(6, dtype=np.float32).reshape(3, 2)
    tokens = (np.ones((1, 1)), None, None)
    batch = Batch(
        ("a", "b", "c"),
        {"v": matrix},
        ({"n": 0}, {"n": 1}, {"n": 2}),
        tokens,
        {"v": np.array([False, True, False])},
        (1, 2, 3),
    )
    assert len(batch) == 3
    assert batch.present("v").tolist() == [True, False, True]
    assert batch.present("w").tolist() == [False, False, False]
    taken = batch.take([2, 0])
    assert taken.ids == ("c", "a")
    assert taken.payloads == ({"n": 2}, {"n": 0})
    assert taken.tokens is not None
    assert taken.tokens[1] is tokens[0]
    assert taken.revs == (3, 1)
    assert taken.present("v").tolist() == [True, True]
    np.testing.assert_array_equal(taken.vectors["v"], matrix[[2, 0]])
    hit = batch.hit(0, 0.5)
    assert (hit.id, hit.score, hit.payload) == ("a", 0.5, {"n": 0})
    assert hit.tokens is tokens[0]
    np.testing.assert_array_equal(hit.vectors["v"], matrix[0])
    assert batch.hit(1, 0.0).vectors is None, "a record that lacks a vector shows none"


def test_bare_batch() -> None:
    bare = Batch(("a", "b"), {"v": np.zeros((2, 1), np.float32)}).take([1])
    assert (bare.ids, bare.payloads, bare.tokens, bare.revs) == (("b",), None, None, None)
    assert bare.present("v").tolist() == [True]
    assert bare.hit(0, 1.0).payload is None


def test_concat_fills_what_a_batch_lacks() -> None:
    one = Batch(("a",), {"v": np.ones((1, 2), np.float32)}, ({"n": 1},))
    two = Batch(("b", "c"), payloads=({}, {}))
    both = Batch.concat([one, two])
    assert both.ids == ("a", "b", "c")
    assert both.payloads == ({"n": 1}, {}, {})
    assert both.tokens is None
    assert both.present("v").tolist() == [True, False, False]
    assert Batch.concat([one]) is one


def test_a_physical_name_of_another_encoder_is_a_mismatch() -> None:
    spec = Spec(vectors=(VECTOR,))
    assert spec.physical(VECTOR.column) is VECTOR
    with pytest.raises(FingerprintMismatch, match="there is no vector 'image_00000000', the collection has image_"):
        spec.physical("image_00000000")
