"""What pictures can be found in: folders, patterns, tables, annotations, archives, addresses. ``Sources`` tells them apart.

Nothing here decodes or writes: a source yields items, for ``ingest`` to go through. Whatever one of them turns out to
be, it is an item that cannot be read, and stops nothing. Importing this loads no library.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pixdex.encoders import images
from pixdex.errors import ConfigError
from pixdex.pictures import Picture, as_path, is_folder, names_file, path_exists
from pixdex.sources.addresses import WEB, Addresses, path_of, scheme_of
from pixdex.sources.archives import Archive, is_archive
from pixdex.sources.folders import Folder, Glob, Single, is_pattern
from pixdex.sources.port import Options, Origin, Source
from pixdex.sources.tables import Table, is_table
from pixdex.vectors_file import is_vectors

__all__ = ["Options", "Origin", "Source", "Sources"]

_ANNOTATIONS = ".json"
"""In the form of COCO."""


class Sources:
    """Finds what pictures come from. A context: leaving it closes the connections that it opened."""

    def __init__(self, options: Options = Options()) -> None:
        self._options = options
        self._addresses = Addresses(options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._addresses.close()

    def of(self, given: Picture) -> Source:
        """The source that one thing stands for.

        Raises:
            ConfigError: an address that may not be fetched, or of a scheme that is not known.
            MissingDependency: it needs an extra.
        """
        scheme = scheme_of(given) if isinstance(given, str) else None
        if isinstance(given, str) and scheme is not None:
            return self._behind(given, scheme)
        path = as_path(given)
        return Single(given) if path is None else self._at(path)

    def one(self, given: Picture) -> Picture:
        """What was given as one picture: a path for a path, something to read for an address.

        Raises:
            ConfigError: an address that may not be fetched, or of a scheme that is not known.
            MissingDependency: it needs an extra.
        """
        scheme = scheme_of(given) if isinstance(given, str) else None
        if scheme is None:
            return as_path(given) or given
        if scheme in WEB:
            self._check_allowed(given)
        return self._addresses.picture(given)

    def _behind(self, address: str, scheme: str) -> Source:
        if scheme == "file":
            return self._at(path_of(address))
        if scheme in WEB:
            self._check_allowed(address)
            from pixdex.sources.web import Link

            return Link(address, self._addresses.web)
        from pixdex.sources.filesystems import Tree

        return Tree(address, self._options)

    def _check_allowed(self, address: str) -> None:
        if not self._options.allow_remote:
            raise ConfigError(f"{address} is fetched on request only: say allow_remote=True (--allow-remote)")

    def _at(self, path: Path) -> Source:
        if not path_exists(path) and is_pattern(path):
            return Glob(path, self._options)
        if is_archive(path) and _is_no_picture(path):
            return Archive(path, self._options)
        if is_table(path) and _is_no_picture(path):
            if is_vectors(path):
                raise ConfigError(f"{path} holds pictures encoded already: pixdex.load writes it to a collection")
            return Table(path=path, addresses=self._addresses)
        if path.suffix.lower() == _ANNOTATIONS and _is_no_picture(path):
            from pixdex.sources.annotations import Annotations

            return Annotations(path=path, addresses=self._addresses)
        return Folder(path, self._options)


def _is_no_picture(path: Path) -> bool:
    """Whether it is a file that a picture does not begin with, whatever it is called."""
    if is_folder(path) or not names_file(str(path)):
        return False
    try:
        with path.open("rb") as file:
            return not images.looks_like_picture(file.read(images.SIGNATURE_BYTES))
    except OSError:
        return True
