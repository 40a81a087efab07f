"""Pictures over http: a real server on this machine, as friendly and as hostile as servers are."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import toys

from pixdex.errors import ConfigError, InvalidImage, MissingDependency
from pixdex.jobs import Job

pytest.importorskip("httpx")

from pixdex.sources import web
from pixdex.sources.web import Limits, Web, _is_public

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers by the table of its server, and keeps count."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server = self.server
        with server.lock:
            server.seen.append(self.path)
            server.now += 1
            server.most = max(server.most, server.now)
        try:
            server.answers.get(self.path, lambda h: h.send(404, b"nothing here"))(self)
        except OSError:  # the client has had enough
            self.close_connection = True
        finally:
            with server.lock:
                server.now -= 1

    def send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        """Quiet."""


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, Answer] = {}
        self.seen: list[str] = []
        self.lock = threading.Lock()
        self.now = self.most = 0

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.server_port}{path}"

    def pictures(self, count: int) -> list[str]:
        for number in range(count):
            self.answers[f"/{number}.png"] = lambda handler, n=number: handler.send(200, toys.png(n))
        return [self.url(f"/{number}.png") for number in range(count)]

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no news."""


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def fetcher() -> Iterator[Callable[..., Web]]:
    made = []

    def make(**limits: object) -> Web:
        made.append(Web(Limits(**{"allow_private": True, **limits})))
        return made[-1]

    yield make
    for one in made:
        one.close()


def refused(fetch: Web, address: str) -> str:
    with pytest.raises(InvalidImage) as caught:
        fetch.fetch(address)
    return str(caught.value)


OPEN = {"allow_remote": True, "allow_private": True}

# --- adding -----------------------------------------------------------------------------------------


def test_an_address_is_fetched_on_request_and_is_its_own_id(photos, server):
    (url,) = server.pictures(1)
    with pytest.raises(ConfigError, match="is fetched on request only: say allow_remote=True"):
        photos.add(url)
    assert server.seen == []
    assert not photos._connector.names(timeout=5)
    assert photos.add(url, **OPEN).added == 1
    assert server.seen == ["/0.png"], "once, for its hash and its pixels"
    assert set(toys.revs(photos)) == {url}
    assert toys.payloads(photos)[url]["path"] == url
    assert photos.add(url, **OPEN).unchanged == 1
    assert photos.add([url], ids=["mine"], **OPEN).reused == 1


def test_an_address_longer_than_an_id_is_hashed(photos, server):
    path = "/x?" + "q" * 600
    server.answers[path] = lambda handler: handler.send(200, toys.png(1))
    photos.add(server.url(path), **OPEN)
    assert set(toys.revs(photos)) == {hashlib.blake2b(server.url(path).encode(), digest_size=16).hexdigest()}


def test_a_table_of_addresses(photos, server, tmp_path):
    urls = server.pictures(20)
    rows = "".join(f"{url},album {n % 2}\n" for n, url in enumerate([*urls, server.url("/gone.png")]))
    (tmp_path / "t.csv").write_text(f"url,album\n{rows}")
    report = photos.add(tmp_path / "t.csv", **OPEN)
    assert report.added == 20
    assert [(row.path, row.reason) for row in report.quarantined] == [
        (server.url("/gone.png"), "127.0.0.1 answers 404 Not Found")
    ]
    assert toys.payloads(photos)[urls[3]]["album"] == "album 1"


