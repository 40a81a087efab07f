"""Pictures behind addresses: which may be fetched, and by what."""

from __future__ import annotations

import re
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit
from urllib.request import url2pathname

from pixdex.pictures import Picture, Refused, shown
from pixdex.sources.port import Options

if TYPE_CHECKING:
    from pixdex.sources.web import Web

__all__ = ["WEB", "Addresses", "path_of", "scheme_of"]

WEB = frozenset({"http", "https"})
_CLOUDS = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "hf"})
"""Stores of objects that are reached by accounts, not by the name of a host that a table could choose."""


def scheme_of(text: str) -> str | None:
    """``s3`` of ``s3://bucket/a.jpg``; None for what is no address."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", text)
    return None if found is None else found[1].lower()


def path_of(address: str) -> Path:
    """The path of an address ``file://``."""
    return Path(url2pathname(urlsplit(address).path))


class Addresses:
    """Pictures by address, as the options allow. Connections are kept until it is closed."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._lock = Lock()
        self._web: Web | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        if self._web is not None:
            self._web.close()

    @property
    def web(self) -> Web:
        """What fetches over http.

        Raises:
            MissingDependency: httpx is not installed.
        """
        from pixdex.sources.web import Limits, Web

        with self._lock:
            if self._web is None:
                self._web = Web(Limits(allow_private=self.options.allow_private, max_bytes=self.options.max_bytes))
            return self._web

    def named(self, address: str) -> Picture:
        """The picture behind an address that a table or list names. Only what the caller allowed is fetched.

        Raises:
            MissingDependency: fetching it needs an extra.
            ConfigError: fetching it needs a package of another project.
        """
        scheme = scheme_of(address)
        if scheme != "file" and not self.options.allow_remote:
            return Refused(shown(address), "it is an address, and addresses are fetched with allow_remote only")
        if scheme not in WEB | _CLOUDS | {"file"} and not self.options.allow_private:
            return Refused(shown(address), f"{scheme}:// may lead anywhere, and is read with allow_private only")
        return self.picture(address)

    def picture(self, address: str) -> Picture:
        """The picture behind an address, whatever it is.

        Raises:
            MissingDependency: fetching it needs an extra.
            ConfigError: fetching it needs a package of another project.
        """
        scheme = scheme_of(address)
        if scheme == "file":
            return path_of(address)
        if scheme in WEB:
            from pixdex.sources.web import Page

            return Page(address, self.web)
        from pixdex.sources.filesystems import file_at

        return file_at(address, self.options.max_bytes)
