"""What is Milvus' own: opening, names, the layout, literals, translated errors."""

from __future__ import annotations

import errno
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pymilvus")
pytest.importorskip("milvus_lite")

import grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from milvus_lite.exceptions import DataDirLockedError, ManifestCorruptedError
from milvus_lite.search.filter.tokens import tokenize
from pymilvus import MilvusException
from pymilvus.client.grpc_handler import GrpcHandler

from pixdex import errors, filters
from pixdex.connectors import _milvus_rows, connect, milvus
from pixdex.connectors._milvus_errors import translated
from pixdex.connectors._milvus_filters import MAX_DEPTH, literal, to_expression
from pixdex.filters import F
from pixdex.spec import Field, Fingerprint, Kind, Metric, Source, Spec, TokenSpec, Vector
from pixdex.types import Batch, Scan, Search, Want

PRINT = Fingerprint(encoder="e", digest="3fa9c1d2")
SPEC = Spec(
    vectors=(
        Vector(dim=2, metric=Metric.L2, fingerprint=PRINT),
        Vector(name="words", dim=2, metric=Metric.DOT, fingerprint=PRINT),
    ),
    fields=(
        Field(name="text", kind=Kind.TEXT),
        Field(name="n", kind=Kind.INT),
        Field(name="x", kind=Kind.FLOAT),
        Field(name="tags", kind=Kind.TEXT, many=True),
        Field(name="spot", kind=Kind.GEO),
        Field(name="spots", kind=Kind.GEO, many=True),
    ),
    tokens=TokenSpec(count=3, dim=32_000, fingerprint=PRINT),
)
IMAGE, WORDS = (vector.column for vector in SPEC.vectors)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["", "\x00", "'", '"', "\\", "a\\", "\n", "\r\n", "\t", "null", '" or id != "', "e\u0301", "é", "😀", "%", "\u2028"]
)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"milvus+lite://{tmp_path_factory.mktemp('milvus')}/store"


@pytest.fixture
def store(url: str) -> Iterator[milvus.Milvus]:
    connector, name = connect(url)
    assert isinstance(connector, milvus.Milvus)
    connector.drop(name, timeout=None)
    connector.create(name, SPEC, timeout=None)
    yield connector
    connector.close()


def put(store: milvus.Milvus, **payloads: dict[str, object]) -> None:
    vectors = {IMAGE: np.ones((len(payloads), 2), np.float32)}
    store.upsert("main", Batch(tuple(payloads), vectors, tuple(payloads.values())), timeout=None)


def found(store: milvus.Milvus, where: filters.Filter) -> set[str]:
    page = store.scan("main", Scan(size=1000, where=filters.bind(where, SPEC)), timeout=None)
    return set(page.batch.ids)


# --- opening ---


def test_an_unknown_option_is_refused(url: str) -> None:
    with pytest.raises(errors.ConfigError, match="indx"):
        connect(f"{url}?indx=1")


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "old.db").write_text("a database of Milvus Lite 2")
    with pytest.raises(errors.StoreFormat, match="no Milvus Lite 3 directory"):
        connect(f"milvus+lite://{tmp_path}/old.db")


def test_another_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("hello")
    with pytest.raises(errors.StoreFormat):
        connect(f"milvus+lite://{tmp_path}")
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


OPEN = """
import sys
from pixdex.connectors import connect
from pixdex.errors import StoreLocked
try:
    store, name = connect(sys.argv[1])
    print(store.count(name, None, timeout=None))
except StoreLocked as error:
    print("locked", error.__cause__ is not None)
"""


def in_another_process(url: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "-c", OPEN, url], capture_output=True, text=True, check=True)
    assert done.stderr == ""  # also when nobody closes it
    return done.stdout.strip()


def test_one_process_holds_it(store: milvus.Milvus, url: str) -> None:
    put(store, a={"_rev": 1})
    assert in_another_process(url) == "locked True"
    store.close()
    assert in_another_process(url) == "1"


def test_connectors_of_a_process_share_it(store: milvus.Milvus, url: str) -> None:
    put(store, a={"_rev": 1})
    other, _ = connect(url)
    store.close()
    store.close()
    with pytest.raises(errors.StoreError, match="closed"):
        store.names(timeout=None)
    assert other.count("main", None, timeout=None) == 1
    other.close()