def test_annotations_fetch_what_is_not_there_by_the_same_id(photos, server, tmp_path):
    urls = server.pictures(3)
    images = [{"id": n, "file_name": f"{n}.png", "coco_url": url} for n, url in enumerate(urls)]
    del images[2]["coco_url"]
    images[2]["flickr_url"] = urls[2]
    toys.write(tmp_path / "set" / "0.png", 0)
    path = tmp_path / "set" / "x.json"
    path.write_text(json.dumps({"images": images}))
    report = photos.add(path)
    assert report.added == 1
    assert [row.reason for row in report.quarantined] == [
        f"there is no file {tmp_path}/set/{n}.png, and it is an address, and addresses are fetched with allow_remote only"
        for n in (1, 2)
    ]
    assert photos.add(path, **OPEN, job=Job()).added == 2
    assert sorted(server.seen) == ["/1.png", "/2.png"]
    assert photos.add(path.parent, job=Job(sync=True)).removed == 0, "what was fetched is no file that is gone"
    there = toys.payloads(photos)
    assert {record: payload["path"] for record, payload in there.items()} == {
        "set/0.png": f"{tmp_path}/set/0.png", "set/1.png": urls[1], "set/2.png": urls[2]
    }  # fmt: skip
    (tmp_path / "set" / "0.png").unlink()
    again = photos.add(path, **OPEN)
    assert (again.reused, again.unchanged) == (1, 2), "it lies elsewhere now"
    assert toys.payloads(photos)["set/0.png"]["path"] == urls[0]


def test_this_machine_is_private(photos, server):
    (url,) = server.pictures(1)
    report = photos.add([url, url.replace("127.0.0.1", "localhost")], allow_remote=True)
    assert [row.reason for row in report.quarantined] == [
        "127.0.0.1 is 127.0.0.1, in a network that is not public: such addresses are fetched with allow_private",
        "localhost is 127.0.0.1, in a network that is not public: such addresses are fetched with allow_private",
    ]
    assert server.seen == []


def test_allow_private_alone_means_nothing(photos):
    with pytest.raises(ConfigError, match="needs allow_remote too"):
        photos.add(toys.png(1), allow_private=True)


def test_without_httpx_the_extra_is_named(photos, monkeypatch):
    import sys

    monkeypatch.delitem(sys.modules, "pixdex.sources.web")
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(MissingDependency, match=r'httpx is not installed: pip install "pixdex\[http\]"'):
        photos.add("https://example.org/a.png", allow_remote=True)


# --- where connections go -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
     "255.255.255.255", "240.0.0.1", "198.18.0.1", "::1", "::", "fe80::1", "fc00::1", "ff02::1", "::ffff:127.0.0.1",
     "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:db8::1"],
)  # fmt: skip
def test_addresses_that_are_not_public(address):
    assert not _is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "64:ff9b::101:101"])
def test_addresses_that_are(address):
    assert _is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "[::1]", "[::ffff:127.0.0.1]"])
def test_other_spellings_of_this_machine_are_private_too(fetcher, server, host):
    reason = refused(fetcher(allow_private=False), server.url("/0.png", host))
    assert any(part in reason for part in ("not public", "cannot be reached", "not an address"))
    assert server.seen == []


def test_a_name_is_not_asked_for_twice(fetcher, server, monkeypatch):
    """A server of names that answers with a public address first and a private one then gets nowhere."""
    server.pictures(1)
    asked = []
    resolve = socket.getaddrinfo

    def rebinding(host, port, *rest, **options):
        if host == "rebind.example":
            asked.append(host)
            return resolve("127.0.0.1" if len(asked) > 1 else "192.0.2.1", port, *rest, **options)
        return resolve(host, port, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    monkeypatch.setattr(web, "_is_public", lambda address: str(address) == "192.0.2.1")
    reason = refused(fetcher(allow_private=False, connect=0.3), server.url("/0.png", "rebind.example"))
    assert "rebind.example" in reason
    assert server.seen == []
    assert len(asked) == 1


def test_one_private_address_among_several_is_enough(fetcher, server, monkeypatch):
    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, port, *rest, **options: (
            resolve("1.1.1.1", port, *rest, **options) + resolve("127.0.0.1", port, *rest, **options)
        ),
    )
    assert "127.0.0.1, in a network that is not public" in refused(
        fetcher(allow_private=False), server.url("/0.png", "both.example")
    )


