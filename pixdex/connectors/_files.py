"""Files that are replaced as a whole, and directories whose entries are durable."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

__all__ = ["replace_file", "sync_directory"]


def replace_file(path: Path, data: bytes) -> None:
    """Write a file so that at any moment, a power cut included, it is the old or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names of new files in ``path`` durable."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