def test_a_collection_is_loaded_when_it_is_read_first(store: milvus.Milvus, url: str) -> None:
    put(store, a={"_rev": 1})
    store.flush("main", timeout=None)
    store.close()
    again, name = connect(url)
    request = Search(queries=np.ones((1, 2), np.float32), k=1, using=IMAGE)
    assert [hit.id for hit in again.search(name, request, timeout=None)[0]] == ["a"]
    again.close()


def test_a_missing_client_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['pymilvus'] = None\n"
        "from pixdex.connectors import connect\n"
        "try: connect('milvus+lite://x')\n"
        "except ImportError as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == 'MissingDependency pymilvus is not installed: pip install "pixdex[milvus]"'


def test_a_collection_of_another_tool(store: milvus.Milvus) -> None:
    with store._calling() as held:
        held.client.create_collection("theirs", dimension=2)
    assert "theirs" in store.names(timeout=None)
    with pytest.raises(errors.StoreFormat, match="not made by pixdex"):
        store.describe("theirs", timeout=None)
    store.drop("theirs", timeout=None)


def test_reading_makes_nothing(tmp_path: Path) -> None:
    store, name = connect(f"milvus+lite://{tmp_path}/typo")
    where = filters.bind(F.text == "x", SPEC)
    search = Search(queries=np.ones((1, 2), np.float32), k=1, using=IMAGE)
    for call in (
        lambda: store.describe(name, timeout=None),
        lambda: store.count(name, None, timeout=None),
        lambda: store.scan(name, Scan(size=1), timeout=None),
        lambda: store.search(name, search, timeout=None),
        lambda: store.fetch(name, ["a"], want=Want(), timeout=None),
        lambda: store.delete(name, ["a"], timeout=None),
        lambda: store.delete_where(name, where, timeout=None),
        lambda: store.upsert(name, Batch(("a",), {}, ({},)), timeout=None),
        lambda: store.alter(name, SPEC, timeout=None),
        lambda: store.flush(name, timeout=None),
        lambda: store.alias("live", name, timeout=None),
    ):
        with pytest.raises(errors.NotFound):
            call()
    store.drop(name, timeout=None)
    store.alias("live", None, timeout=None)
    assert list(store.names(timeout=None)) == []
    assert store.aliases(timeout=None) == {}
    assert list(tmp_path.iterdir()) == []
    store.close()
    with pytest.raises(errors.StoreError, match="closed"):
        store.names(timeout=None)