def test_redirects_are_followed_and_counted(fetcher, server):
    server.pictures(1)
    server.answers["/a"] = lambda handler: handler.send(302, Location="/b")
    server.answers["/b"] = lambda handler: handler.send(308, Location=server.url("/0.png"))
    server.answers["/loop"] = lambda handler: handler.send(301, Location="/loop")
    server.answers["/nowhere"] = lambda handler: handler.send(302)
    fetch = fetcher()
    assert fetch.fetch(server.url("/a")) == toys.png(0)
    assert refused(fetch, server.url("/loop")) == "more than 5 redirects"
    assert server.seen.count("/loop") == 6
    assert "without saying where to go" in refused(fetch, server.url("/nowhere"))


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("file:///etc/passwd", "file address: only http and https are fetched"),
        ("ftp://example.org/a.png", "ftp address: only http and https are fetched"),
        ("http://user:secret@127.0.0.1/a.png", "holds a user's name or password"),
        ("http://127.0.0.1:99999999/a.png", "not an address"),
    ],
)
def test_redirects_lead_to_the_web_only(fetcher, server, target, reason):
    server.answers["/a"] = lambda handler: handler.send(302, Location=target)
    assert reason in refused(fetcher(), server.url("/a"))


def test_a_redirect_is_checked_like_the_first_address(fetcher, server, monkeypatch):
    """Only the host of the first hop counts as public; the second hop is refused though the first was fine."""
    server.answers["/a"] = lambda handler: handler.send(302, Location=server.url("/0.png", "localhost"))
    server.pictures(1)
    resolve = socket.getaddrinfo
    public = lambda host, port, *rest, **options: resolve(  # noqa: E731
        "127.0.0.2" if host == "public.example" else host, port, *rest, **options
    )
    monkeypatch.setattr(socket, "getaddrinfo", public)
    monkeypatch.setattr(web, "_is_public", lambda address: str(address) == "127.0.0.2")
    other = ThreadingHTTPServer(("127.0.0.2", server.server_port), Handler)
    other.daemon_threads = True
    other.answers, other.seen, other.lock, other.now, other.most = server.answers, server.seen, server.lock, 0, 0
    thread = threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        reason = refused(fetcher(allow_private=False), server.url("/a", "public.example"))
    finally:
        other.shutdown()
        thread.join()
        other.server_close()
    assert "localhost is 127.0.0.1, in a network that is not public" in reason
    assert server.seen == ["/a"]


@pytest.fixture
def secure(server, tmp_path) -> Server:
    """The server over TLS, with a certificate of its own for localhost, which nobody trusts yet."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*make, *names], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return server


def test_certificates_are_checked_against_the_name_that_was_asked_for(fetcher, secure, tmp_path, monkeypatch):
    secure.pictures(1)
    address = secure.url("/0.png", "localhost").replace("http:", "https:")
    assert "certificate verify failed" in refused(fetcher(), address)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    fetch = fetcher()
    assert fetch.fetch(address) == toys.png(0)
    assert fetch.fetch(address) == toys.png(0), "over the same connection"
    assert "certificate verify failed" in refused(fetch, address.replace("localhost", "127.0.0.1"))


# --- what it may cost -------------------------------------------------------------------------------


def test_a_body_that_is_too_large_is_not_read(fetcher, server):
    def endless(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for _ in range(10_000):
            handler.wfile.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")

    server.answers["/endless"] = endless
    server.answers["/large"] = lambda handler: handler.send(200, bytes(2_000_000))
    fetch = fetcher(max_bytes=1_000_000)
    assert refused(fetch, server.url("/endless")) == "more than 1000000 bytes, the limit"
    assert refused(fetch, server.url("/large")) == "2000000 bytes, the limit is 1000000"


def test_a_server_that_says_nothing_is_left(fetcher, server):
    server.answers["/mute"] = lambda handler: time.sleep(1)
    started = time.monotonic()
    assert refused(fetcher(read=0.2), server.url("/mute")) == "127.0.0.1 does not answer in time"
    assert time.monotonic() - started < 0.9


@pytest.mark.parametrize("part", ["head", "body"])
def test_a_server_that_sends_a_byte_now_and_then_gains_no_time(fetcher, server, part):
    def drip(handler: Handler) -> None:
        if part == "body":
            handler.send_response(200)
            handler.send_header("Content-Length", "1000")
            handler.end_headers()
        else:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        for _ in range(60):
            handler.wfile.write(b"x")
            handler.wfile.flush()
            time.sleep(0.05)

    server.answers["/drip"] = drip
    started = time.monotonic()
    assert refused(fetcher(read=1.0, total=0.5), server.url("/drip")) == "127.0.0.1 does not answer in time"
    assert time.monotonic() - started < 1.5


def test_a_connection_that_breaks_is_a_reason(fetcher, server):
    def cut(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"abc")
        handler.close_connection = True

    server.answers["/cut"] = cut
    assert refused(fetcher(), server.url("/cut")).startswith("127.0.0.1 cannot be reached: ")


def test_nobody_there(fetcher):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert "cannot be reached" in refused(fetcher(), f"http://127.0.0.1:{unused.getsockname()[1]}/a.png")


def test_a_host_that_does_not_exist(fetcher):
    assert "nowhere.invalid cannot be reached" in refused(fetcher(), "http://nowhere.invalid/a.png")


def test_no_more_than_so_many_at_once_of_one_host(photos, server):
    urls = server.pictures(30)
    for path, answer in list(server.answers.items()):
        server.answers[path] = lambda handler, a=answer: (time.sleep(0.02), a(handler))
    assert photos.add(urls, **OPEN).added == 30
    assert 1 < server.most <= 4


def test_ctrl_c_does_not_wait_for_slow_servers(server, tmp_path):
    """In a process of its own, which a signal that comes late does not take the test run with."""
    server.answers["/mute"] = lambda handler: time.sleep(6)
    code = f"""
