"""Pictures that a file of annotations in the form of COCO names, with what it says of them as their fields."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pixdex._records import check_ids, checked
from pixdex.errors import ConfigError
from pixdex.pictures import Item, Refused, path_exists, place_of, shown, source_of
from pixdex.sources.addresses import Addresses, path_of, scheme_of
from pixdex.sources.coco import Annotated, Coco
from pixdex.sources.labels import LABEL
from pixdex.sources.port import Origin
from pixdex.sources.tables import picture_named
from pixdex.spec import Field, Kind, Spec
from pixdex.types import Batch

__all__ = ["CAPTION", "LICENSE", "Annotations"]

CAPTION, LICENSE = "caption", "license"
"""The fields that get captions, and the name of a license."""


@dataclass(frozen=True, slots=True)
class _Looked:
    """What a file was found to hold: where its pictures lie, the fields it suggests, what is to be said of it."""

    root: Path
    fields: tuple[Field, ...]
    notices: tuple[str, ...]


@dataclass(slots=True)
class _Counted:
    """How many pictures there are, and how many of them have what."""

    pictures: int = 0
    addresses: int = 0
    labels: int = 0
    captions: int = 0
    licenses: int = 0
    most_captions: int = 0

    def take(self, found: Annotated) -> None:
        self.pictures += 1
        self.addresses += found.url is not None or (found.file is not None and scheme_of(found.file) is not None)
        self.labels += bool(found.categories)
        self.captions += bool(found.captions)
        self.licenses += found.license is not None
        self.most_captions = max(self.most_captions, len(found.captions))

    def fields(self) -> Iterator[Field]:
        """Those that a new collection should declare."""
        if self.labels:
            yield Field(name=LABEL, kind=Kind.TEXT, many=True)
        if self.captions:
            yield Field(name=CAPTION, kind=Kind.TEXT, many=self.most_captions > 1)
        if self.licenses:
            yield Field(name=LICENSE, kind=Kind.TEXT)


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """COCO's annotations: instances, captions, or a list of images alone.

    Pictures lie in the first of these folders that has one of them: that of the file, ``images`` in it, the one above it, ``images`` in
    that; in these the one which the end of the file's name is called as (``val2017`` beside ``annotations``, for
    ``annotations/instances_val2017.json``). Ids are those that adding this folder gives them; what leads out of it is refused. A file
    that is not there is fetched from ``coco_url``, else ``flickr_url``, where addresses may be fetched, and has the same id. Categories go to the list
    ``label``, captions to ``caption``, a list where a picture has several, and the name of its license to ``license``.
    """

    path: Path
    addresses: Addresses

    @property
    def origin(self) -> Origin:
        return Origin(*source_of(self._looked.root, self.addresses.options.source))

    @property
    def single(self) -> bool:
        return False

    def check(self) -> None:
        _ = self._looked

    def suggested(self) -> Sequence[Field]:
        return self._looked.fields

    def notices(self) -> Sequence[str]:
        return self._looked.notices

    def items(self, spec: Spec) -> Iterator[Item | None]:
        source, declared = self.origin.name, {f.name: f for f in spec.fields}
        try:
            with Coco(self.path, labels_only=False) as coco:
                for row, why in coco.refused(images=True):
                    yield Item(None, Refused(f"{shown(self.path)}: {row}", why))
                for found in coco.pictures(largest=False):
                    try:
                        yield self._item(found, source, declared, spec)
                    except ValueError as error:  # among them InvalidRecord, and ConfigError of an address
                        why = str(error).removeprefix("record 'row': ")
                        yield Item(None, Refused(f"{shown(self.path)}: image {found.id}", why))
        except ConfigError as error:  # it is another file by now
            yield Item(None, Refused(shown(self.path), str(error)))

    def _item(self, found: Annotated, source: str, declared: dict[str, Field], spec: Spec) -> Item:
        """Raises InvalidRecord for one that cannot be kept."""
        root = self._looked.root
        named = found.file or found.url
        if named is None:
            raise ConfigError("it has no file_name")
        picture, record, automatic = picture_named(_below(named, root), root, source, self.addresses)
        if isinstance(picture, Path) and found.url is not None and not path_exists(picture):
            there, picture, automatic = picture, self.addresses.named(found.url), place_of(shown(found.url))
            if isinstance(picture, Refused):
                picture = Refused(picture.label, f"there is no file {shown(there)}, and {picture.reason}")
        said = {LABEL: found.categories, CAPTION: found.captions, LICENSE: found.license}
        payload = {name: _fitting(value, name, declared.get(name)) for name, value in said.items() if value}
        kept = (checked(Batch(("row",), payloads=(payload,)), spec).payloads or ())[0]
        check_ids([record])
        return Item(record, picture, {**automatic, **kept})

    @cached_property
    def _looked(self) -> _Looked:
        """Raises ConfigError where it is no such file, or leads to no picture."""
        with Coco(self.path, labels_only=False) as coco:
            found = _Counted()
            for picture in coco.pictures(largest=False):
                found.take(picture)
            if not found.pictures:
                raise ConfigError(f"{self.path} names no pictures: its list 'images' is empty")
            return _Looked(self._root(coco, found), tuple(found.fields()), tuple(self._said_of(coco)))

    def _root(self, coco: Coco, found: _Counted) -> Path:
        """The folder that pictures lie in."""
        here = self.path.absolute().parent
        named = self.path.stem.rpartition("_")[2]
        places = [here, here / "images", here.parent, here.parent / "images"]
        places += [place / named for place in (here, here / "images", here.parent, here.parent / "images")]
        for place in places:
            if any(one.file is not None and _is_at(place, one.file) for one in coco.pictures(largest=False)):
                return place
        if found.addresses and self.addresses.options.allow_remote:
            return here
        fetching = "; to fetch them from the addresses in it, say allow_remote=True (--allow-remote)"
        raise ConfigError(
            f"none of the {found.pictures} pictures that {self.path} names lies in {', '.join(map(shown, places))}: put it beside "
            f"them{fetching if found.addresses else ''}"
        )

    def _said_of(self, coco: Coco) -> Iterator[str]:
        example, count = "", 0
        for row, why in coco.refused(images=False):
            example, count = example or f"{row}: {why}", count + 1
        if count:
            yield f"{count} annotations of {shown(self.path)} cannot be used, such as {example}"


def _is_at(folder: Path, file: str) -> bool:
    try:
        return scheme_of(file) is None and path_exists(folder / _below(file, folder))
    except ConfigError:
        return False


def _below(named: str, root: Path) -> str:
    """An address, or a path from ``root`` to a file in it, however it is written.

    Raises:
        ConfigError: it leads out of ``root``: annotations come from strangers, who have no say in which other files are read.
    """
    scheme, folder = scheme_of(named), os.path.abspath(root)  # noqa: PTH100 - without following links
    if scheme not in (None, "file"):
        return named
    path = os.path.normpath(os.path.join(folder, named if scheme is None else path_of(named)))  # noqa: PTH118
    if not path.startswith(os.path.join(folder, "")):  # noqa: PTH118
        raise ConfigError(
            f"{shown(named)} leads out of the folder {shown(folder)}: name what lies elsewhere in a table (.csv)"
        )
    return os.path.relpath(path, folder)


def _fitting(value: tuple[str, ...] | str, name: str, declared: Field | None) -> Any:
    """What a field holds of several texts: a list, where it is declared as one or there are several.

    Raises:
        ConfigError: it is declared as one text.
    """
    if isinstance(value, str):
        return value if declared is None or not declared.many else [value]
    if len(value) == 1 and (name == CAPTION if declared is None else not declared.many):
        return value[0]
    if declared is not None and not declared.many:
        largest = ", or label the pictures afterwards (pixdex label --largest)" if name == LABEL else ""
        raise ConfigError(
            f"field {name!r} is one {declared.kind}, and there are {len(value)} ({', '.join(value[:3])}): declare it as a list, "
            f"{name}:text[], in a new collection{largest}"
        )
    return list(value)
