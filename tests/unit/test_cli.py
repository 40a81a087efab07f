"""The command as its users type it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import toys
from typer.testing import CliRunner, Result

import pixdex
from pixdex import cli
from pixdex.connectors.pq import PqConnector
from pixdex.errors import PixdexError

Run = Callable[..., Result]


@pytest.fixture
def run(toy_plugin: None) -> Run:
    """The command in this process; what ``main`` would explain is ``result.exception``."""

    def call(*words: object, ask: str | None = None) -> Result:
        return CliRunner().invoke(cli.app, [str(word) for word in words], input=ask)

    return call


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return toys.folder(tmp_path / "in", 5)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"pq://{tmp_path / 'photos.pix'}"


@pytest.fixture
def filled(run: Run, url: str, root: Path) -> str:
    """The address of a collection of five pictures."""
    assert run("add", url, root, "-e", "toy", "--field", "album=summer", "-f", "year=2020").exit_code == 0
    return url


def command(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    line = [sys.executable, toys.__file__, *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False, **options)


def refused(result: Result) -> str:
    """The message of an error that ``main`` explains."""
    assert isinstance(result.exception, PixdexError), result.output
    return str(result.exception)


# --- add --------------------------------------------------------------------------------------------


def test_add_says_what_became_of_the_pictures(run, url, root):
    (root / "broken.jpg").write_text("no")
    (root / "notes.txt").write_text("a note")
    result = run("add", url, root, "-e", "toy", "--field", "album=summer")
    assert result.exit_code == 0
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert lines[0] == "note: field 'album' is declared as text (open(fields=...) overrides)"
    assert lines[1] == f"unusable {root}/broken.jpg: not a picture"
    assert lines[2].startswith("5 added, 0 reused, 0 unchanged, 1 other files ignored, 1 unusable in ")
    assert "5 unchanged" in run("add", url, root).stderr


def test_add_as_json(run, url, root):
    (root / "broken.jpg").write_text("no")
    report = json.loads(run("add", url, root, "-e", "toy", "--json").stdout)
    assert (report["added"], report["unchanged"]) == (5, 0)
    assert report["quarantined"] == [
        {"path": str(root / "broken.jpg"), "reason": "not a picture", "id": f"{root.name}/broken.jpg"}
    ]


def test_values_of_fields_are_read_by_their_look_or_their_kind(run, url, root):
    fields = ["n=3", "x=2.5", "yes=true", "t=abc", "zip=8001", 'tags=["a","b"]', "when=2020-05-01T12:00:00Z", "empty="]
    words = [word for text in fields for word in ("-f", text)]
    kinds = ["--declare", "zip:text", "--declare", "when:time", "--declare", "tags:text[]"]
    assert run("add", url, root, "-e", "toy", *words, *kinds, "--source", "album").exit_code == 0
    facts = json.loads(run("info", url, "--json").stdout)
    shown = {name: facts["fields"][name] for name in ("n", "x", "yes", "t", "zip", "tags", "when", "empty")}
    assert shown == {
        "n": "int", "x": "float", "yes": "bool", "t": "text", "zip": "text", "tags": "text[]", "when": "time", "empty": "text"
    }  # fmt: skip
    assert list(facts["sources"]) == ["album"]
    hits = json.loads(run("search", url, "album/00.png", "-k", 1, "--json", "--where", 'zip == "8001"').stdout)
    assert hits[0]["payload"]["when"] == "2020-05-01T12:00:00+00:00"


def test_a_field_can_be_declared_later(run, filled, root):
    assert run("add", filled, root, "-f", "rating=5", "--declare", "rating:int").exit_code == 0
    found = run("search", filled, "in/00.png", "--where", "rating == 5", "--json")
    assert len(json.loads(found.stdout)) == 5
    assert "5 unchanged" in run("add", filled, root, "-f", "rating=5", "--declare", "rating:int").stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--declare", "year:number"], "field 'year': unknown kind 'number'"),
        (["--field", "path=x"], "field 'path' is filled by pixdex: use another name"),
    ],
)
def test_fields_that_make_no_sense_are_refused(run, url, root, words, message):
    result = run("add", url, root, "-e", "toy", *words)
    assert result.exit_code == 1
    assert message in refused(result)


@pytest.mark.parametrize(
    ("words", "message"), [(["--field", "album"], "write NAME=VALUE"), (["--declare", ":int"], "write NAME:KIND")]
)
def test_options_of_the_wrong_shape_are_wrong_usage(run, url, root, words, message):
    result = run("add", url, root, "-e", "toy", *words)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_path_that_does_not_exist(run, url, tmp_path):
    assert "nowhere does not exist" in refused(run("add", url, tmp_path / "nowhere", "-e", "toy"))


def test_add_takes_patterns_tables_and_archives(run, url, root, tmp_path):
    import zipfile

    assert "2 added" in run("add", url, root / "0[01].png", "-e", "toy").stderr
    (root / "t.csv").write_text("picture,album\n02.png,x\n")
    assert "there is no column 'pic' (did you mean 'picture'?" in refused(
        run("add", url, root / "t.csv", "--column", "pic")
    )
    assert "1 added" in run("add", url, root / "t.csv", "--column", "picture").stderr
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(root / "03.png", "a/03.png")
    assert "1 added" in run("add", url, tmp_path / "x.zip").stderr
    hits = json.loads(run("search", url, root / "03.png", "-k", 1, "--json").stdout)
    assert hits[0]["id"] == "x.zip/a/03.png"


def test_addresses_are_fetched_on_request_only(run, url):
    pytest.importorskip("httpx")
    assert "say allow_remote=True (--allow-remote)" in refused(run("add", url, "http://127.0.0.1:9/a.png", "-e", "toy"))
    result = run("add", url, "http://127.0.0.1:9/a.png", "-e", "toy", "--allow-remote")
    assert result.exit_code == 1
    assert "http://127.0.0.1:9/a.png: 127.0.0.1 is 127.0.0.1, in a network that is not public" in result.stderr
    result = run("add", url, "http://127.0.0.1:9/a.png", "-e", "toy", "--allow-remote", "--allow-private")
    assert "cannot be reached" in result.stderr


# --- encode -----------------------------------------------------------------------------------------


def test_encode_here_and_add_there(run, url, root, tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    (root / "broken.jpg").write_text("no")
    file = tmp_path / "v.parquet"
    result = run("encode", root, "-o", file, "-e", "toy", "--field", "year=2020", "--tokens")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "5 added, 0 reused, 0 unchanged, 1 unusable in " in result.stderr
    with monkeypatch.context() as patch:
        patch.setattr(toys, "load", lambda rest: pytest.fail("the encoder was loaded"))
        result = run("add", url, file)
    assert result.exit_code == 0, result.stderr
    assert f"unusable {root}/broken.jpg: not a picture" in result.stderr
    assert "5 added" in result.stderr
    report = json.loads(run("add", url, file, "--json").stdout)
    assert (report["added"], report["unchanged"]) == (0, 5)
    assert "5 unchanged" in run("add", url, root).stderr
    hits = json.loads(run("search", url, root / "02.png", "--rerank", "maxsim", "-k", 1, "--json").stdout)
    assert (hits[0]["id"], hits[0]["payload"]["year"]) == ("in/02.png", 2020)


def test_a_file_of_vectors_is_added_as_it_is(run, url, root, tmp_path):
    pytest.importorskip("pyarrow")
    files = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    run("encode", root / "00.png", "-o", files[0], "-e", "toy")
    run("encode", root / "01.png", root / "02.png", "-o", files[1], "-e", "toy")
    assert "add such files by a command of their own" in refused(run("add", url, files[0], root))
    assert "were chosen by pixdex encode" in refused(run("add", url, files[0], "-f", "year=1"))
    assert "3 added" in run("add", url, *files).stderr
    run("encode", root, "-o", tmp_path / "c.parquet", "-e", "toy:30")
    assert "holds vectors of toy" in refused(run("add", url, tmp_path / "c.parquet"))


@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGKILL])
def test_an_encode_that_is_stopped_or_killed_goes_on(run, tmp_path, blow):
    pytest.importorskip("pyarrow")
    from pixdex.transfer import partial_of

    root, file = toys.folder(tmp_path / "many", 300), tmp_path / "v.parquet"
    line = [sys.executable, toys.__file__, "encode", str(root), "-o", str(file), "-e", "toy", "--workers", "1"]
    encoding = subprocess.Popen(
        line, env={**os.environ, "TOY_DELAY": "0.005"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    waited = time.monotonic() + 40
    while time.monotonic() < waited and encoding.poll() is None and not kept(partial_of(file)):
        time.sleep(0.02)
    encoding.send_signal(blow)
    out, err = encoding.communicate(timeout=30)
    assert out == ""
    if blow is signal.SIGINT:
        assert encoding.returncode == 130, err
        assert err == f"stopped; what was encoded stays in {file}.partial, run the same again to go on\n"
    assert not file.exists()
    before = kept(partial_of(file))
    assert 64 <= before < 300
    result = run("encode", root, "-o", file, "-e", "toy")
    assert result.stderr.startswith(f"{300 - before} added, 0 reused, {before} unchanged in "), result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many", "v.parquet"]
    assert "300 added" in run("add", "memory://", file).stderr


def kept(folder: Path) -> int:
    """How many pictures an encode has put aside."""
    store = PqConnector(folder / "store")
    try:
        return sum(store.count(name, None, timeout=None) for name in store.names(timeout=None))
    finally:
        store.close()


def test_ctrl_c_before_anything_is_encoded_leaves_nothing(tmp_path):
    pytest.importorskip("pyarrow")
    root = toys.folder(tmp_path / "few", 2)
    line = [sys.executable, toys.__file__, "encode", str(root), "-o", str(tmp_path / "v.parquet"), "-e", "toy"]
    encoding = subprocess.Popen(
        line, env={**os.environ, "TOY_DELAY": "2"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    waited = time.monotonic() + 40
    while (
        time.monotonic() < waited
        and encoding.poll() is None
        and not list(tmp_path.glob("v.parquet.partial/store/*.sqlite"))
    ):
        time.sleep(0.02)
    time.sleep(0.5)  # meanwhile pydantic is loaded, which lets go of an interrupt that comes within
    encoding.send_signal(signal.SIGINT)
    out, err = encoding.communicate(timeout=30)
    assert encoding.returncode == 130, err
    assert (out, err) == ("", "stopped; nothing was written\n")
    assert list(tmp_path.iterdir()) == [root]


def test_how_pictures_are_read_is_an_option(run, url, root, tmp_path):
    frames = [toys.pixels(seed) for seed in (31, 32)]
    (root / "film.gif").write_bytes(toys.film(*frames))
    whole = toys.encoded(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8), "JPEG")
    (root / "cut.jpg").write_bytes(whole[: len(whole) * 3 // 4])
    options = ["--truncated", "accept", "--workers", "1", "--patience", "9.5", "--max-pixels", "5000"]
    result = run("add", url, root, "-e", "toy", *options, "--background", "#000000", "--max-bytes", "100000")
    assert result.stderr.startswith("7 added"), result.stderr
    assert "0 added, 0 reused, 7 unchanged" in run("add", url, root, *options, "--background", "000000").stderr
    assert "1 added" in run("add", url, root / "film.gif", "--source", "second", "--frame", "1").stderr
    hits = json.loads(run("search", url, root / "film.gif", "--frame", "1", "-k", "1", "--json").stdout)
    assert (hits[0]["id"], round(hits[0]["score"], 4)) == ("second/film.gif", 1)
    assert "megapixels, the limit is" in run("add", "memory://", root, "-e", "toy", "--max-pixels", "9").stderr
    assert run("add", url, root, "--background", "black").exit_code == 2
    assert "patience=0.0" in refused(run("add", url, root, "--patience", "0"))


def test_what_cannot_be_exported_says_why(run, tmp_path):
    assert "classic has no network to export" in refused(run("export", "classic", tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    assert run("export", "classic", tmp_path / "out", "--format", "coreml").exit_code == 2


# --- search -----------------------------------------------------------------------------------------


def test_search_prints_a_line_for_each_hit(run, filled, root):
    result = run("search", filled, root / "03.png", "-k", 3)
    assert result.exit_code == 0
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["score", "id", "path"]
    assert len(lines) == 4
    assert lines[1].split() == ["1", "+1.000", "in/03.png", str(root / "03.png")]


def test_a_long_path_stays_on_its_line(run, url, tmp_path):
    deep = tmp_path / "in" / ("d" * 120) / ("e" * 120)
    toys.folder(deep, 2)
    run("add", url, tmp_path / "in", "-e", "toy")
    lines = run("search", url, deep / "00.png").stdout.splitlines()
    assert len(lines) == 3
    assert lines[1].split()[-1] == str(deep / "00.png")


def test_json_is_an_array_of_id_score_payload(run, filled, root):
    hits = json.loads(run("search", filled, root / "03.png", "-k", 2, "--json").stdout)
    assert [set(hit) for hit in hits] == [{"id", "score", "payload"}] * 2
    assert hits[0]["id"] == "in/03.png"
    assert hits[0]["score"] == pytest.approx(1, abs=1e-5)
    assert hits[0]["payload"]["path"] == str(root / "03.png")
    assert hits[0]["payload"]["album"] == "summer"
    assert json.loads(run("search", filled, root / "03.png", "--threshold", "1.5", "--json").stdout) == []


def test_search_options(run, filled, root):
    query = root / "03.png"
    assert len(json.loads(run("search", filled, query, "--json", "-w", "year >= 2020").stdout)) == 5
    assert run("search", filled, query, "-w", "year >= 2021").stdout == "nothing found\n"
    assert "in/03.png" not in run("search", filled, query, "--exclude-self").stdout
    assert len(json.loads(run("search", filled, query, "--json", "--threshold", "0.999").stdout)) == 1
    assert "in/03.png" in run("search", filled, "in/03.png", "-k", 1).stdout


def test_search_reranks(run, url, root):
    run("add", url, root, "-e", "toy", "--tokens")
    hits = json.loads(
        run("search", url, root / "02.png", "--rerank", "maxsim,dba@2", "--candidates", 3, "--json", "-k", 3).stdout
    )
    assert hits[0]["id"] == "in/02.png"
    assert [sorted(hit["trace"]) for hit in hits] == [["dba", "first", "maxsim"]] * 2 + [["first", "maxsim"]]


def test_search_writes_a_page(run, filled, root, tmp_path):
    page = tmp_path / "hits.html"
    assert run("search", filled, root / "03.png", "--html", page).exit_code == 0
    text = page.read_text("utf-8")
    assert "Pictures like 03.png" in text
    assert text.count("data:image/jpeg;base64,") == 6
    assert run("search", filled, "in/03.png", "--html", page).exit_code == 0
    assert "Pictures like in/03.png" in page.read_text("utf-8")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["in/nothing.png"], "'in/nothing.png' is neither a file nor an id in collection 'main'"),
        (["in/00.png", "--where", "year >"], "year >"),
        (["in/00.png", "--where", "colour == 1"], "colour"),
        (["in/00.png", "--rerank", "maxsin"], "did you mean 'maxsim'"),
        (["in/00.png", "--rerank", "maxsim@0"], "what follows the @ is how many of the best it sees, 1 or more"),
        (["in/00.png", "--encoder", "toy:30"], "holds vectors of toy"),
        (["--text", "a red car"], "encoder 'toy' makes vectors of pictures only"),
    ],
)
def test_a_search_that_cannot_be_done_says_why(run, filled, words, message):
    result = run("search", filled, *words)
    assert result.exit_code == 1
    assert message in refused(result)


def test_names_cannot_give_orders_to_the_terminal(run, url):
    name = "a\x1b[31m[red]\nb"
    with pixdex.open(url, encoder="toy") as photos:
        photos.add([toys.png(1)], ids=[name])
    lines = run("search", url, name).stdout.splitlines()
    assert len(lines) == 2
    assert "a\\x1b[31m[red]\\nb" in lines[1]


# --- info, delete, lists ----------------------------------------------------------------------------


def test_info(run, filled):
    text = run("info", filled).stdout
    assert "count        5\n" in text
    assert "encoder      toy:48\n" in text
    assert "tokens       -\n" in text
    facts = json.loads(run("info", filled, "--json").stdout)
    assert (facts["store"], facts["collection"], facts["count"], facts["metric"]) == ("pq", "main", 5, "cosine")


@pytest.mark.parametrize("words", [["info"], ["search", "x"], ["delete", "x"]])
def test_what_is_not_there_is_not_made(run, url, tmp_path, words):
    verb, *rest = words
    result = run(verb, url, *rest)
    assert result.exit_code == 1
    assert refused(result)
    assert not (tmp_path / "photos.pix").exists()


def test_delete_by_id_and_by_filter(run, filled):
    assert run("delete", filled, "in/00.png", "in/01.png", "-y").stderr == "removed 2\n"
    assert run("delete", filled, "--where", 'id in ["in/02.png"]', "--yes").stderr == "removed 1\n"
    assert json.loads(run("info", filled, "--json").stdout)["count"] == 2
    assert run("delete", filled, "unknown").stderr == "removed 0\n"


def test_delete_asks_first(run, filled):
    assert run("delete", filled, "in/00.png", ask="n\n").exit_code == 1
    assert run("delete", filled, "in/00.png", ask="").exit_code == 1
    assert json.loads(run("info", filled, "--json").stdout)["count"] == 5
    result = run("delete", filled, "in/00.png", ask="y\n")
    assert "Remove 1 records?" in result.stderr
    assert result.stdout.strip() in ("", "y"), "questions are no results"
    assert json.loads(run("info", filled, "--json").stdout)["count"] == 4


def test_search_takes_a_picture_or_words(run, filled):
    result = run("search", filled)
    assert result.exit_code == 2
    assert "give a picture, an id, --text or --more-like" in result.stderr


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--near", "52.5", "write LAT,LON or LAT,LON,KM"),
        ("--at", "yesterday", "write a time such as"),
        ("--weight", "image", "write NAME=VALUE"),
        ("--weight", "image=much", "write NAME=NUMBER"),
    ],
)
def test_what_a_search_cannot_read_is_said(run, filled, option, value, message):
    result = run("search", filled, "in/00.png", option, value)
    assert result.exit_code == 2
    assert message in result.stderr


def test_search_by_place_time_and_feedback(run, filled):
    near = run(
        "search", filled, "in/00.png", "--near", "52.5,13.4,20", "--at", "2020-05-01,30", "--weight", "at=2", "--json"
    )
    assert near.exit_code == 0
    assert len(json.loads(near.stdout)) == 5
    liked = run("search", filled, "--more-like", "in/01.png", "--more-like", "in/01.png", "--json")
    assert json.loads(liked.stdout)[0]["id"] == "in/01.png"


@pytest.mark.parametrize("words", [[], ["in/00.png", "--where", "true"]])
def test_delete_takes_ids_or_a_filter(run, filled, words):
    result = run("delete", filled, *words)
    assert result.exit_code == 2
    assert "give ids or --where, one of them" in result.stderr


def test_lists(run):
    assert {"memory://", "pq://"} <= set(run("stores").stdout.split())
    assert {"classic", "toy"} <= set(run("encoders").stdout.split())


def test_version_and_help(run):
    assert run("--version").stdout == f"pixdex {pixdex.__version__}\n"
    for verb in ("add", "encode", "export", "search", "info", "delete", "stores", "encoders", "demo"):
        assert run(verb, "--help").exit_code == 0
        assert verb in run("-h").stdout


# --- as a process -----------------------------------------------------------------------------------


@pytest.fixture
def photos_url(url: str, root: Path) -> str:
    done = command("add", url, root, "-e", "toy")
    assert done.returncode == 0, done.stderr
    return url


def test_a_pipe_gets_results_without_colours_or_bars(photos_url, root):
    again = command("add", photos_url, root)
    assert again.stdout == ""
    assert again.stderr.startswith("0 added, 0 reused, 5 unchanged in ")
    found = command("search", photos_url, root / "01.png")
    assert found.returncode == 0
    assert found.stderr == ""
    assert "\x1b" not in found.stdout + again.stderr
    assert "in/01.png" in found.stdout


def test_an_error_is_one_line_and_debug_gives_the_trace(photos_url):
    done = command("search", photos_url, "nothing")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == "pixdex: 'nothing' is neither a file nor an id in collection 'main'\n"
    traced = command("--debug", "search", photos_url, "nothing")
    assert traced.returncode == 1
    assert traced.stderr.startswith("Traceback")
    assert "NotFound: 'nothing' is neither a file nor an id" in traced.stderr


def test_a_page_that_cannot_be_written_is_one_line_too(photos_url, root, tmp_path):
    done = command("search", photos_url, root / "01.png", "--html", tmp_path / "no/such/hits.html")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "No such file or directory" in done.stderr


@pytest.mark.parametrize(
    "words", [["search"], ["add", "memory://"], ["search", "memory://", "x", "-k", "0"], ["fly"], ["info", "--json"]]
)
def test_wrong_usage_is_2(run, words):
    result = run(*words)
    assert result.exit_code == 2
    assert "Usage:" in result.stderr


def test_wrong_usage_is_2_in_a_process_too():
    done = command("search")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_a_reader_that_goes_away_is_no_trace(photos_url, root):
    line = [sys.executable, toys.__file__, "search", photos_url, str(root / "01.png"), "--json"]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(line, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(write)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_ctrl_c_while_adding_leaves_a_store_that_goes_on(url, tmp_path):
    root = toys.folder(tmp_path / "many", 400)
    line = [sys.executable, toys.__file__, "add", url, str(root), "-e", "toy"]
    adding = subprocess.Popen(
        line, env={**os.environ, "TOY_DELAY": "0.02"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    waited = time.monotonic() + 40
    while time.monotonic() < waited and adding.poll() is None and not _count(url):
        time.sleep(0.05)
    adding.send_signal(signal.SIGINT)
    out, err = adding.communicate(timeout=30)
    assert adding.returncode == 130, err
    assert err == "stopped; what was written stays, run the same again to go on\n"
    assert out == ""
    written = _count(url)
    assert 0 < written < 400
    done = command("add", url, root)
    assert done.returncode == 0, done.stderr
    assert f"{400 - written} added, 0 reused, {written} unchanged" in done.stderr


def _count(url: str) -> int:
    """How many records there are, seen from outside while another process writes."""
    try:
        with pixdex.open(url, encoder=toys.ToyEncoder()) as photos:
            return photos.count()
    except PixdexError:
        return 0


def test_file_names_that_are_not_utf_8_pass_through_the_shell(url, tmp_path):
    root = os.fsencode(toys.folder(tmp_path / "in", 1))
    name = root + b"/caf\xe9.png"
    try:
        Path(os.fsdecode(name)).write_bytes(toys.png(9))
    except OSError:
        pytest.skip("this file system takes no such name")
    assert "2 added" in command("add", url, tmp_path / "in", "-e", "toy").stderr
    page = tmp_path / "hits.html"
    done = command("search", url, os.fsdecode(name), "--html", page)
    assert done.returncode == 0, done.stderr
    assert "caf\\xe9.png" in done.stdout
    assert "Pictures like caf\\xe9.png" in page.read_text("utf-8")
    missing = command("search", url, os.fsdecode(b"gone\xe9.png"))
    assert missing.returncode == 1
    assert len(missing.stderr.splitlines()) == 1


def test_the_installed_command_is_this_one():
    script = Path(sys.executable).with_name("pixdex")
    if not script.exists():
        pytest.skip("pixdex is not installed as a command here")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == f"pixdex {pixdex.__version__}\n"


def test_compact_and_verify(run: Run, filled: str, tmp_path: Path) -> None:
    assert run("delete", filled, "--where", "year == 2020", "--yes").exit_code == 0
    compacted = run("compact", filled)
    assert compacted.exit_code == 0
    assert "kept 0 vectors, removed 5" in compacted.stderr
    assert run("verify", filled).exit_code == 0


def test_verify_names_what_is_lost(run: Run, filled: str, tmp_path: Path) -> None:
    (segment,) = (tmp_path / "photos.pix" / "segments").iterdir()
    data = bytearray(segment.read_bytes())
    data[70] ^= 1
    segment.write_bytes(data)
    result = run("verify", filled)
    assert result.exit_code == 1
    assert segment.name in result.stdout
    assert "'in/" in result.stdout
    (found,) = json.loads(run("verify", filled, "--json").stdout)
    assert found["lost"]
    assert len(found["records"]) == 5
