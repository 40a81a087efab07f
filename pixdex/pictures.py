"""What pixdex takes for a picture: found under folders, named, hashed, loaded.

Nothing here knows a collection: ``ingest`` writes what is found here, ``index`` searches with it.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np

from pixdex.encoders import images
from pixdex.errors import ConfigError, InvalidImage
from pixdex.types import MAX_ID_BYTES, Payload

if TYPE_CHECKING:
    from pixdex.encoders.port import Pixels

__all__ = [
    "NO_PICTURE",
    "Item",
    "Picture",
    "as_path",
    "content_hash",
    "from_files",
    "is_folder",
    "is_picture",
    "load_picture",
    "names_file",
    "path_exists",
    "root_of",
    "several",
    "shown",
    "source_of",
]

Picture: TypeAlias = Any
"""A path, bytes of a picture file, an array or a PIL image."""
NO_PICTURE = "a picture is a path, bytes, a uint8 array or a PIL image, not {}"

SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"})
_READ = 1 << 20


@dataclass(frozen=True, slots=True)
class Item:
    """One picture to be added: its id (None: its content hash), what it is, its payload so far."""

    id: str | None
    picture: Picture
    payload: Payload = field(default_factory=dict)

    @property
    def label(self) -> str:
        """How reports call it."""
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
        yield Item(_path_id(source, root.name), root)
        return
    closed: list[OSError] = []
    for folder, folders, names in os.walk(root, onerror=closed.append):
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            yield Item(_path_id(source, path.relative_to(root).as_posix()), path) if _is_picture(path) else None
    for error in closed:
        path = Path(error.filename)
        yield Item(_path_id(source, path.relative_to(root).as_posix()), path)


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


def _is_picture(path: Path) -> bool:
    """By its suffix, whatever stands under it; a file of another name by its first bytes."""
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            return images.looks_like_picture(file.read(images.SIGNATURE_BYTES))
    except OSError:
        return False


def _path_id(source: str, relative: str) -> str:
    """``source/relative``, or the BLAKE2b-128 of its bytes when it is no id."""
    name = f"{source}/{relative}"
    raw = os.fsencode(name)
    try:
        name.encode()
    except UnicodeEncodeError:
        return hashlib.blake2b(raw, digest_size=16).hexdigest()
    return name if len(raw) <= MAX_ID_BYTES else hashlib.blake2b(raw, digest_size=16).hexdigest()


def shown(path: Path) -> str:
    """A path as text that any store and terminal takes."""
    return os.fsencode(path).decode(errors="backslashreplace")


# --- looking at one picture -------------------------------------------------------------------------


def content_hash(picture: Picture) -> str:
    """BLAKE2b-128 of a file's bytes; of the pixels for arrays and PIL images.

    Raises:
        InvalidImage: the file cannot be read, or it is no picture at all.
    """
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(picture, Path):
        try:
            with _opened(picture) as file:
                while chunk := file.read(_READ):
                    digest.update(chunk)
        except OSError as error:
            raise InvalidImage(_unreadable(error)) from error
    elif isinstance(picture, bytes | bytearray | memoryview):
        digest.update(picture)
    else:
        pixels = load_picture(picture)[0]
        digest.update(repr(pixels.shape).encode())
        digest.update(np.ascontiguousarray(pixels).tobytes())
    return digest.hexdigest()


def load_picture(picture: Picture) -> tuple[Pixels, dict[str, Any]]:
    """The upright pixels and the automatic fields of a picture, without path and content hash.

    Raises:
        InvalidImage: it cannot be used; the message is the reason.
    """
    if isinstance(picture, Path):
        return _load_bytes(_read(picture))
    if isinstance(picture, bytes | bytearray | memoryview):
        return _load_bytes(bytes(picture))
    if not is_picture(picture):
        raise InvalidImage(NO_PICTURE.format(type(picture).__name__))
    pixels = images.from_array(picture) if isinstance(picture, np.ndarray) else images.from_pil(picture)
    return pixels, {"width": pixels.shape[1], "height": pixels.shape[0]}


def is_picture(value: Any) -> bool:
    """Whether ``value`` is of a type that can be a picture."""
    return isinstance(value, str | os.PathLike | bytes | bytearray | memoryview | np.ndarray) or images.is_pil(value)


def _read(path: Path) -> bytes:
    try:
        with _opened(path) as file:
            return file.read()
    except OSError as error:
        raise InvalidImage(_unreadable(error)) from error


def _opened(path: Path) -> BinaryIO:
    """The file, once it is known that reading it comes to an end."""
    try:
        status = path.stat()
    except ValueError as error:
        raise InvalidImage(f"not a path: {error}") from error
    if stat.S_ISDIR(status.st_mode):
        raise InvalidImage("a folder, which cannot be read as a picture or walked")
    if not stat.S_ISREG(status.st_mode):
        raise InvalidImage("not a regular file")
    limit = images.Limits().max_bytes
    if status.st_size > limit:
        raise InvalidImage(f"{status.st_size} bytes, the limit is {limit}")
    return path.open("rb")


def _unreadable(error: OSError) -> str:
    return f"cannot be read: {(error.strerror or str(error)).lower()}"


def _load_bytes(source: bytes) -> tuple[Pixels, dict[str, Any]]:
    decoded = images.decode(source)
    fields: dict[str, Any] = {"width": decoded.width, "height": decoded.height}
    if decoded.taken is not None:
        fields["taken"] = decoded.taken
    if decoded.place is not None:
        fields["place"] = {"lat": decoded.place[0], "lon": decoded.place[1]}
    return decoded.pixels, fields