def test_a_store_is_seen_once_it_is_made(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()  # as good as none
    (early, name), (maker, _) = (connect(f"milvus+lite://{tmp_path}/store") for _ in range(2))
    assert list((tmp_path / "store").iterdir()) == []
    maker.create(name, SPEC, timeout=None)
    assert list(early.names(timeout=None)) == [name]
    maker.close()
    assert early.count(name, None, timeout=None) == 0
    early.close()


# --- handles that went stale ---


def moved(*fields: Field) -> Spec:
    return Spec(vectors=SPEC.vectors, fields=fields)


def test_a_filter_of_another_collection_is_refused(store: milvus.Milvus) -> None:
    old = moved(Field(name="year", kind=Kind.INT), Field(name="n", kind=Kind.INT))
    new = moved(Field(name="n", kind=Kind.INT), Field(name="year", kind=Kind.INT))
    for name, spec in (("old", old), ("new", new)):
        store.drop(name, timeout=None)
        store.create(name, spec, timeout=None)
    store.upsert("new", Batch(("a",), {}, ({"_rev": 1, "n": 7, "year": 2020},)), timeout=None)
    where = filters.bind(F.year == 7, old)
    queries = np.ones((1, 2), np.float32)
    store.alias("live", "new", timeout=None)
    for call in (
        lambda: store.count("live", where, timeout=None),
        lambda: store.scan("live", Scan(size=9, where=where), timeout=None),
        lambda: store.search("live", Search(queries=queries, k=1, using=IMAGE, where=where), timeout=None),
        lambda: store.delete_where("live", where, timeout=None),
    ):
        with pytest.raises(errors.FingerprintMismatch, match="year"):
            call()
    assert store.count("live", filters.bind(F.year == 2020, new), timeout=None) == 1
    for name in ("old", "new"):
        store.drop(name, timeout=None)


def test_a_value_of_the_wrong_kind_leaves_the_batch_unwritten(store: milvus.Milvus) -> None:
    with pytest.raises(errors.InvalidRecord, match="'text'"):
        put(store, a={"text": "fine"}, b={"text": 1})
    assert store.count("main", None, timeout=None) == 0


# --- names ---


@given(st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,120}", fullmatch=True))
def test_names_are_coded_both_ways(name: str) -> None:
    physical = _milvus_rows.physical(name)
    assert physical.replace("_", "a").isalnum()
    assert physical.isascii()
    assert not physical[0].isdigit()
    assert _milvus_rows.logical(physical) == name


def test_plain_names_stay_and_marked_ones_do_not_clash() -> None:
    assert _milvus_rows.physical("my_photos") == "my_photos"
    assert _milvus_rows.physical("a-b") == "px_a_mb"
    assert _milvus_rows.physical("px_a_mb") == "px_px__a__mb"


def test_a_name_too_long_to_code() -> None:
    with pytest.raises(errors.ConfigError, match="too long"):
        _milvus_rows.physical("a" + "-" * 127)


def test_an_alias_is_no_name_to_drop(store: milvus.Milvus) -> None:
    put(store, a={"_rev": 1})
    store.alias("live.1", "main", timeout=None)
    store.drop("live.1", timeout=None)
    assert store.count("live.1", None, timeout=None) == 1
    assert store.aliases(timeout=None) == {"live.1": "main"}


# --- the layout ---


def test_a_spec_of_any_size_survives(store: milvus.Milvus, url: str) -> None:
    large = Spec(
        vectors=SPEC.vectors,
        fields=SPEC.fields,
        tokens=SPEC.tokens,
        sources=tuple(Source(name=f"n{i}", root='/é"\\\n' * 1000) for i in range(20)),
    )
    store.alter("main", large, timeout=None)
    store.close()
    again, name = connect(url)
    assert again.describe(name, timeout=None) == large
    again.close()


def test_more_fields_are_refused_with_the_remedy(store: milvus.Milvus) -> None:
    more = Spec(vectors=SPEC.vectors, fields=(*SPEC.fields, Field(name="y", kind=Kind.INT)), tokens=SPEC.tokens)
    with pytest.raises(errors.Unsupported, match="copy the records"):
        store.alter("main", more, timeout=None)


@pytest.mark.parametrize("rows", [0, 1, 2, 3])
def test_tokens_are_cut_to_columns(store: milvus.Milvus, rows: int) -> None:
    tokens = np.random.default_rng(0).integers(-128, 127, (rows, 32_000)).astype(np.int8)
    store.upsert("main", Batch(("a", "b"), {}, ({"_rev": 1}, {"_rev": 2}), (tokens, None)), timeout=None)
    back = store.fetch("main", ["a", "b"], want=Want(tokens=True), timeout=None)
    held = dict(zip(back.ids, back.tokens or (), strict=True))
    np.testing.assert_array_equal(held["a"], tokens)
    assert held["b"] is None
    assert store.fetch("main", ["a"], want=Want(), timeout=None).tokens is None


def test_the_widest_tokens_fit_their_columns() -> None:
    widest = TokenSpec(count=1, dim=milvus.LITE.max_token_bytes, fingerprint=PRINT)
    spec = Spec(vectors=SPEC.vectors, tokens=widest)
    tokens = np.ones((1, widest.dim), np.int8)
    layout = _milvus_rows.Layout(spec, _milvus_rows.Table())
    cells = {column: values[0] for column, values in layout.cells(Batch(("a",), {}, ({},), (tokens,))).items()}
    chunks = [text for column, text in cells.items() if column in {f"t{i}" for i in range(100)}]
    assert len(chunks) == 8
    assert max(map(len, chunks)) <= _milvus_rows.MAX_VARCHAR
    read = {column: str(text) for column, text in cells.items() if isinstance(text, str)}  # as the client gives it
    np.testing.assert_array_equal(layout.row(read, (), Want(tokens=True)).tokens, tokens)


def test_a_client_that_takes_no_columns_gets_rows(store: milvus.Milvus, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = np.arange(64_000, dtype=np.int8).reshape(2, 32_000)
    payload = {"_rev": 5, "text": "é", "n": 3, "x": 0.1, "tags": ["a", "b"], "spot": {"lat": 1.5, "lon": 2.5}}

    def written(record: str) -> Batch:
        vectors = {IMAGE: np.array([[0.1, 0.2]], np.float32)}
        store.upsert("main", Batch((record,), vectors, (payload,), (tokens,)), timeout=None)
        return store.fetch("main", [record], want=Want(vectors=(IMAGE, WORDS), tokens=True), timeout=None)

    columns = written("c")
    monkeypatch.delattr(GrpcHandler, "upsert")
    rows = written("r")
    assert columns.payloads == rows.payloads == (payload,)
    np.testing.assert_array_equal(columns.vectors[IMAGE], rows.vectors[IMAGE])
    assert list(columns.present(WORDS)) == list(rows.present(WORDS)) == [False]
    np.testing.assert_array_equal((columns.tokens or ())[0], (rows.tokens or ())[0])
    where = filters.bind((F.x == 0.1) & F.tags.contains("b") & (F.n == 3), SPEC)
    assert store.count("main", where, timeout=None) == 2


def test_a_page_shows_what_is_there_when_it_is_read(store: milvus.Milvus) -> None:
    put(store, **{name: {"_rev": 1} for name in "abcdfgh"})
    want, seen, after = Want(vectors=(IMAGE,)), [], None
    while True:
        page = store.scan("main", Scan(size=2, after=after, want=want), timeout=None)
        seen.append("".join(page.batch.ids))
        after = page.after
        if after is None:
            break
        if after == "d":  # the ids behind it are known by now
            put(store, e={"_rev": 2})
            store.delete("main", ["g"], timeout=None)
    assert "".join(seen) == "abcdefh"
    assert [len(ids) for ids in seen[:-1]] == [2] * (len(seen) - 1)


def test_too_many_items_are_refused_before_the_store(store: milvus.Milvus) -> None:
    with pytest.raises(errors.InvalidRecord, match="'tags' has 4097 items"):
        put(store, a={"tags": ["x"] * 4097})
    put(store, a={"tags": ["x"] * 4096})
    assert found(store, F.tags.contains("x")) == {"a"}


def test_a_vector_that_is_absent_is_never_found(store: milvus.Milvus) -> None:
    put(store, a={"_rev": 1})
    request = Search(queries=np.zeros((1, 2), np.float32), k=9, using=WORDS, want=Want(vectors=(IMAGE, WORDS)))
    assert list(store.search("main", request, timeout=None)[0]) == []
    hit = store.search("main", Search(queries=request.queries, k=9, using=IMAGE, want=request.want), timeout=None)[0][0]
    assert hit.vectors is not None
    assert list(hit.vectors) == [IMAGE]
    lacking = Search(queries=request.queries, k=9, using=IMAGE, want=Want(vectors=(WORDS,)))
    assert store.search("main", lacking, timeout=None)[0][0].vectors is None
    assert hit.score == pytest.approx(-2.0)


# --- expressions ---


@given(TEXT)
def test_a_text_literal_is_one_token(text: str) -> None:
    first, end = tokenize(literal(text))
    assert first.value == text
    assert end.text == ""


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=0.0) | st.integers(0, 2**63 - 1))
def test_a_number_literal_is_one_token(number: float) -> None:
    first, _ = tokenize(literal(number))
    assert first.value == number
    assert type(first.value) is type(number)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(TEXT, min_size=1, max_size=8))
