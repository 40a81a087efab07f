"""What jobs remember on this machine, so that the same command goes on: a folder, a file a job, one process at a time.

The folder is ``$PIXDEX_STATE``, else where the system keeps such things. A file is called by a digest of what the job is
about, so that neither addresses nor secrets stand in names.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from pixdex import _plugins
from pixdex.connectors import GROUP
from pixdex.connectors.address import DEFAULT_COLLECTION, parse
from pixdex.errors import ConfigError, StoreLocked
from pixdex.policy import Call, Policy

if TYPE_CHECKING:
    from pixdex.connectors.port import Connector

__all__ = ["VARIABLE", "address_now", "job_file", "locked", "normal", "state_folder", "writing_alone"]

VARIABLE = "PIXDEX_STATE"
"""The environment variable that names another folder."""


def state_folder() -> Path:
    """The folder, made where there is none, for its owner alone.

    Raises:
        ConfigError: it cannot be made.
    """
    folder = _place()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{folder}, where jobs are remembered, cannot be made ({error.strerror}): let {VARIABLE} name another folder"
        ) from error
    return folder


def _place() -> Path:
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "pixdex" / "state"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "pixdex" / "state"
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "pixdex"


def job_file(kind: str, *what: str) -> Path:
    """The file of the job of that kind about ``what``: addresses and absolute paths, or other text. The same file for
    two spellings of one address.

    Raises:
        ConfigError: an address that is none, or the folder cannot be made.
    """
    digest = blake2b(digest_size=12)
    for part in what:
        digest.update(normal(part).encode(errors="surrogateescape") + b"\0")
    return state_folder() / f"{kind}-{digest.hexdigest()}"


def normal(what: str) -> str:
    """An address in the one spelling that names its collection: without options and secrets, the path absolute and the
    collection named. Other text as it is.
    """
    if not re.match(r"[a-z][a-z0-9+]*://", what):
        return what
    address = parse(what)
    factory = _plugins.load(GROUP, "store", address.scheme)
    if getattr(factory, "serves", False):
        address = address.with_served_collection()
        place = address.place  # its host in small letters; databases of two spellings are two
    elif address.scheme == "memory":
        place = f"{os.getpid()}/{address.place}"  # of this process only
    elif not address.place:  # a store that is made of others
        inner = {key: normal(value) for key, value in sorted(address.options.items()) if "://" in value}
        place = "?" + "&".join(f"{key}={value}" for key, value in inner.items())
    else:
        place = os.path.realpath(address.path)
    return f"{address.scheme}://{place}#{address.collection or DEFAULT_COLLECTION}"


def address_now(url: str, connector: Connector, name: str, policy: Policy | None = None) -> str:
    """The address of the collection that ``name`` stands for in an open store: an alias and its collection have the same.

    Raises:
        StoreError: the store does not say what its aliases name.
    """
    aliases = {}
    if connector.capabilities.alias:
        aliases = (policy or Policy()).run(Call("aliases", name), lambda left: dict(connector.aliases(timeout=left)))
    return f"{normal(url).rpartition('#')[0]}#{aliases.get(name, name)}"


def writing_alone(url: str, connector: Connector, name: str) -> AbstractContextManager[None]:
    """A context in which no other job of this machine adds to the collection that ``name`` stands for now, or labels its records,
    by whatever name.

    Raises:
        StoreLocked: another one does.
        StoreError: the store does not say what its aliases name.
    """
    return locked(job_file("add-to", address_now(url, connector, name)))


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """One process at a time, and one thread of it, on the job of that file; the system releases what was killed.

    Raises:
        StoreLocked: another one is at it; the message says which.
        ConfigError: the lock file cannot be made, or lies where nothing can be locked, as on some network drives.
    """
    path = file.with_name(f"{file.name}.lock")
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
    except OSError as error:
        raise ConfigError(f"{path} cannot be made ({error.strerror}): let {VARIABLE} name another folder") from error
    try:
        try:
            taken = _taken(handle)
        except OSError as error:
            raise ConfigError(
                f"{path} cannot be locked ({error.strerror}), as on some network drives: let {VARIABLE} name a folder on a disk "
                "of this machine"
            ) from error
        if not taken:
            owner = os.read(handle, 200).decode(errors="replace").strip() or "another process"
            raise StoreLocked(f"the same job is being done by {owner}: wait for it, or stop it there")
        with suppress(OSError):  # a full disk: it is held all the same, and nobody reads by whom
            os.ftruncate(handle, 0)
            os.write(handle, f"pid {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        os.close(handle)


if sys.platform == "win32":
    import msvcrt

    def _taken(handle: int) -> bool:
        os.lseek(handle, 1 << 30, os.SEEK_SET)  # beyond what is written, which others may read
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EDEADLK):
                raise
            return False
        finally:
            os.lseek(handle, 0, os.SEEK_SET)
        return True

else:
    import fcntl

    def _taken(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
