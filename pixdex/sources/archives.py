"""Pictures in zip and tar archives, read where they lie: nothing is unpacked to disk.

Names in an archive are only ever ids, so that ``../../etc/passwd`` is harmless. What a member says of its size is
checked before it is read, and no more than that is read of it.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import IO, Any, cast
from weakref import finalize

from pixdex.encoders import images
from pixdex.errors import ConfigError, InvalidImage
from pixdex.pictures import Item, Readable, Refused, path_id, picture_name, place_of, shown, source_of
from pixdex.sources.port import Options, Origin, Plain
from pixdex.spec import Spec

__all__ = ["Archive", "is_archive"]

_COMPRESSED: dict[str, Callable[[str], Any]] = {
    ".tar.gz": gzip.open,
    ".tgz": gzip.open,
    ".tar.bz2": bz2.open,
    ".tbz2": bz2.open,
    ".tar.xz": lzma.open,
    ".txz": lzma.open,
}
_SUFFIXES = (".zip", ".tar", *_COMPRESSED)
_UNREADABLE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    NotImplementedError,
    RuntimeError,
)
"""What the standard library raises on archives that are damaged, or packed in a way it does not know."""

_MAX_RATIO = 200
"""How much smaller than its picture a member may be: pictures are packed already, and bitmaps shrink to a hundredth."""
_FREE = 16 << 20
"""Bytes that any member may unpack to, whatever its ratio."""
_MOST_KEPT = 64
_PIECE = 1 << 20


def is_archive(path: Path) -> bool:
    """Whether a path has the suffix of an archive that is read here."""
    return path.name.lower().endswith(_SUFFIXES)


@dataclass(frozen=True, slots=True)
class Archive(Plain):
    """The pictures in a zip or tar archive. Ids are ``<name of the archive>/<path in it>``.

    Of an archive that is damaged, what can be read is used, and one row of the report says where it ends.
    """

    path: Path
    options: Options

    @property
    def origin(self) -> Origin:
        return Origin(*source_of(self.path, self.options.source))

    def check(self) -> None:
        if not any(self._items("")):
            raise ConfigError(f"no pictures in {self.path}")

    def items(self, spec: Spec) -> Iterator[Item | None]:
        del spec
        return self._items(self.origin.name)

    def _items(self, source: str) -> Iterator[Item | None]:
        place = shown(self.path.absolute())
        members = _zip_members if self.path.name.lower().endswith(".zip") else _tar_members
        try:
            for name, picture in members(self.path, self.options.max_bytes):
                yield (
                    None
                    if picture is None
                    else Item(path_id(source, name), picture, place_of(shown(Path(f"{place}/{name}"))))
                )
        except _UNREADABLE as error:
            yield Item(None, Refused(shown(self.path), f"the archive cannot be read further: {_said(error)}"))


def _said(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__).rstrip(".").lower()


def _refusal(size: int, packed: int, limit: int) -> str | None:
    """Why a member that unpacks to ``size`` bytes is not read."""
    if size > limit:
        return f"{size} bytes, the limit is {limit}"
    if size > _FREE and size > packed * _MAX_RATIO:
        return f"{packed} bytes that unpack to {size}, more than {_MAX_RATIO} times as many"
    return None


def _is_resource_fork(name: str) -> bool:
    """Whether it is what macOS puts beside each file: named like it, and no picture."""
    return name.startswith("__MACOSX/")


# --- zip -----------------------------------------------------------------------------------------------------------


def _zip_members(path: Path, limit: int) -> Iterator[tuple[str, Readable | None]]:
    """Name and picture of each member, in the order of the archive; None for what is no picture."""
    archive = zipfile.ZipFile(path)  # closed with the last of its members, which are read later
    for member in archive.infolist():
        if not member.is_dir():
            yield member.filename, _zip_picture(archive, member, f"{shown(path)}/{shown(Path(member.filename))}", limit)


def _zip_picture(archive: zipfile.ZipFile, member: zipfile.ZipInfo, label: str, limit: int) -> Readable | None:
    if _is_resource_fork(member.filename):
        return None
    reason = _zip_refusal(member, limit)
    if not picture_name(member.filename):
        try:
            head = b"" if reason else _head(archive, member)
        except _UNREADABLE:
            head = b""
        if not images.looks_like_picture(head):
            return None
    return _ZipMember(archive, member, label) if reason is None else Refused(label, reason)


def _zip_refusal(member: zipfile.ZipInfo, limit: int) -> str | None:
    if member.flag_bits & 1:
        return "it is encrypted"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # what others unpack to has no bound
        return "packed by a method that is not read: store or deflate it"
    return _refusal(member.file_size, member.compress_size, limit)


def _head(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    with archive.open(member) as file:
        return file.read(images.SIGNATURE_BYTES)


@dataclass(frozen=True, slots=True)
class _ZipMember:
    archive: zipfile.ZipFile
    member: zipfile.ZipInfo
    label: str

    def read(self) -> bytes:
        try:
            with self.archive.open(self.member) as file:
                # Piece by piece, as in one piece it would first be unpacked, then cut to the size that was checked.
                return b"".join(iter(partial(file.read, _PIECE), b""))
        except _UNREADABLE as error:
            raise InvalidImage(f"cannot be unpacked: {_said(error)}") from error


# --- tar -----------------------------------------------------------------------------------------------------------


def _tar_members(path: Path, limit: int) -> Iterator[tuple[str, Readable | None]]:
    """Name and picture of each member, in the order of the archive; None for what is no picture.

    One pass lists the members as they come, a second reads them, each in one go through the file.
    """
    opener = next((opener for suffix, opener in _COMPRESSED.items() if path.name.lower().endswith(suffix)), None)
    packed = path.stat().st_size
    slices = _Slices(_tar_file(path, opener))
    with _tar_file(path, opener) as file, tarfile.open(fileobj=cast("IO[bytes]", _Headers(file)), mode="r:") as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # it would keep all it has seen
            if member.isfile():
                label = f"{shown(path)}/{shown(Path(member.name))}"
                reason = "a file with holes" if member.issparse() else _refusal(member.size, packed, limit)
                yield member.name, _tar_picture(archive, member, label, reason, slices)
            if member.offset_data + member.size > max(_FREE, packed * _MAX_RATIO):
                raise tarfile.ReadError(f"it unpacks to more than {_MAX_RATIO} times its size")
        file.seek(archive.offset)
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):  # a header that cannot be read passes for the end
            raise tarfile.ReadError("damaged")


class _Headers:
    """The file as ``tarfile`` lists it: headers say themselves how long they are, and none needs a megabyte."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _PIECE:
            raise tarfile.ReadError("a header of more than a megabyte")
        return self._file.read(size)