def test_a_text_equals_itself_only(store: milvus.Milvus, texts: set[str]) -> None:
    store.delete_where("main", filters.TRUE, timeout=None)
    put(store, **{f"{i}": {"text": text, "tags": [text, "~"]} for i, text in enumerate(texts)})
    for i, text in enumerate(texts):
        assert found(store, F.text == text) == {f"{i}"}
        assert found(store, F.tags.contains(text)) == ({f"{i}"} if text != "~" else set(map(str, range(len(texts)))))


@pytest.mark.parametrize("number", [0.0, 5e-324, 1.7976931348623157e308, -1e22, 0.1, 2.0**53])
def test_a_float_is_found_by_its_last_bit(store: milvus.Milvus, number: float) -> None:
    put(store, a={"x": number}, b={"x": float(np.nextafter(number, 0.0)) if number else 1e-300}, c={})
    assert found(store, F.x == number) == {"a"}
    assert found(store, F.x != number) == {"b", "c"}


def test_user_names_stay_outside() -> None:
    spec = Spec(vectors=SPEC.vectors, fields=(Field(name="like", kind=Kind.INT), Field(name="in", kind=Kind.INT)))
    where = filters.bind((F["like"] == 1) | ~(F["in"] < 2), spec)
    first, second = (field.column for field in spec.fields)
    assert to_expression(where) == (
        f"((h{first[1:]} == true and {first} == 1) or (not (h{second[1:]} == true and {second} <= 1)))"
    )