import signal
import pixdex

signal.signal(signal.SIGINT, signal.default_int_handler)
photos = pixdex.open("pq://{tmp_path / "photos.pix"}", encoder="classic")
photos.add([{server.url("/mute")!r}] * 9, allow_remote=True, allow_private=True)
"""
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not server.seen and time.monotonic() < until:
        time.sleep(0.05)
    started = time.monotonic()
    child.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in child.communicate(timeout=60)[1]
    assert time.monotonic() - started < 4


# --- busy servers -----------------------------------------------------------------------------------


def busy(times: int, status: int, **headers: str) -> Answer:
    left = [times]

    def answer(handler: Handler) -> None:
        left[0] -= 1
        if left[0] >= 0:
            handler.send(status, b"later", **headers)
        else:
            handler.send(200, toys.png(1))

    return answer


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again_when_it_says(fetcher, server, status):
    server.answers["/a"] = busy(2, status, Retry_After="0")
    assert fetcher().fetch(server.url("/a")) == toys.png(1)
    assert len(server.seen) == 3


def test_a_date_to_come_again_is_waited_for(fetcher, server):
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    server.answers["/a"] = busy(1, 503, Retry_After=soon)
    started = time.monotonic()
    assert fetcher().fetch(server.url("/a")) == toys.png(1)
    assert time.monotonic() - started > 0.5


def test_a_server_that_stays_busy_or_wants_too_long_is_left(fetcher, server):
    server.answers["/always"] = busy(99, 429, Retry_After="0")
    server.answers["/tomorrow"] = busy(1, 503, Retry_After="86400")
    fetch = fetcher()
    assert refused(fetch, server.url("/always")) == "127.0.0.1 is too busy: it answers 429 Too Many Requests"
    assert server.seen == ["/always"] * 3
    assert "503 Service Unavailable" in refused(fetch, server.url("/tomorrow"))
    assert server.seen.count("/tomorrow") == 1


def test_other_answers_are_final(fetcher, server):
    server.answers["/a"] = lambda handler: handler.send(500, b"oops")
    assert refused(fetcher(), server.url("/a")) == "127.0.0.1 answers 500 Internal Server Error"
    assert len(server.seen) == 1


def test_names_of_hosts_and_paths_in_any_script(fetcher, server):
    server.answers["/caf%C3%A9%20x.png"] = lambda handler: handler.send(200, toys.png(1))
    assert fetcher().fetch(server.url("/café x.png")) == toys.png(1)