def _tar_file(path: Path, opener: Callable[[str], Any] | None) -> IO[bytes]:
    file: IO[bytes] = path.open("rb") if opener is None else opener(str(path))
    return file


def _tar_picture(
    archive: tarfile.TarFile, member: tarfile.TarInfo, label: str, reason: str | None, slices: _Slices
) -> Readable | None:
    if _is_resource_fork(member.name):
        return None
    if not picture_name(member.name):
        file = archive.extractfile(member)
        if file is None or not images.looks_like_picture(file.read(images.SIGNATURE_BYTES)):
            return None
    if reason is not None:
        return Refused(label, reason)
    slices.expect(member.offset_data, member.size)
    return _TarMember(slices, member.offset_data, member.size, label)


@dataclass(frozen=True, slots=True)
class _TarMember:
    slices: _Slices
    offset: int
    length: int
    label: str

    def read(self) -> bytes:
        try:
            data = self.slices.read(self.offset, self.length)
        except _UNREADABLE as error:
            raise InvalidImage(f"cannot be unpacked: {_said(error)}") from error
        if len(data) < self.length:
            raise InvalidImage("cannot be unpacked: the archive ends before it")
        return data


class _Slices:
    """Parts of a file that are asked for about in order, by several threads.

    A compressed file is read from its beginning again to go back in it. So what is passed on the way to a later part
    is kept until it is asked for.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._lock = Lock()
        self._expected: deque[tuple[int, int]] = deque()
        self._kept: dict[int, bytes] = {}
        finalize(self, file.close)

    def expect(self, offset: int, size: int) -> None:
        """Say which part comes next."""
        with self._lock:
            self._expected.append((offset, size))

    def read(self, offset: int, size: int) -> bytes:
        with self._lock:
            if offset in self._kept:
                return self._kept.pop(offset)
            while self._expected and self._expected[0][0] < offset:
                passed = self._expected.popleft()
                self._kept[passed[0]] = self._at(*passed)
                if len(self._kept) > _MOST_KEPT:  # parts that nobody will ask for
                    del self._kept[next(iter(self._kept))]
            if self._expected and self._expected[0][0] == offset:
                self._expected.popleft()
            return self._at(offset, size)

    def _at(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(size)