def test_constants() -> None:
    assert to_expression(filters.TRUE) == '(id != "")'
    assert to_expression(filters.FALSE) == '(id == "")'


@pytest.mark.parametrize("node", [filters.Or, filters.And])
def test_a_filter_may_be_wide(store: milvus.Milvus, node: type[filters.Filter]) -> None:
    put(store, a={"n": 7}, b={"n": 9999}, c={})
    wide = node(tuple(F.n == i for i in range(2000)))
    assert found(store, wide) == ({"a"} if node is filters.Or else set())
    assert found(store, ~wide) == ({"b", "c"} if node is filters.Or else {"a", "b", "c"})


def test_nesting_is_limited_before_the_store(store: milvus.Milvus) -> None:
    put(store, a={"n": 1})
    where: filters.Filter = F.n != 1
    for level in range(MAX_DEPTH - 1):
        where = where | (F.n != 1) if level % 2 else where & (F.n != 1)
    assert store.count("main", filters.bind(where, SPEC), timeout=None) == 0
    with pytest.raises(errors.Unsupported, match="nested"):
        store.count("main", filters.bind((where & (F.n != 1)) | (F.n != 1), SPEC), timeout=None)


def test_a_box_is_the_store_s_work(store: milvus.Milvus) -> None:
    put(
        store,
        a={"spot": {"lat": 1.0, "lon": 179.5}},
        b={"spot": {"lat": 1.0, "lon": -179.5}},
        c={"spot": {"lat": 1.0, "lon": 0.0}},
        d={},
    )
    assert found(store, F.spot.within_box(0, 179, 2, -179)) == {"a", "b"}  # across the date line
    assert found(store, F.spot.within_box(1, 0, 1, 0)) == {"c"}  # edges belong to it
    assert found(store, F.spot.within_box(0, -180, 2, 180)) == {"a", "b", "c"}
    assert found(store, ~F.spot.within_box(0, 179, 2, -179)) == {"c", "d"}


@pytest.mark.parametrize("where", [F.spot.within(1, 2, 3), F.spots.within_box(1, 2, 3, 4)])
def test_places_are_left_to_the_facade(where: filters.Filter) -> None:
    with pytest.raises(errors.Unsupported, match="spot"):
        to_expression(filters.bind(where, SPEC))


# --- errors ---


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (MilvusException(100, "collection 'x' does not exist"), errors.NotFound),
        (MilvusException(1, "collection 'x' already exists"), errors.AlreadyExists),
        (MilvusException(6, "anns_field 'x' not found in schema"), errors.FingerprintMismatch),
        (MilvusException(8, "rate limit"), errors.RateLimited),
        (MilvusException(1, "[Errno 28] No space left on device"), errors.StoreFull),
        (MilvusException(1, "schema file is not valid JSON"), errors.StoreFormat),
        (MilvusException(1, "something else"), errors.StoreError),
        (DataDirLockedError("another process"), errors.StoreLocked),
        (ManifestCorruptedError("both are broken"), errors.StoreFormat),
        (OSError(errno.ENOSPC, "No space left on device"), errors.StoreFull),
        (PermissionError(errno.EACCES, "Permission denied"), errors.AccessDenied),
    ],
)
def test_translation(raised: Exception, kind: type[errors.PixdexError]) -> None:
    with pytest.raises(errors.PixdexError) as caught, translated("x"):
        raise raised
    assert type(caught.value) is kind
    assert caught.value.__cause__ is raised


