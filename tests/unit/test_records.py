"""The laws of values: what may be written, in which form it is kept, and what the refusal says."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest

from pixdex._records import check_ids, checked, coerce, conversions, show, with_revs
from pixdex._vectors import checked_vectors
from pixdex.errors import ConfigError, InvalidRecord
from pixdex.spec import Field, Fingerprint, Kind, Metric, Spec, TokenSpec, Vector
from pixdex.types import MAX_INT, Batch

PRINT = Fingerprint(encoder="toy", digest="0123456789abcdef")
FIELDS = (
    *(Field(name=kind.value, kind=kind) for kind in Kind),
    *(Field(name=f"{kind}s", kind=kind, many=True) for kind in Kind),
)


def vector(metric: Metric = Metric.L2, dtype: str = "float32") -> Vector:
    return Vector(dim=3, metric=metric, dtype=dtype, fingerprint=PRINT)


def spec(metric: Metric = Metric.L2, *, tokens: str | None = None) -> Spec:
    text = Vector(name="text", dim=2, metric=metric, fingerprint=PRINT)
    token_spec = None if tokens is None else TokenSpec(count=4, dim=2, dtype=tokens, fingerprint=PRINT)
    return Spec(vectors=(vector(metric), text), fields=FIELDS, tokens=token_spec)


def payload(values: object) -> object:
    """The canonical form of one payload."""
    return checked(Batch(("a",), payloads=(values,)), spec()).payloads[0]


def refused(values: object) -> str:
    with pytest.raises(InvalidRecord) as caught:
        payload(values)
    message = str(caught.value)
    assert message.startswith("record 'a': "), "the message names the record"
    return message


# --- ids --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", ["1", "01", "a/b.jpg", "ü" * 256, "x" * 512, " ", "\n", "'; drop table"])
def test_an_id_is_any_text_of_1_to_512_bytes(record):
    check_ids([record])


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("", "has 0 bytes: ids have 1 to 512 UTF-8 bytes"),
        ("x" * 513, "has 513 bytes"),
        ("ü" * 257, "has 514 bytes"),
        (7, r"ids are text, not int 7: use str\(...\)"),
        (b"a", "ids are text, not bytes"),
        ("\udcff", "is not valid Unicode"),
    ],
)
def test_what_is_no_id_is_refused(record, message):
    with pytest.raises(InvalidRecord, match=message):
        check_ids(["good", record])


def test_an_id_stands_once_in_a_call():
    with pytest.raises(InvalidRecord, match=r"id 'b' stands twice in one call: keep one of them"):
        checked(Batch(("a", "b", "c", "b")), spec())


# --- vectors ----------------------------------------------------------------------------------------


def test_vectors_become_float32_and_the_caller_keeps_his_own():
    given = np.array([[3.0, 0.0, 4.0]])
    result = checked_vectors(given, vector(Metric.COSINE))
    assert result.dtype == np.float32
    assert result.tolist() == [[pytest.approx(0.6), 0.0, pytest.approx(0.8)]]
    assert given.tolist() == [[3.0, 0.0, 4.0]]


@pytest.mark.parametrize("metric", [Metric.DOT, Metric.L2])
def test_only_cosine_vectors_are_normalized(metric):
    assert checked_vectors([[3, 0, 4]], vector(metric)).tolist() == [[3, 0, 4]]
    assert checked_vectors([[0, 0, 0]], vector(metric)).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e30, 3e38])
def test_tiny_and_huge_vectors_have_a_direction(scale):
    result = checked_vectors(np.array([[1.0, 0.0, -1.0]]) * scale, vector(Metric.COSINE))
    assert result[0] == pytest.approx([math.sqrt(0.5), 0, -math.sqrt(0.5)], abs=1e-6)


@pytest.mark.parametrize("values", [[[1, 2, 3], [1]], [["x", "y", "z"]], "abc"])
def test_what_is_no_array_of_numbers_is_refused(values):
    with pytest.raises(InvalidRecord, match="vector 'image' is no array of numbers"):
        checked_vectors(values, vector())


def test_a_number_that_overflows_float32_is_infinite():
    with pytest.raises(InvalidRecord, match="holds NaN or infinity"):
        checked_vectors(np.array([[1e300, 0, 0]]), vector())


def test_one_vector_is_no_matrix_of_as_many_ids():
    with pytest.raises(InvalidRecord, match="3 ids"):
        checked(Batch(("a", "b", "c"), {"image": np.ones(3)}), spec())


def test_one_vector_is_a_batch_of_one():
    assert checked_vectors([1, 2, 3], vector()).shape == (1, 3)


@pytest.mark.parametrize("values", [[[1, 2]], [[1, 2, 3, 4]], [[[1, 2, 3]]], 1.0])
def test_a_vector_of_another_width_is_refused(values):
    with pytest.raises(InvalidRecord, match=r"vector 'image' has 3 dimensions, got an array of shape"):
        checked_vectors(values, vector())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_refused(bad):
    rows = [[1, 2, 3], [1, bad, 3]]
    with pytest.raises(InvalidRecord, match=r"record 'b': vector 'image' holds NaN or infinity"):
        checked(Batch(("a", "b"), {"image": rows}), spec())
    with pytest.raises(InvalidRecord, match=r"query 1: vector 'image' holds NaN or infinity"):
        checked_vectors(rows, vector())


def test_a_zero_vector_has_no_cosine():
    with pytest.raises(InvalidRecord, match=r"record 'a': vector 'image' is zero, which has no cosine"):
        checked(Batch(("a",), {"image": [[0, 0, 0]]}), spec(Metric.COSINE))


def test_absent_rows_mean_nothing_and_become_zeros():
    absent = {"image": np.array([False, True])}
    batch = checked(Batch(("a", "b"), {"image": [[0, 2, 0], [math.nan] * 3]}, absent=absent), spec(Metric.COSINE))
    assert batch.vectors["image"].tolist() == [[0, 1, 0], [0, 0, 0]]
    assert batch.present("image").tolist() == [True, False]


def test_a_mask_without_absent_rows_is_dropped():
    batch = checked(Batch(("a",), {"image": [[1, 2, 3]]}, absent={"image": np.array([False])}), spec())
    assert dict(batch.absent) == {}


def test_float16_vectors_are_rounded_when_written_but_not_in_queries():
    half = vector(dtype="float16")
    assert checked_vectors([[0.1, 1, 2]], half, ids=["a"])[0, 0] == np.float32(np.float16(0.1))
    assert checked_vectors([[0.1, 1, 2]], half)[0, 0] == np.float32(0.1)
    with pytest.raises(InvalidRecord, match=r"record 'a': vector 'image' overflows float16"):
        checked_vectors([[1e5, 1, 2]], half, ids=["a"])


def test_an_unknown_vector_is_refused():
    with pytest.raises(ConfigError, match="no vector 'imgae' in this collection: it has image, text"):
        checked(Batch(("a",), {"imgae": [[1, 2, 3]]}), spec())


@pytest.mark.parametrize(
    ("columns", "what"),
    [
        ({"payloads": ({}, {})}, "2 rows of payloads"),
        ({"tokens": ()}, "0 rows of tokens"),
        ({"vectors": {"image": [[1, 2, 3]] * 3}}, "3 rows of vector 'image'"),
        ({"absent": {"image": np.array([True, False])}}, "2 rows of absent 'image'"),
    ],
)
def test_columns_are_as_long_as_the_ids(columns, what):
    with pytest.raises(InvalidRecord, match=f"1 ids but {what}"):
        checked(Batch(("a",), **columns), spec())


# --- tokens -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int8", "float16", "float32"])
def test_tokens_are_kept_as_they_are_and_may_be_fewer_or_missing(dtype):
    matrix = np.ones((4, 2), dtype=dtype)
    batch = checked(Batch(("a", "b", "c"), tokens=(matrix, matrix[:1], None)), spec(tokens=dtype))
    assert [None if t is None else t.shape for t in batch.tokens] == [(4, 2), (1, 2), None]
    assert batch.tokens[0].dtype == dtype
    assert batch.tokens[0] is not matrix


def test_a_collection_without_tokens_takes_none():
    assert checked(Batch(("a",), tokens=(None,)), spec()).tokens is None
    with pytest.raises(InvalidRecord, match="this collection keeps no tokens: create it with a TokenSpec"):
        checked(Batch(("a",), tokens=(np.ones((1, 2), np.int8),)), spec())


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.ones((5, 2), np.float32), r"tokens are \[1..4, 2\], got an array of shape \(5, 2\)"),
        (np.ones((0, 2), np.float32), r"got an array of shape \(0, 2\)"),
        (np.ones((2, 3), np.float32), r"got an array of shape \(2, 3\)"),
        (np.ones(2, np.float32), r"got an array of shape \(2,\)"),
        (np.ones((2, 2)), "tokens are float32, got float64"),
        (np.full((2, 2), np.nan, np.float32), "tokens hold NaN or infinity"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(matrix, message):
    with pytest.raises(InvalidRecord, match=rf"record 'a': .*{message}"):
        checked(Batch(("a",), tokens=(matrix,)), spec(tokens="float32"))


# --- payloads: what is declared ---------------------------------------------------------------------

NOON = datetime(2020, 5, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("field", "given", "kept"),
    [
        ("text", "ü", "ü"),
        ("text", "", ""),
        ("text", "x" * 8192, "x" * 8192),
        ("text", np.str_("x"), "x"),
        ("int", MAX_INT, MAX_INT),
        ("int", -MAX_INT, -MAX_INT),
        ("int", np.int64(7), 7),
        ("float", 1.5, 1.5),
        ("float", 3, 3),
        ("float", np.float32(0.5), 0.5),
        ("bool", True, True),
        ("bool", np.bool_(False), False),
        ("time", NOON, "2020-05-01T12:00:00.000000+00:00"),
        ("time", "2020-05-01T14:00:00+02:00", "2020-05-01T12:00:00.000000+00:00"),
        ("time", "2020-05-01T12:00:00Z", "2020-05-01T12:00:00.000000+00:00"),
        ("time", NOON.astimezone(timezone(timedelta(hours=-5))), "2020-05-01T12:00:00.000000+00:00"),
        ("geo", (47, 8.5), {"lat": 47.0, "lon": 8.5}),
        ("geo", [-90, 180], {"lat": -90.0, "lon": 180.0}),
        ("geo", {"lon": 8.5, "lat": 47}, {"lat": 47.0, "lon": 8.5}),
        ("texts", ["a", "b"], ["a", "b"]),
        ("texts", ("a",), ["a"]),
        ("ints", [], []),
        ("ints", {5}, [5]),
        ("times", [NOON], ["2020-05-01T12:00:00.000000+00:00"]),
        ("geos", [(1, 2), {"lat": 3, "lon": 4}], [{"lat": 1.0, "lon": 2.0}, {"lat": 3.0, "lon": 4.0}]),
        *((kind.value, None, None) for kind in Kind),
        ("texts", None, None),
    ],
)
def test_a_declared_value_is_kept_in_one_form(field, given, kept):
    result = payload({field: given})[field]
    assert result == kept
    assert type(result) is type(kept)
    assert payload({field: result})[field] == kept, "writing back what was read changes nothing"


def test_a_time_beyond_the_calendar_is_refused():
    late = datetime.max.replace(tzinfo=timezone(timedelta(hours=-3)))
    assert "field 'time'" in refused({"time": late})


def test_a_place_of_numpy_numbers_is_a_place():
    assert payload({"geo": (np.float32(1.5), np.int64(2))})["geo"] == {"lat": 1.5, "lon": 2.0}


def test_minus_zero_is_a_place_like_zero():
    place = payload({"geo": (-0.0, -0.0)})["geo"]
    assert [math.copysign(1, v) for v in place.values()] == [1, 1]


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("text", 1),
        ("text", ["a"]),
        ("text", b"a"),
        ("int", 1.0),
        ("int", "1"),
        ("int", True),
        ("float", "1"),
        ("float", False),
        ("bool", 1),
        ("bool", "true"),
        ("time", 1588334400),
        ("time", 2020.5),
    ],
)
def test_a_value_of_another_kind_is_refused(field, bad):
    assert f"field {field!r} is declared {field}, got {type(bad).__name__}" in refused({field: bad})


@pytest.mark.parametrize("bad", ["a", 5, {"a": 1}])
def test_a_scalar_is_no_list(bad):
    assert "field 'texts' is a list of text, got" in refused({"texts": bad})


def test_a_list_holds_one_kind():
    assert "field 'ints' is declared int, got str 'b'" in refused({"ints": [1, "b"]})
    assert "field 'ints' is declared int, got NoneType" in refused({"ints": [None]})


@pytest.mark.parametrize("number", [MAX_INT + 1, -MAX_INT - 1, 10**30])
@pytest.mark.parametrize("key", ["int", "float", "anything"])
def test_integers_beyond_2_to_the_53_are_refused(key, number):
    assert "is beyond 2^53 - 1: store it as text" in refused({key: number})


@pytest.mark.parametrize("number", [math.nan, math.inf, np.float32("nan")])
@pytest.mark.parametrize("key", ["float", "anything"])
def test_numbers_are_finite(key, number):
    assert "is not a finite number" in refused({key: number})


def test_declared_text_is_at_most_8_kib():
    message = refused({"text": "ü" * 4097})
    assert "field 'text' has 8194 bytes" in message
    assert "longer text belongs into an undeclared key" in message
    assert payload({"story": "ü" * 9000}) == {"story": "ü" * 9000}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (datetime(2020, 5, 1), "has no time zone: add one, such as UTC"),
        ("2020-05-01T12:00:00", "has no time zone"),
        ("2020-05-01", "has no time zone"),
        ("yesterday", "'yesterday' is no ISO 8601 time"),
    ],
)
def test_times_are_aware(value, message):
    assert message in refused({"time": value})


@pytest.mark.parametrize(
    "value",
    [
        (90.001, 0),
        (0, -180.5),
        (math.nan, 0),
        (1,),
        (1, 2, 3),
        ("47", "8"),
        (True, False),
        {"lat": 1},
        {"lat": 1, "lon": 2, "alt": 3},
        {"latitude": 1, "longitude": 2},
        "47,8",
        7,
    ],
)
def test_a_place_lies_on_earth(value):
    assert "latitude in [-90, 90] and longitude in [-180, 180]" in refused({"geo": value})


def test_coerce_is_what_fields_are_compared_by():
    assert coerce(Field(name="when", kind=Kind.TIME), NOON) == "2020-05-01T12:00:00.000000+00:00"


# --- payloads: what is not declared -----------------------------------------------------------------


def test_any_json_is_kept():
    value = {"exif": {"iso": 100, "lens": None, "flash": False, "f": [2.8, ("a", [])]}, "": "", "note": "x\n\0"}
    assert payload(value) == {**value, "exif": {"iso": 100, "lens": None, "flash": False, "f": [2.8, ["a", []]]}}


def test_numpy_scalars_are_plain_values():
    result = payload({"a": np.int32(3), "b": {"c": [np.float64(0.5), np.bool_(True)]}})
    assert result == {"a": 3, "b": {"c": [0.5, True]}}
    assert type(result["a"]) is int


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"x": object()}, "payload 'x' is object, which is not JSON"),
        ({"x": b"raw"}, "payload 'x' is bytes, which is not JSON"),
        ({"x": {1, 2}}, "payload 'x' is set, which is not JSON"),
        ({"x": [NOON]}, "declare it as a time field, or give ISO 8601 text"),
        ({"x": {"y": {7: 1}}}, "payload 'x': key 7 is not text"),
        ({7: 1}, "payload key 7 is not text"),
        ({"_rev": 1}, "payload key '_rev': a leading underscore is reserved, rename it"),
        ({"\udcff": 1}, "a payload key is not valid Unicode"),
        ({"x": "\udcff"}, "payload 'x' is not valid Unicode"),
        ({"x": {"\udcff": 1}}, "payload 'x' is not valid Unicode"),
        ({"text": "\udcff"}, "field 'text' is not valid Unicode"),
        ([("x", 1)], "a payload is a mapping, not list"),
        ("x", "a payload is a mapping, not str"),
    ],
)
def test_what_is_not_json_is_refused(values, message):
    assert message in refused(values)


def test_nesting_has_an_end():
    def nested(depth: int) -> object:
        value: object = 1
        for level in range(depth):
            value = [value] if level % 2 else {"deeper": value}
        return value

    assert payload({"x": nested(50)}) == {"x": nested(50)}
    assert "payload 'x' nests deeper than 50 levels" in refused({"x": nested(60)})
    assert "nests deeper" in refused({"x": nested(5000)})


def test_nothing_is_shared_with_the_caller():
    given = {"tags": ["a"], "texts": ["b"], "note": {"x": 1}, "deep": {"x": [1]}}
    kept = payload(given)
    given["tags"].append("later")
    given["texts"].append("later")
    given["note"]["x"] = 2
    given["deep"]["x"].append(2)
    assert kept == {"tags": ["a"], "texts": ["b"], "note": {"x": 1}, "deep": {"x": [1]}}


def test_records_that_are_alike_are_kept_as_each_by_itself():
    moment = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
    alike = [
        {"time": moment + timedelta(hours=n), "texts": ["a", "b"][:n], "note": {"n": n}, "list": [1.5] * n}
        for n in range(3)
    ]
    other = {"time": "2026-05-04T05:02:01+02:00", "texts": ("a",), "note": {"n": None}, "list": [1, "x"]}
    one_by_one = tuple(map(payload, [*alike, other]))
    assert one_by_one[0]["time"] == one_by_one[3]["time"] == "2026-05-04T03:02:01.000000+00:00"
    for payloads in (alike, [*alike, other]):
        ids = tuple(map(str, range(len(payloads))))
        assert checked(Batch(ids, payloads=tuple(payloads)), spec()).payloads == one_by_one[: len(payloads)]


@pytest.mark.parametrize(
    "wrong", [{"texts": ["b", None]}, {"texts": [1]}, {"ints": [2**60]}, {"x": {"y": math.nan}}, {"x": [{1}]}]
)
def test_of_records_that_are_alike_the_wrong_one_is_named(wrong):
    right = {"texts": ["a"], "ints": [1], "x": {"y": 1.0}}
    with pytest.raises(InvalidRecord, match="record 'b'"):
        checked(Batch(("a", "b"), payloads=(right, {**right, **wrong})), spec())


def test_records_without_payload_get_an_empty_one():
    assert checked(Batch(("a", "b")), spec()).payloads == ({}, {})


# --- the way back -----------------------------------------------------------------------------------


def test_users_see_times_as_datetimes_and_no_revision():
    stored = checked(Batch(("a",), payloads=({"time": NOON, "times": [NOON], "x": 1},)), spec())
    with_rev = with_revs(stored, 5).payloads[0]
    assert with_rev["_rev"] == 5
    payloads = [with_rev, {"time": None, "_rev": 1, "times": []}]
    show(payloads, conversions(spec()))
    assert payloads == [{"time": NOON, "times": [NOON], "x": 1}, {"time": None, "times": []}]


def test_revisions_count_up():
    batch = with_revs(Batch(("a", "b"), payloads=({"n": 1}, {})), 100)
    assert batch.payloads == ({"n": 1, "_rev": 100}, {"_rev": 101})
    assert with_revs(Batch(()), 100).payloads == ()


def test_a_vector_is_stored_the_same_whoever_else_is_in_the_batch():
    ids = [str(row) for row in range(51)]
    exact = np.random.default_rng(5).standard_normal((50, 3))
    exact *= (1 + 8e-8) / np.linalg.norm(exact, axis=1, keepdims=True)  # as good as float32 gets it, or nearly
    units = checked_vectors(exact, vector(Metric.COSINE), ids=ids[:50])
    with_other = checked_vectors(np.concatenate([units, [[0, 3, 4]]]), vector(Metric.COSINE), ids=ids)
    assert with_other[:50].tobytes() == units.tobytes()
    assert with_other[50] == pytest.approx([0, 0.6, 0.8])


def test_complex_vectors_are_refused():
    with pytest.raises(InvalidRecord, match="complex"):
        checked_vectors(np.ones((1, 3), dtype=complex), vector())


def test_absent_may_be_a_list_and_names_a_vector_that_exists():
    batch = Batch(("a", "b"), {"image": np.ones((2, 3))}, absent={"image": [True, False]})
    assert checked(batch, spec()).present("image").tolist() == [False, True]
    with pytest.raises(ConfigError, match="no vector 'other'"):
        checked(Batch(("a",), {}, absent={"other": np.array([True])}), spec())
