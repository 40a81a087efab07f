"""What pixdex takes for a picture: found under folders, named, hashed, loaded.

Nothing here knows a collection: ``ingest`` writes what is found here, ``index`` searches with it. What else pictures
can be found in, such as tables, archives and the web, is in ``sources``.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np

from pixdex.encoders import images
from pixdex.errors import ConfigError, InvalidImage
from pixdex.report import Stamp
from pixdex.types import MAX_ID_BYTES, MAX_TEXT_BYTES, Payload

if TYPE_CHECKING:
    from pixdex.encoders.port import Pixels

__all__ = [
    "NO_PICTURE",
    "Item",
    "Picture",
    "Readable",
    "Refused",
    "as_path",
    "content_hash",
    "from_files",
    "is_folder",
    "is_picture",
    "load_picture",
    "names_file",
    "path_exists",
    "path_id",
    "picture_name",
    "place_of",
    "root_of",
    "several",
    "shown",
    "source_of",
    "stamp_of",
    "text_id",
]

Picture: TypeAlias = Any
"""A path, bytes of a picture file, an array, a PIL image or a Readable."""
NO_PICTURE = "a picture is a path, bytes, a uint8 array or a PIL image, not {}"

SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif", ".hif",
})  # fmt: skip
_READ = 1 << 20
_MAX_BYTES = images.Limits().max_bytes
_PLAIN = images.Decoding()


@runtime_checkable
class Readable(Protocol):
    """A picture file that is no file of this system: a member of an archive, what stands behind an address.

    ``label`` is how reports call it. Reading may cost much, so whoever needs its bytes twice keeps them.
    """

    @property
    def label(self) -> str: ...

    def read(self) -> bytes:
        """The bytes of the picture file; safe to call from several threads.

        Raises:
            InvalidImage: it cannot be read; the message is the reason.
        """
        ...


@dataclass(frozen=True, slots=True)
class Refused:
    """A Readable that cannot be read: a place in a source that holds no picture, so that the report says why."""

    label: str
    reason: str

    def read(self) -> bytes:
        raise InvalidImage(self.reason)


@dataclass(frozen=True, slots=True)
class Item:
    """One picture to be added: its id (None: its content hash), what it is, its payload so far."""

    id: str | None
    picture: Picture
    payload: Payload = field(default_factory=dict)

    @property
    def label(self) -> str:
        """How reports call it."""
        if isinstance(self.picture, Readable):
            return self.picture.label
        return shown(self.picture) if isinstance(self.picture, Path) else self.id or f"<{type(self.picture).__name__}>"


# --- what a caller gave --------------------------------------------------------------------------------


def several(pictures: Picture | Iterable[Picture]) -> Iterable[Picture]:
    """What was given as something to go through: one picture as a list of one."""
    return [pictures] if is_picture(pictures) or not isinstance(pictures, Iterable) else pictures


def as_path(picture: Picture) -> Path | None:
    """The path that was given, ``~`` expanded; None for what is no path."""
    if not isinstance(picture, str | os.PathLike):
        return None
    path = Path(os.fsdecode(picture))
    try:
        return path.expanduser()
    except RuntimeError:  # ~ of nobody: a name like any other
        return path


def root_of(path: Path) -> Path:
    """The folder that ids are relative to: the path itself, or where the file lies."""
    return path if is_folder(path) else path.parent


def source_of(root: Path, given: str | None) -> tuple[str, str]:
    """The source name of a folder, and the folder as the collection remembers it."""
    if given is not None and "/" in given:
        raise ConfigError(f"source {given!r}: a name without '/', or ids of two sources could be the same")
    there = root.resolve()
    return given or shown(Path(there.name)) or "root", shown(there)


def names_file(text: str) -> bool:
    """Whether ``search`` takes this text for a file; ids may look like no path at all."""
    path = as_path(text)
    try:
        return path is not None and path.is_file()
    except OSError:
        return False


# --- finding ----------------------------------------------------------------------------------------


def from_files(root: Path, source: str) -> Iterator[Item | None]:
    """The pictures under a folder, or one file, in the order of their paths; None for each other file.

    Links to folders are not followed, so that loops end. A folder that cannot be read stands for itself,
    so that the report names it.
    """
    if not is_folder(root):
        yield Item(path_id(source, root.name), root)
        return
    closed: list[Path] = []
    for path in _files(root, closed):
        yield Item(_relative_id(source, path, root), path) if _is_picture(path) else None
    for path in closed:
        yield Item(_relative_id(source, path, root), path)


def _files(root: Path, closed: list[Path]) -> Iterator[Path]:
    """Every file under a folder; folders that cannot be read are put into ``closed``.

    Not ``os.walk``, which calls itself for each level, so that a folder nested deep enough stops it.
    """
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        folders: list[str] = []
        names: list[str] = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    kind = _kind(entry)
                    if kind is not None:
                        (folders if kind == "folder" else names).append(entry.name)
        except OSError:
            closed.append(folder)
        waiting.extend(folder / name for name in sorted(folders, reverse=True))
        for name in sorted(names):
            yield folder / name


def _kind(entry: os.DirEntry[str]) -> Literal["folder", "file"] | None:
    """What to do with an entry; None for a link to a folder."""
    try:
        if not entry.is_dir():
            return "file"
        return None if entry.is_symlink() else "folder"
    except OSError:  # such as a link to itself
        return "file"


def _relative_id(source: str, path: Path, root: Path) -> str:
    return path_id(source, path.relative_to(root).as_posix())


def is_folder(path: Path) -> bool:
    """Whether the path is a folder; what the system refuses to look at is none."""
    try:
        return path.is_dir()
    except OSError:
        return False


def path_exists(path: Path) -> bool:
    """Whether there is something at the path, be it a link that leads nowhere; what the system refuses to
    look at is not there.
    """
    try:
        return path.exists() or path.is_symlink()
    except OSError:
        return False


def picture_name(name: str) -> bool:
    """Whether a file of that name is taken for a picture, whatever it holds."""
    return os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122 - names in archives are no paths


def _is_picture(path: Path) -> bool:
    """By its suffix, whatever stands under it; a file of another name by its first bytes."""
    if picture_name(path.name):
        return True
    try:
        with _opened(path) as file:
            return images.looks_like_picture(file.read(images.SIGNATURE_BYTES))
    except (OSError, InvalidImage):
        return False


def path_id(source: str, relative: str) -> str:
    """``source/relative``, or the BLAKE2b-128 of its bytes when it is no id."""
    return text_id(f"{source}/{relative}")


def text_id(name: str) -> str:
    """A path or address as an id: itself, or the BLAKE2b-128 of its bytes when it is no id."""
    raw = os.fsencode(name)
    try:
        name.encode()
    except UnicodeEncodeError:
        return hashlib.blake2b(raw, digest_size=16).hexdigest()
    return name if len(raw) <= MAX_ID_BYTES else hashlib.blake2b(raw, digest_size=16).hexdigest()


def shown(path: Path | str) -> str:
    """A path or address as text that any store and terminal takes."""
    return os.fsencode(path).decode(errors="backslashreplace")


# --- looking at one picture -------------------------------------------------------------------------


def place_of(text: str) -> Payload:
    """The field that says where a picture lies; none where a field could not hold it."""
    return {"path": text} if len(text.encode()) <= MAX_TEXT_BYTES else {}


def stamp_of(path: Path) -> Stamp | None:
    """How a file looks now; None where it cannot be seen."""
    try:
        found = path.stat()
    except OSError:
        return None
    return Stamp(
        found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino & (1 << 63) - 1
    )  # as SQLite takes it


def content_hash(picture: Picture, decoding: images.Decoding = _PLAIN) -> str:
    """BLAKE2b-128 of a file's bytes, wherever it lies; of the pixels for arrays and PIL images.

    Another frame of a file is another picture, and so is the file on another background: where ``decoding`` chooses
    one, it takes part in the hash. What decides only whether a file can be used does not.

    Raises:
        InvalidImage: the file cannot be read, or it is no picture at all.
    """
    digest = hashlib.blake2b(digest_size=16, person=_chosen(decoding))
    if isinstance(picture, Path):
        limit = decoding.limits.max_bytes
        try:
            with _opened(picture, limit) as file:
                for chunk in _chunks(file, limit):
                    digest.update(chunk)
        except OSError as error:
            raise InvalidImage(_unreadable(error)) from error
    elif isinstance(picture, bytes | bytearray | memoryview):
        digest.update(picture)
    elif isinstance(picture, Readable):
        digest.update(picture.read())
    else:
        pixels = load_picture(picture, decoding)[0]
        digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
        digest.update(np.ascontiguousarray(pixels).tobytes())
    return digest.hexdigest()


def _chosen(decoding: images.Decoding) -> bytes:
    """What of it gives other pixels; nothing where it is what is usual."""
    if (decoding.frame, decoding.background) == (_PLAIN.frame, _PLAIN.background):
        return b""
    said = decoding.frame.to_bytes(8, "big") + bytes(decoding.background)
    return said if any(said) else said + b"\1"  # BLAKE2 takes zeros for nothing, and they say black


def load_picture(
    picture: Picture, decoding: images.Decoding = _PLAIN, *, min_side: int | None = None
) -> tuple[Pixels, dict[str, Any]]:
    """The upright pixels and the automatic fields of a picture, without path and content hash.

    Args:
        picture: what is taken for one.
        decoding: how files are read, and what they may cost. Of it, arrays and PIL images take the background.
        min_side: a file whose shorter side has more pixels may be decoded at a fraction of its size that keeps at
            least so many. The fields tell the full size. Arrays and PIL images come as they are.

    Raises:
        InvalidImage: it cannot be used; the message is the reason.
    """
    if isinstance(picture, Path):
        return _load_bytes(_read(picture, decoding.limits.max_bytes), decoding, min_side)
    if isinstance(picture, bytes | bytearray | memoryview):
        return _load_bytes(bytes(picture), decoding, min_side)
    if isinstance(picture, Readable):
        return _load_bytes(picture.read(), decoding, min_side)
    if not is_picture(picture):
        raise InvalidImage(NO_PICTURE.format(type(picture).__name__))
    background = decoding.background
    if isinstance(picture, np.ndarray):
        pixels = images.from_array(picture, background=background)
    else:
        pixels = images.from_pil(picture, background=background)
    return pixels, {"width": pixels.shape[1], "height": pixels.shape[0]}


def is_picture(value: Any) -> bool:
    """Whether ``value`` is of a type that can be a picture."""
    if isinstance(value, str | os.PathLike | bytes | bytearray | memoryview | np.ndarray):
        return True
    return images.is_pil(value) or isinstance(value, Readable)


def _read(path: Path, limit: int) -> bytes:
    try:
        with _opened(path, limit) as file:
            return b"".join(_chunks(file, limit))
    except OSError as error:
        raise InvalidImage(_unreadable(error)) from error


def _chunks(file: BinaryIO, limit: int) -> Iterator[bytes]:
    left = limit
    while chunk := file.read(_READ):
        left -= len(chunk)
        if left < 0:  # it has grown, or is of a kind whose size the system does not know
            raise InvalidImage(f"more than {limit} bytes, the limit")
        yield chunk


def _opened(path: Path, limit: int = _MAX_BYTES) -> BinaryIO:
    """The file, once it is known that reading it comes to an end."""
    try:
        status = path.stat()
    except ValueError as error:
        raise InvalidImage(f"not a path: {error}") from error
    _check_regular(status, limit)  # before opening, which alone does something to some devices
    file = os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb")
    try:
        _check_regular(os.fstat(file.fileno()), limit)  # a pipe may have taken its place meanwhile
    except BaseException:
        file.close()
        raise
    return file


def _check_regular(status: os.stat_result, limit: int) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise InvalidImage("a folder, which cannot be read as a picture or walked")
    if not stat.S_ISREG(status.st_mode):
        raise InvalidImage("not a regular file")
    if status.st_size > limit:
        raise InvalidImage(f"{status.st_size} bytes, the limit is {limit}")


def _unreadable(error: OSError) -> str:
    return f"cannot be read: {(error.strerror or str(error)).lower()}"


def _load_bytes(source: bytes, decoding: images.Decoding, min_side: int | None) -> tuple[Pixels, dict[str, Any]]:
    decoded = images.decode(source, decoding, min_side=min_side)
    fields: dict[str, Any] = {"width": decoded.width, "height": decoded.height}
    if decoded.taken is not None:
        fields["taken"] = decoded.taken
    if decoded.place is not None:
        fields["place"] = {"lat": decoded.place[0], "lon": decoded.place[1]}
    return decoded.pixels, fields