class _NoAnswer(grpc.RpcError):
    """What the client raises when its deadline passes."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.DEADLINE_EXCEEDED

    def details(self) -> str:
        return "Deadline Exceeded"


def test_no_answer_in_time() -> None:
    with pytest.raises(errors.StoreTimeout, match="Deadline") as caught, translated("x"):
        raise _NoAnswer
    assert isinstance(caught.value.__cause__, grpc.RpcError)


def test_nothing_is_printed(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from pixdex.connectors import connect\n"
        "from pixdex.errors import PixdexError\n"
        "from pixdex.spec import Fingerprint, Spec, Vector\n"
        "store, name = connect(sys.argv[1])\n"
        "spec = Spec(vectors=(Vector(dim=2, fingerprint=Fingerprint(encoder='e', digest='3fa9c1d2')),))\n"
        "store.create(name, spec, timeout=9)\n"
        "verbs = [lambda: store.create(name, spec, timeout=9), lambda: store.count('x', None, timeout=9)]\n"
        "verbs += [lambda: store.create('a/b', spec, timeout=9)]  # the server of Milvus Lite logs this one\n"
        "for verb in verbs:\n"
        "    try: verb()\n"
        "    except PixdexError as error: print(type(error).__name__)\n"
        "store.drop(name, timeout=9)\n"
    )
    url = f"milvus+lite://{tmp_path}/store"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code, url], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["AlreadyExists", "NotFound", "StoreError"]
    assert done.stderr == ""


def test_nothing_is_printed_when_it_closes(tmp_path: Path) -> None:
    code = (
        "import sys, grpc\n"
        "from pixdex.connectors import connect\n"
        "from pixdex.spec import Fingerprint, Spec, Vector\n"
        "spec = Spec(vectors=(Vector(dim=2, fingerprint=Fingerprint(encoder='e', digest='3fa9c1d2')),))\n"
        "for i in range(20):\n"
        "    store, name = connect(f'{sys.argv[1]}{i}')\n"
        "    store.create(name, spec, timeout=9)\n"
        "    store.close()\n"
    )
    url = f"milvus+lite://{tmp_path}/store"
    done = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, check=True)
    assert done.stderr == ""


@pytest.mark.parametrize("name", ["pymilvus.decorators", "milvus_lite.adapter.grpc.servicer"])
def test_nothing_is_logged_of_our_errors(store: milvus.Milvus, caplog: pytest.LogCaptureFixture, name: str) -> None:
    with caplog.at_level(logging.DEBUG):
        with pytest.raises(errors.NotFound):
            store.describe("nothing", timeout=None)
        with pytest.raises(errors.StoreError):
            store.create("a/b", SPEC, timeout=None)
    assert [record for record in caplog.records if record.name == name] == []
    logging.getLogger(name).warning("of another")
    assert [record.message for record in caplog.records if record.name == name] == ["of another"]


def test_no_thread_is_left(tmp_path: Path) -> None:
    before = threading.active_count()
    for _ in range(3):
        connector, name = connect(f"milvus+lite://{tmp_path}/threads")
        connector.drop(name, timeout=None)
        connector.close()
        del connector
    import gc
    import time

    for _ in range(50):
        gc.collect()
        if threading.active_count() <= before + 1:
            break
        time.sleep(0.1)
    assert threading.active_count() <= before + 1


def test_an_alias_that_goes_while_they_are_listed(store: milvus.Milvus, monkeypatch: pytest.MonkeyPatch) -> None:
    store.alias("stays", "main", timeout=None)
    with store._calling() as opened:
        listed = opened.client.list_aliases()
    listed["aliases"].append("gone")
    monkeypatch.setattr(opened.client, "list_aliases", lambda **_: listed)
    assert store.aliases(timeout=None) == {"stays": "main"}
