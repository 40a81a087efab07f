"""A file of vectors in the making: what is encoded is kept beside it, so that nothing is lost and the same goes on.

``<file>.partial`` is a folder with an embedded store, which holds every chunk that was encoded, whatever kills the
process. The collection in it is called by what was asked for, so that nothing else goes on with it. At the end the file
is written from it, in that folder, and put in its place; then the folder is removed.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from pixdex.connectors._files import sync_directory
from pixdex.connectors.pq import PqConnector, PqOptions
from pixdex.errors import ConfigError, FingerprintMismatch, NotFound, StoreFormat
from pixdex.fields import IMAGE
from pixdex.report import Report
from pixdex.types import Scan, Want
from pixdex.vectors_file import Writer

if TYPE_CHECKING:
    from pixdex.encoders.port import Encoder

__all__ = ["Unfinished", "partial_of"]

_STORE = "store"
_PAGE = 500


def partial_of(path: Path) -> Path:
    """Where what is encoded lies until the file is written."""
    return path.with_name(f"{path.name}.partial")


class Unfinished:
    """What is there of the file ``path``, or is to be. A context: leaving it keeps the folder when there is something in
    it, and the file is not finished.

    Attributes:
        store: where to write to.
        name: of the collection there.
    """

    def __init__(self, path: Path, encoder: Encoder, asked: Iterable[str]) -> None:
        """For vectors of that encoder; ``asked`` is all else that tells one call from another."""
        self._path = path
        self._folder = partial_of(path)
        self._made = False
        self._encoder = encoder
        digest = blake2b(encoder.fingerprint.digest.encode(), digest_size=16)
        for part in asked:
            digest.update(part.encode(errors="surrogateescape") + b"\0")
        self.name = digest.hexdigest()
        self.store = PqConnector(self._folder / _STORE, PqOptions(index="flat"))  # nobody searches it

    def __enter__(self) -> Self:
        """Find what was begun.

        Raises:
            ConfigError: nothing can be written there; the folder is somebody else's, or was begun with something else.
            FingerprintMismatch: it was begun with another encoder.
            StoreFormat: it is damaged.
        """
        try:
            self._begin()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def _begin(self) -> None:
        try:
            if self._path.is_dir():
                raise ConfigError(f"{self._path} is a folder: name a file to write")
            self._folder.mkdir()
            self._made = True
            sync_directory(self._folder.parent)
        except FileExistsError:
            self._check()
        except OSError as error:
            raise ConfigError(f"{self._path} cannot be written: {error.strerror}") from error

    def _check(self) -> None:
        """See that what is there is ours, and of the same call."""
        if not self._folder.is_dir() or not all(self._is_ours(path.name) for path in self._folder.iterdir()):
            raise ConfigError(
                f"{self._folder} is not what an unfinished encode leaves: remove it, or name another file"
            )
        names = self.store.names(timeout=None)
        for name in names:
            theirs = self.store.describe(name, timeout=None)
            difference = theirs.vector(IMAGE).fingerprint.difference(self._encoder.fingerprint)
            if difference:
                raise FingerprintMismatch(
                    f"{self._folder} was begun with encoder {theirs.encoder!r}, not {self._encoder.reference!r} (they "
                    f"differ in: {difference}): go on with that one, or remove it to begin anew"
                )
        if names and self.name not in names:
            raise ConfigError(
                f"{self._folder} was begun with other pictures, fields or options: give the same to go on, or remove it "
                "to begin anew"
            )

    def _is_ours(self, name: str) -> bool:
        return name == _STORE or name.strip(".").startswith(self._path.name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._made and kind is not None and self._is_empty():
            self.remove()
        self.store.close()
        if isinstance(error, StoreFormat):
            raise StoreFormat(f"{self._folder} is damaged ({error}): remove it to begin anew") from error

    def _is_empty(self) -> bool:
        try:
            return self.store.count(self.name, None, timeout=None) == 0
        except NotFound:
            return True

    def write(self, report: Report) -> None:
        """Write the file, with what could not be used, put it in its place, and remove the folder."""
        spec = self.store.describe(self.name, timeout=None)
        column = spec.vector(IMAGE).column
        want = Want(vectors=(column,), tokens=spec.tokens is not None)
        target = self._folder / self._path.name
        with Writer(target, spec) as writer:
            after = None
            while True:
                page = self.store.scan(self.name, Scan(size=_PAGE, after=after, want=want), timeout=None)
                writer.write(replace(page.batch, vectors={IMAGE: page.batch.vectors[column]}, absent={}))
                after = page.after
                if after is None:
                    break
            writer.write_unusable(report.quarantined)
            writer.finish()
        target.replace(self._path)
        sync_directory(self._path.parent)  # else a power cut could bring back a time when neither is there
        self.remove()

    def remove(self) -> None:
        """Leave nothing behind."""
        self.store.close()
        with suppress(OSError):  # what cannot be removed costs only its space
            shutil.rmtree(self._folder)
