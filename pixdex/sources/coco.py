"""Annotations in the form of COCO: ``images``, ``annotations``, ``categories`` in one JSON object, whatever its size.

https://cocodataset.org/#format-data. The file is mapped and cut into the members of these lists, which are read one by one, so
that memory does not grow with it; images and annotations are joined in a database beside it.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from pixdex._scratch import scratch
from pixdex.errors import ConfigError
from pixdex.sources.addresses import scheme_of

__all__ = ["Annotated", "Coco", "members"]

_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|["\[\]{}]', re.DOTALL)
"""Text as a whole, since what stands in it opens and closes nothing."""
_CLOSES = {b"]": b"[", b"}": b"{"}
_OPENS = frozenset(_CLOSES.values())
_LISTS = frozenset({"images", "annotations", "categories"})
_MORE = frozenset({"licenses"})
_MAX_MEMBER = 64 << 20
_NO = "is no COCO file: one is a JSON object with images, annotations and categories"
_TABLES = """
CREATE TABLE images (id TEXT PRIMARY KEY, file TEXT, url TEXT, license TEXT);
CREATE TABLE annotations (row TEXT, image TEXT, category TEXT, area REAL);
CREATE TABLE captions (row TEXT, image TEXT, text TEXT);
CREATE TABLE refused (row TEXT, why TEXT, list TEXT);
"""


@dataclass(frozen=True, slots=True)
class Annotated:
    """A picture, the file it is, and the names of its categories, each once, in the order of its annotations. Where more than labels
    was asked for: where it is to be fetched, the name of its license, and its captions, each once.
    """

    id: str
    file: str | None
    categories: tuple[str, ...]
    url: str | None = None
    license: str | None = None
    captions: tuple[str, ...] = ()


class Coco:
    """A COCO file. A context; it is read when it is entered. ``labels_only``: it has to have annotations and categories, and an annotation
    is one of a category; else captions, licenses and addresses are read, too, images are enough, and several of one file are one.

    Raises:
        ConfigError: it is no such file, or ends early.
        StoreFull: no room for temporary files.
    """

    def __init__(self, path: Path, *, labels_only: bool = True) -> None:
        self._path, self._labels_only = path, labels_only
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._db = stack.enter_context(scratch(_TABLES))
            self._read()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def refused(self, *, images: bool | None = None) -> Iterator[tuple[str, str]]:
        """What cannot be used: which image or annotation, and why. ``images``: images alone, or all but those."""
        of = {None: "TRUE", True: "list = 'images'", False: "list <> 'images'"}[images]
        yield from self._db.execute(f"SELECT row, why FROM refused WHERE {of} ORDER BY rowid")  # noqa: S608 - of three
        if images:
            return
        rows = self._db.execute(
            "SELECT row, image FROM annotations WHERE image NOT IN (SELECT id FROM images) UNION ALL "
            "SELECT row, image FROM captions WHERE row IS NOT NULL AND image NOT IN (SELECT id FROM images)"
        )
        for row, image in rows:
            yield row, f"it is of image {image}, which the file does not have"

    def pictures(self, *, largest: bool) -> Iterator[Annotated]:
        """Every image of the file, those without an annotation too. ``largest``: of several annotations that with the largest
        area alone, the first of such; those of crowds only where there is no other.
        """
        order = "a.area DESC, a.rowid" if largest else "a.rowid"
        rows = self._db.execute(
            "SELECT i.id, i.file, i.url, i.license, a.category FROM images i "  # noqa: S608 - of two
            f"LEFT JOIN annotations a ON a.image = i.id ORDER BY i.rowid, {order}"
        )
        for (image, file, url, terms), of_image in groupby(rows, key=lambda row: row[:4]):
            names = tuple(dict.fromkeys(row[4] for row in of_image if row[4] is not None))
            captions = self._db.execute("SELECT text FROM captions WHERE image = ? ORDER BY rowid", (image,))
            said = tuple(dict.fromkeys(text for (text,) in captions))
            yield Annotated(image, file, names[:1] if largest else names, url, terms, said)

    # --- reading ---

    def _read(self) -> None:
        try:
            if not self._path.stat().st_size:
                raise ConfigError(f"{self._path} is empty")
            with self._path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                self._take(data)
        except OSError as error:
            raise ConfigError(f"{self._path} cannot be read: {error.strerror or error}") from error

    def _take(self, data: mmap.mmap) -> None:
        categories: dict[str, str] = {}
        licenses: dict[str, str] = {}
        there: set[str] = set()
        self._db.execute("BEGIN")
        number = 0
        for key, raw in members(data, self._path, _LISTS if self._labels_only else _LISTS | _MORE):
            there.add(key)
            number = 0 if raw is None else number + 1
            if raw is None:
                continue
            try:
                found = orjson.loads(raw)
            except orjson.JSONDecodeError as error:
                self._refuse(f"{key}, member {number}", f"not JSON: {error}", key)
                continue
            if key == "images":
                self._image(found)
            elif key == "annotations":
                self._annotation(found)
            elif (token := _token(found.get("id"))) is not None:
                (licenses if key in _MORE else categories)[token] = _text(found.get("name")) or ""
        self._db.execute("COMMIT")
        missing = sorted((_LISTS if self._labels_only else {"images"}) - there)
        if missing:
            raise ConfigError(f"{self._path} {_NO}; there is no list {', '.join(map(repr, missing))}")
        self._name(categories)
        self._db.execute("CREATE TABLE licenses (id TEXT PRIMARY KEY, name TEXT)")
        self._db.executemany("INSERT INTO licenses VALUES (?, ?)", (row for row in licenses.items() if row[1]))
        self._db.execute("UPDATE images SET license = (SELECT name FROM licenses l WHERE l.id = images.license)")
        if not self._labels_only:
            self._one_a_file()
        self._db.execute("CREATE INDEX by_image ON annotations (image)")
        self._db.execute("CREATE INDEX captions_by_image ON captions (image)")

    def _image(self, found: Mapping[str, Any]) -> None:
        token, file = _token(found.get("id")), found.get("file_name")
        if token is None:
            self._refuse(f"an image {file!r:.80}", "it has no id", "images")
            return
        url = _address(found.get("coco_url")) or _address(found.get("flickr_url"))
        named = _text(file)
        if named is not None and not self._labels_only and scheme_of(named) is None:
            named = os.path.normpath(named)  # however it is written, it is one file
        row = (token, named, url, _token(found.get("license")))
        done = self._db.execute("INSERT OR IGNORE INTO images VALUES (?, ?, ?, ?)", row)
        if not done.rowcount:
            self._refuse(f"image {token}", "this id stands twice", "images")

    def _annotation(self, found: Mapping[str, Any]) -> None:
        own, of = found.get("id"), found.get("image_id")
        row = f"an annotation of image {of!r:.40}" if own is None else f"annotation {own!r:.40}"
        image, category = _token(of), _token(found.get("category_id"))
        caption = None if self._labels_only else _text(found.get("caption"))
        if caption is not None and image is not None:
            self._db.execute(
                "INSERT INTO captions VALUES (?, ?, ?)", (row if category is None else None, image, caption)
            )
            if category is None:
                return
        if image is None or category is None:
            self._refuse(row, "it has no image_id or no category_id", "annotations")
            return
        area = -1.0 if found.get("iscrowd") else _area(found)
        self._db.execute("INSERT INTO annotations VALUES (?, ?, ?, ?)", (row, image, category, area))

    def _name(self, categories: Mapping[str, str]) -> None:
        """Put the names of categories in place of their ids."""
        self._db.execute("CREATE TABLE names (id TEXT PRIMARY KEY, name TEXT)")
        self._db.executemany("INSERT INTO names VALUES (?, ?)", categories.items())
        self._db.execute(
            "INSERT INTO refused SELECT a.row, 'its category ' || a.category || "
            "CASE WHEN n.id IS NULL THEN ' is none of the file''s' ELSE ' has no name' END, 'annotations' "
            "FROM annotations a LEFT JOIN names n ON n.id = a.category WHERE n.id IS NULL OR n.name = '' ORDER BY a.rowid"
        )
        self._db.execute("DELETE FROM annotations WHERE category NOT IN (SELECT id FROM names WHERE name <> '')")
        self._db.execute("UPDATE annotations SET category = (SELECT name FROM names WHERE id = category)")

    def _one_a_file(self) -> None:
        """Make of several images of one file the first of them, of which all is said then that is said of any."""
        self._db.execute("CREATE INDEX by_file ON images (file)")
        self._db.execute(
            "CREATE TEMP TABLE doubles AS SELECT i.id, f.id AS first FROM images i JOIN images f ON f.rowid ="
            " (SELECT min(rowid) FROM images WHERE file = i.file) WHERE f.id <> i.id"
        )
        self._db.execute("CREATE INDEX temp.doubles_by_id ON doubles (id)")
        for table in ("annotations", "captions"):
            self._db.execute(
                f"UPDATE {table} SET image = (SELECT first FROM doubles d WHERE d.id = image)"  # noqa: S608 - of two
                " WHERE image IN (SELECT id FROM doubles)"
            )
        self._db.execute("DELETE FROM images WHERE id IN (SELECT id FROM doubles)")

    def _refuse(self, row: str, why: str, of: str) -> None:
        self._db.execute("INSERT INTO refused VALUES (?, ?, ?)", (row, why, of))


def _token(value: Any) -> str | None:
    """An id as text: some tools write numbers, others text."""
    return str(value) if isinstance(value, int | str) and not isinstance(value, bool) else None


def _text(value: Any) -> str | None:
    """A text that says something."""
    return value.strip() or None if isinstance(value, str) else None


def _address(value: Any) -> str | None:
    """A text that says where a picture is to be fetched; files of this machine are none."""
    text = _text(value)
    return None if text is None or scheme_of(text) in (None, "file") else text


def _area(found: Mapping[str, Any]) -> float:
    """Of the box; of the outline where there is no box. What has neither covers nothing."""
    box = found.get("bbox")
    if isinstance(box, list) and len(box) == 4 and all(isinstance(side, int | float) for side in box):
        return abs(float(box[2]) * float(box[3]))
    area = found.get("area")
    return float(area) if isinstance(area, int | float) else 0.0


def members(data: mmap.mmap | bytes, path: Path, lists: frozenset[str] = _LISTS) -> Iterator[tuple[str, bytes | None]]:
    """The objects in the lists of these names, each with that of its list; None once for each list.

    Raises:
        ConfigError: it is no JSON object, or ends early.
    """
    key = name = ""
    start = 0
    for depth, token, begin, end in _tokens(data, path):
        if depth == 0:
            if token == b"[" or (token == b"{" and data[:begin].strip(b" \t\r\n\xef\xbb\xbf")):
                raise ConfigError(f"{path} {_NO}")
        elif depth == 1 and token[:1] == b'"':
            name = token[1:-1].decode(errors="replace")  # of a key, or of a text, which no list follows
        elif depth == 1:
            key = name if token == b"[" and name in lists else ""
            if key:
                yield key, None
        elif depth == 2 and key and token == b"{":
            start = begin
        elif depth == 2 and key and token == b"}":
            if end - start > _MAX_MEMBER:
                raise ConfigError(f"{path}: one of its {key} takes more than {_MAX_MEMBER >> 20} MB")
            yield key, data[start:end]
    if not name:
        raise ConfigError(f"{path} {_NO}")


def _tokens(data: mmap.mmap | bytes, path: Path) -> Iterator[tuple[int, bytes, int, int]]:
    """Each text and bracket: how many brackets are open around it, itself, where it begins and ends."""
    opened: list[bytes] = []
    for found in _TOKEN.finditer(data):
        token = found[0]
        if token in _CLOSES and (not opened or opened.pop() != _CLOSES[token]):
            raise ConfigError(f"{path} is no JSON: byte {found.start()} closes what was not opened")
        if token == b'"':
            raise ConfigError(f"{path} ends early, within a text: fetch it again")
        yield len(opened), token, found.start(), found.end()
        if token in _OPENS:
            opened.append(token)
    if opened:
        raise ConfigError(f"{path} ends early: fetch it again")
