"""The result page: nothing but itself, whatever ids and paths hold."""

from __future__ import annotations

import base64
import re

import pytest
import toys
from pages import Reader

from pixdex._html import page
from pixdex.encoders.images import decode
from pixdex.types import Hit


def hit(record: str, path: object = None, score: float = 0.5) -> Hit:
    return Hit(record, score, {} if path is None else {"path": path})


HOSTILE = ['<script>alert("x")</script>', '"><img src=x onerror=alert(1)>', "a' onload='x", "&amp;", "</title>"]


def test_a_page_shows_query_hits_and_scores(tmp_path):
    path = toys.write(tmp_path / "a.png", 1)
    read = Reader(
        page("Pictures like a", "2 hits", [("hits", path, [hit("one", str(path), 0.987), hit("two", str(path), -0.5)])])
    )
    pictures = [attributes["src"] for attributes in read.all("img")]
    assert len(pictures) == 3
    for source in pictures:
        kind, _, data = source.partition(";base64,")
        assert kind == "data:image/jpeg"
        assert decode(base64.b64decode(data)).width == 32
    text = " ".join(read.words)
    for expected in ("Pictures like a", "2 hits", "one", "+0.987", "two", "-0.500"):
        assert expected in text


def test_a_page_needs_nothing_but_itself(tmp_path):
    path = toys.write(tmp_path / "a.png", 1)
    text = page("t", "n", [("s", path, [hit("one", str(path))])])
    outside = re.sub(r"data:image/jpeg;base64,[A-Za-z0-9+/=]*", "", text)
    for reference in ("http:", "https:", "file:", "//", "@import", "url(", "<script", "<link", str(tmp_path)):
        assert reference not in outside
    assert all(not attributes.keys() & {"href", "srcset"} for _, attributes in Reader(text).elements)


def test_thumbnails_are_small(tmp_path):
    path = tmp_path / "big.jpg"
    path.write_bytes(toys.encoded(toys.pixels(1, (1500, 3000)), "JPEG"))
    (picture,) = Reader(page("t", "n", [("s", path, [])])).all("img")
    thumbnail = decode(base64.b64decode(picture["src"].partition(",")[2]))
    assert 100 <= thumbnail.width == 2 * thumbnail.height <= 400


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_only_text(tmp_path, name):
    path = toys.write(tmp_path / "a.png", 1)
    read = Reader(page(name, name, [(name, None, [hit(name, str(path)), hit(name, name)])]))
    assert {tag for tag, _ in read.elements} <= {
        "html", "head", "meta", "title", "style", "body", "h1", "p", "h2", "ol", "li", "img", "div", "b", "br"
    }  # fmt: skip
    (picture,) = read.all("img")
    assert picture.keys() == {"src", "alt"}
    assert picture["alt"] == name
    assert sum(name in words for words in read.words) >= 4


@pytest.mark.parametrize("path", [None, 7, ["a"], {}])
def test_a_hit_without_a_file_has_an_empty_frame(path):
    read = Reader(page("t", "n", [("s", None, [hit("one", path), Hit("two", 0.1)])]))
    assert read.all("img") == []
    assert " ".join(read.words).count("no file") == 2


def test_a_file_that_is_gone_or_broken_says_why(tmp_path):
    (tmp_path / "broken.jpg").write_text("no")
    hits = [hit("one", str(tmp_path / "gone.jpg")), hit("two", str(tmp_path / "broken.jpg")), hit("three", "a\0b")]
    words = " ".join(Reader(page("t", "n", [("s", None, hits)])).words)
    for reason in ("cannot be read: no such file or directory", "not a picture", "not a path"):
        assert reason in words


def test_a_page_without_hits_is_a_page():
    assert Reader(page("t", "nothing found", [("hits", None, [])])).all("li") == []
