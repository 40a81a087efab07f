"""Pictures in folders, single ones, and those that a pattern names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from pixdex.errors import ConfigError
from pixdex.pictures import Item, Picture, from_files, is_folder, path_exists, root_of, shown, source_of
from pixdex.sources.port import Alone, Options, Origin, Plain
from pixdex.spec import Spec

__all__ = ["Folder", "Glob", "Single", "is_pattern"]

_MAGIC = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Single(Alone):
    """One picture that is no file: bytes, an array, a PIL image. Its id is its content hash."""

    picture: Picture

    def items(self, spec: Spec) -> Iterator[Item | None]:
        del spec
        yield Item(None, self.picture)


@dataclass(frozen=True, slots=True)
class Folder(Plain):
    """A folder with all below it, or one file. Ids are relative to the folder, or to where the file lies."""

    path: Path
    options: Options

    @property
    def origin(self) -> Origin:
        return Origin(*source_of(root_of(self.path), self.options.source))

    @property
    def single(self) -> bool:
        return not is_folder(self.path)

    def check(self) -> None:
        if not path_exists(self.path):
            raise ConfigError(f"{self.path} does not exist")
        if is_folder(self.path) and not any(from_files(self.path, "")):
            raise ConfigError(f"no pictures in {self.path}")

    def items(self, spec: Spec) -> Iterator[Item | None]:
        del spec
        return from_files(self.path, self.origin.name)


@dataclass(frozen=True, slots=True)
class Glob(Plain):
    """The pictures whose path matches a pattern such as ``pics/**/*.jpg``, and those in folders that match it.

    Ids are those that the folder before the first ``*``, ``?`` or ``[`` gives them. ``**`` stands for any number of
    folders; links to folders are not followed.
    """

    pattern: Path
    options: Options

    @property
    def root(self) -> Path:
        """The folder that is looked through."""
        return Path(*self.pattern.parts[: self._fixed()])

    @property
    def origin(self) -> Origin:
        return Origin(*source_of(self.root, self.options.source))

    def _fixed(self) -> int:
        return next(place for place, part in enumerate(self.pattern.parts) if _MAGIC.search(part))

    def check(self) -> None:
        if not is_folder(self.root):
            raise ConfigError(f"{shown(self.pattern)}: there is no folder {shown(self.root)}")
        if not any(self._found("")):
            raise ConfigError(f"no pictures match {shown(self.pattern)}")

    def items(self, spec: Spec) -> Iterator[Item | None]:
        del spec
        return self._found(self.origin.name)

    def _found(self, source: str) -> Iterator[Item]:
        pattern = self.pattern.parts[self._fixed() :]
        for item in from_files(self.root, source):
            if item is not None and _begins(item.picture.relative_to(self.root).parts, pattern):
                yield item


def is_pattern(path: Path) -> bool:
    """Whether a path can be a pattern. A file of that very name comes first."""
    return any(_MAGIC.search(part) for part in path.parts)


def _begins(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path, or a folder it lies in, matches a pattern, part by part."""
    if not pattern:
        return True
    first, rest = pattern[0], pattern[1:]
    if first == "**":
        return bool(parts) if not rest else any(_begins(parts[skipped:], rest) for skipped in range(len(parts)))
    return bool(parts) and fnmatchcase(parts[0], first) and _begins(parts[1:], rest)
