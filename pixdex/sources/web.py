"""Pictures over http and https, fetched as strangers' addresses have to be: bounded in size, time and number, and
never from this machine or its own networks unless that is allowed.

A host's addresses are checked when a connection is made, and the connection goes to an address that was checked: a
name that is answered differently the next time leads nowhere else. Every redirect is checked like the first address.
Proxies of the environment are not used, as they would be the ones to look names up.
"""

from __future__ import annotations

import ipaddress
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, TypeAlias

from pixdex.encoders import images
from pixdex.errors import InvalidImage, MissingDependency
from pixdex.pictures import Item, place_of, shown, text_id
from pixdex.sources.port import Alone
from pixdex.spec import Spec

try:
    import httpcore
    import httpx
except ImportError:
    raise MissingDependency("httpx", "http") from None

__all__ = ["Limits", "Link", "Page", "Web", "web_item"]

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BUSY = frozenset({429, 503})
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
"""IPv4 addresses as networks of IPv6 reach them (RFC 6052)."""
_HEADERS = [("User-Agent", "pixdex"), ("Accept", "image/*, */*;q=0.5"), ("Accept-Encoding", "identity")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What fetching one picture may cost.

    Attributes:
        allow_private: connect to this machine and to private networks.
        max_bytes: of the body.
        connect, read: seconds of waiting for a connection, and for more of an answer.
        total: seconds that all attempts at a host may take, to the last byte.
        redirects: followed at most.
        per_host: pictures fetched from one host at once.
        attempts: at a host that is too busy.
        patience: seconds it may ask to wait until the next attempt.
    """

    allow_private: bool = False
    max_bytes: int = images.Limits().max_bytes
    connect: float = 10.0
    read: float = 15.0
    total: float = 45.0
    redirects: int = 5
    per_host: int = 4
    attempts: int = 3
    patience: float = 20.0


@dataclass(frozen=True, slots=True)
class Page:
    """The picture at an address."""

    address: str
    web: Web

    @property
    def label(self) -> str:
        return shown(self.address)

    def read(self) -> bytes:
        return self.web.fetch(self.address)


@dataclass(frozen=True, slots=True)
class Link(Alone):
    """One picture on the web. Its id is its address."""

    address: str
    web: Web

    def items(self, spec: Spec) -> Iterator[Item | None]:
        del spec
        yield web_item(self.address, self.web)


def web_item(address: str, web: Web) -> Item:
    """The picture at an address, to be added."""
    page = Page(address, web)
    return Item(text_id(address), page, place_of(page.label))


class Web:
    """Fetches pictures. Safe to use from several threads."""

    def __init__(self, limits: Limits = Limits()) -> None:
        self._limits = limits
        self._network = _Network(limits)
        self._pool = httpcore.ConnectionPool(
            max_connections=64, max_keepalive_connections=16, keepalive_expiry=15.0, network_backend=self._network
        )
        self._turns = _Turns(limits.per_host)

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()

    def fetch(self, address: str) -> bytes:
        """The body of the answer.

        Raises:
            InvalidImage: there is none that may be had; the message is the reason.
        """
        url = _checked(address)
        for _ in range(self._limits.redirects + 1):
            found = self._follow(url)
            if isinstance(found, bytes):
                return found
            url = found
        raise InvalidImage(f"more than {self._limits.redirects} redirects")

    def _follow(self, url: httpx.URL) -> bytes | httpx.URL:
        """What the address leads to: a body, or where it is to be had."""
        try:
            with self._turns.of(url.host), self._network.within(self._limits.total):
                return self._patiently(url)
        except httpcore.TimeoutException as error:
            raise InvalidImage(f"{url.host} does not answer in time") from error
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol) as error:
            raise InvalidImage(f"{url.host} cannot be reached: {error or type(error).__name__}") from error

    def _patiently(self, url: httpx.URL) -> bytes | httpx.URL:
        for attempt in range(1, self._limits.attempts + 1):
            with self._pool.stream(
                "GET", _request_url(url), headers=_headers(url), extensions=self._timeouts
            ) as answer:
                if answer.status not in _BUSY:
                    return self._read(url, answer)
                wait = _retry_after(_header(answer, b"retry-after"), attempt)
            left = self._network.left()
            if attempt == self._limits.attempts or wait > min(self._limits.patience, left):
                break
            time.sleep(wait)
        raise InvalidImage(f"{url.host} is too busy: it answers {_status(answer.status)}")

    @property
    def _timeouts(self) -> dict[str, Any]:
        limits = self._limits
        return {"timeout": {"connect": limits.connect, "read": limits.read, "write": limits.read, "pool": limits.total}}

    def _read(self, url: httpx.URL, answer: httpcore.Response) -> bytes | httpx.URL:
        if answer.status in _REDIRECTS:
            target = _header(answer, b"location")
            if target is None:
                raise InvalidImage(f"{url.host} answers {_status(answer.status)} without saying where to go")
            return _checked(target, url)
        if answer.status != HTTPStatus.OK:
            raise InvalidImage(f"{url.host} answers {_status(answer.status)}")
        limit = self._limits.max_bytes
        said = _header(answer, b"content-length")
        if said is not None and said.isdecimal() and int(said) > limit:
            raise InvalidImage(f"{said} bytes, the limit is {limit}")
        pieces, size = [], 0
        for piece in answer.iter_stream():
            size += len(piece)
            if size > limit:
                raise InvalidImage(f"more than {limit} bytes, the limit")
            pieces.append(piece)
        return b"".join(pieces)


# --- addresses and answers -----------------------------------------------------------------------------------------


def _checked(address: str, base: httpx.URL | None = None) -> httpx.URL:
    """The address in its canonical form, relative to the one that led there."""
    try:
        url = httpx.URL(address) if base is None else base.join(address)
    except (httpx.InvalidURL, ValueError) as error:
        raise InvalidImage(f"not an address: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise InvalidImage(f"{url.scheme or 'no'} address: only http and https are fetched")
    if url.port is not None and not 0 < url.port < 1 << 16:
        raise InvalidImage(f"not an address: port {url.port}")
    if url.userinfo:
        raise InvalidImage("the address holds a user's name or password, which would be kept as its id")
    return url


def _request_url(url: httpx.URL) -> httpcore.URL:
    return httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)


def _headers(url: httpx.URL) -> list[tuple[str, str]]:
    return [("Host", url.netloc.decode("ascii")), *_HEADERS]


def _header(answer: httpcore.Response, name: bytes) -> str | None:
    return next((value.decode("latin-1").strip() for key, value in answer.headers if key.lower() == name), None)


def _status(code: int) -> str:
    try:
        return f"{code} {HTTPStatus(code).phrase}"
    except ValueError:
        return str(code)


def _retry_after(said: str | None, attempt: int) -> float:
    """Seconds to wait: what the server asks for, in seconds or as a date; else longer each time, with jitter."""
    if said is not None and said.isdecimal():
        return float(said)
    if said is not None:
        try:
            moment = parsedate_to_datetime(said)
        except ValueError:
            moment = None
        if moment is not None and moment.tzinfo is not None:
            return max(0.0, (moment - datetime.now(UTC)).total_seconds())
    return random.uniform(0.25, 0.5) * (1 << attempt)


class _Turns:
    """At most so many at once of each host."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._busy: Counter[str] = Counter()
        self._change = threading.Condition()

    @contextmanager
    def of(self, host: str) -> Iterator[None]:
        with self._change:
            self._change.wait_for(lambda: self._busy[host] < self._most)
            self._busy[host] += 1
        try:
            yield
        finally:
            with self._change:
                self._busy[host] -= 1
                if not self._busy[host]:
                    del self._busy[host]
                self._change.notify_all()


# --- connections ---------------------------------------------------------------------------------------------------


class _Network(httpcore.NetworkBackend):
    """Connects to addresses that may be connected to, and waits no longer than the picture of this thread may take."""

    def __init__(self, limits: Limits) -> None:
        self._allow_private = limits.allow_private
        self._inner = httpcore.SyncBackend()
        self._of_thread = threading.local()

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        self._of_thread.end = time.monotonic() + seconds
        try:
            yield
        finally:
            del self._of_thread.end

    def left(self) -> float:
        """Seconds that the picture of this thread may still take."""
        end: float = getattr(self._of_thread, "end", float("inf"))
        return end - time.monotonic()

    def capped(self, timeout: float | None) -> float | None:
        left = self.left()
        if left <= 0:
            raise httpcore.ReadTimeout("the time is up")
        return left if timeout is None else min(timeout, left)

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        refused: httpcore.ConnectError | httpcore.ConnectTimeout | None = None
        for address in _addresses(host, port, allow_private=self._allow_private):
            try:
                stream = self._inner.connect_tcp(address, port, self.capped(timeout), local_address, socket_options)
                return _Stream(stream, self)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                refused = error
        raise refused or httpcore.ConnectError("it has no address")

    def sleep(self, seconds: float) -> None:
        self._inner.sleep(seconds)


class _Stream(httpcore.NetworkStream):
    """A connection on which a server that sends a byte now and then does not gain time."""

    def __init__(self, inner: httpcore.NetworkStream, network: _Network) -> None:
        self._inner = inner
        self._network = network

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._network.capped(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._network.capped(timeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(
            self._inner.start_tls(ssl_context, server_hostname, self._network.capped(timeout)), self._network
        )

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


def _addresses(host: str, port: int, *, allow_private: bool) -> list[str]:
    """The addresses of a host, if it may be connected to.

    Raises:
        InvalidImage: one of them is private, so none is used.
        httpcore.ConnectError: it has none.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpcore.ConnectError(f"{host} is no host that is known") from error
    addresses = list(dict.fromkeys(str(answer[4][0]) for answer in found))
    for address in addresses:
        if not allow_private and not _is_public(ipaddress.ip_address(address.partition("%")[0])):
            raise InvalidImage(
                f"{host} is {address}, in a network that is not public: such addresses are fetched with allow_private"
            )
    return addresses


def _is_public(address: Address) -> bool:
    """Whether anybody on the internet means the same machine by it; IPv4 inside IPv6 is judged as what it is."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _TRANSLATED:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return _is_public(inner)
        if address.teredo is not None:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved
