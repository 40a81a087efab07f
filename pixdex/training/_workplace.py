"""Where a result goes, and where what is unfinished lies until then."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson
import torch

from pixdex.errors import AlreadyExists, ConfigError

__all__ = ["PAGE", "REPORT", "partial_of", "place", "put", "saved", "workplace", "written"]

PAGE = "report.html"
REPORT = "report.json"
_FULL = errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS


def partial_of(folder: Path) -> Path:
    """Where checkpoints lie until the result is there."""
    return folder.with_name(f"{folder.name}.partial")


@contextmanager
def workplace(folder: str | os.PathLike[str]) -> Iterator[tuple[Path, Path]]:
    """The folder that a result goes to, and one beside it for what is unfinished, which stays when something goes wrong.

    Raises:
        AlreadyExists: there is something in the folder.
        ConfigError: nothing can be written there, the disk is full, or another training writes there at this moment.
    """
    target = Path(folder).expanduser()
    work = partial_of(target)
    _check_free(target)
    with _alone_in(work, target):
        try:
            _check_free(target)  # again: another may have finished meanwhile
            yield target, work
        except BaseException as error:
            with suppress(OSError):
                work.rmdir()  # which is done only where it is empty
            if isinstance(error, OSError) and error.errno in _FULL:
                said = f"{work} cannot be written: {error.strerror}. Make room: the same call goes on"
                raise ConfigError(said) from error
            raise
        shutil.rmtree(work, ignore_errors=True)


def _check_free(target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise AlreadyExists(f"{target} is there already: name another folder, or remove it")


@contextmanager
def _alone_in(work: Path, target: Path) -> Iterator[None]:
    """Make the folder, and hold its lock, which the system lets go of whatever ends the process."""
    while True:
        try:
            work.mkdir(parents=True, exist_ok=True)
            file = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:  # taken away by one that has just finished
            continue
        except OSError as error:
            raise ConfigError(f"{work} cannot be made: {error.strerror}") from error
        try:
            if _locked(file, target) and _is_at(file, work):
                yield
                return
        finally:
            os.close(file)


def _locked(file: int, target: Path) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(
            f"{target} is being trained by another process: wait until that is done, or name another folder"
        ) from None
    except OSError:  # a file system without locks
        return True
    return True


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def put(save: Callable[[Path], None], report: Mapping[str, Any], page: str | None, target: Path, work: Path) -> None:
    """Have an encoder saved, with its report and a page of HTML if there is one: all of it appears, or nothing.

    Args:
        save: writes the encoder to a folder that is not there yet.
        report, page: what goes beside it.
        target, work: of ``workplace``.

    Raises:
        ConfigError: there is no room, or nothing may be written there.
    """
    made = work / "encoder"
    shutil.rmtree(made, ignore_errors=True)
    try:
        save(made)
        (made / REPORT).write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY))
        if page is not None:
            (made / PAGE).write_text(page, encoding="utf-8")
        place(made, target)
    except BaseException as error:
        shutil.rmtree(made, ignore_errors=True)
        if isinstance(error, OSError):
            raise ConfigError(f"{target} cannot be written: {error.strerror or error}") from error
        raise


def place(made: Path, target: Path) -> None:
    """Put a finished folder where it belongs; what is there is an empty folder or nothing."""
    if target.is_dir():
        target.rmdir()
    made.replace(target)


def written(file: Path, write: Callable[[Path], None]) -> None:
    """Have a file written beside its place and put there when it is complete: at any moment it is the old or the new one."""
    unfinished = file.with_name(f".{file.name}")
    write(unfinished)
    with unfinished.open("rb") as done:
        os.fsync(done.fileno())
    unfinished.replace(file)


def saved(file: Path, values: Any) -> None:
    """Have tensors, numbers and what holds them ``written``, for ``torch.load(..., weights_only=True)``."""

    def save(unfinished: Path) -> None:
        with unfinished.open("wb") as opened:  # given a path, torch does not say what went wrong
            try:
                torch.save(values, opened)
            except RuntimeError as error:  # that it could not end the file; why, it says behind
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise

    written(file, save)
