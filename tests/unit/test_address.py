"""Addresses and the way from one to a store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

import pixdex
from pixdex._names import check_collection
from pixdex.connectors import available, connect
from pixdex.connectors.address import Address, Server, parse, secret
from pixdex.connectors.memory import MemoryConnector
from pixdex.errors import ConfigError, nearest


@dataclass(frozen=True)
class Options:
    grpc: bool = False
    port: int = 1
    wait: float = 0.5
    key_env: str | None = None
    limit: int | None = None


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("memory://", Address("memory", "")),
        ("memory://#x", Address("memory", "", "x")),
        ("pq://photos.pix", Address("pq", "photos.pix")),
        ("pq:///var/lib/photos#sommer-2020.v1", Address("pq", "/var/lib/photos", "sommer-2020.v1")),
        ("pq://a b/ü?sync=0", Address("pq", "a b/ü", None, {"sync": "0"})),
        ("milvus+lite://file.db#name", Address("milvus+lite", "file.db", "name")),
        (
            "qdrant://host:6333/name?grpc=1&key_env=KEY",
            Address("qdrant", "host:6333/name", None, {"grpc": "1", "key_env": "KEY"}),
        ),
        ("pq://x?a=", Address("pq", "x", None, {"a": ""})),
        ("pq://x#", Address("pq", "x")),
    ],
)
def test_parse(url: str, expected: Address) -> None:
    assert parse(url) == expected


@pytest.mark.parametrize("url", ["", "photos.pix", "/var/lib", "://x", "PQ://x", "pq:/x", "1q://x"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ConfigError, match="no address"):
        parse(url)


@pytest.mark.parametrize("name", ["", "a b", "-a", ".a", "a/b", "ä", "a" * 129, "a\n"])
def test_collection_names_that_stores_refuse(name: str) -> None:
    with pytest.raises(ConfigError, match="collection name"):
        check_collection(name)
    if name:
        with pytest.raises(ConfigError, match="collection name"):
            pixdex.open(f"memory://#{name}")


@pytest.mark.parametrize(
    ("url", "server", "collection"),
    [
        ("qdrant://localhost:6333/photos", Server("localhost", 6333), "photos"),
        ("qdrant://localhost", Server("localhost", None), "main"),
        ("qdrant://[::1]:6333/photos?grpc=1", Server("::1", 6333), "photos"),
        ("milvus://host:19530/db/photos", Server("host", 19530, "db"), "photos"),
        ("milvus://host/db#photos", Server("host", None, "db"), "photos"),
        ("milvus://host/#my%20photos", Server("host", None), "my photos"),
    ],
)
def test_server_addresses(url: str, server: Server, collection: str) -> None:
    address = parse(url).with_served_collection()
    assert (address.server, address.collection) == (server, collection)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("qdrant://", "names no server"),
        ("qdrant://h/a/b/c", "names no server"),
        ("qdrant://h:port/a", "Port"),
        ("qdrant://h/a/b#c", "two collections"),
        ("qdrant://me:hush@h/a", "key_env"),
    ],
)
def test_what_is_no_server(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse(url).with_served_collection()
    assert "hush" not in str(caught.value)


def test_secrets_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXDEX_TEST_KEY", "hush")
    assert secret("PIXDEX_TEST_KEY") == "hush"
    assert secret(None) is None
    with pytest.raises(ConfigError, match="PIXDEX_NO_KEY"):
        secret("PIXDEX_NO_KEY")


def test_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse("pq://~/photos").path == str(tmp_path / "photos")
    assert parse("pq://photos").path == "photos"
    with pytest.raises(ConfigError, match="needs a path"):
        _ = parse("pq://").path


def test_options() -> None:
    read = parse("q://h?grpc=yes&port=7&wait=2&key_env=KEY&limit=3").read_options(Options)
    assert read == Options(grpc=True, port=7, wait=2.0, key_env="KEY", limit=3)
    assert parse("q://h?grpc=Off").read_options(Options) == Options()


def test_unknown_option_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no option 'prot'.*did you mean 'port'.*grpc, key_env"):
        parse("q://h?prot=1").read_options(Options)


@pytest.mark.parametrize("query", ["grpc=maybe", "port=x", "port=1.5", "wait=long", "limit="])
def test_option_of_the_wrong_type(query: str) -> None:
    with pytest.raises(ConfigError, match=query.partition("=")[0]):
        parse(f"q://h?{query}").read_options(Options)


def test_repr_shows_no_secret() -> None:
    shown = repr(parse("qdrant://user:pass@host:1/db?password=hush&key_env=KEY#c"))
    assert shown == str(parse("qdrant://user:pass@host:1/db?password=hush&key_env=KEY#c"))
    assert "pass@" not in shown
    assert "user" not in shown
    assert "hush" not in shown
    assert "key_env=KEY" in shown
    assert shown.startswith("qdrant://host:1/db?")
    assert shown.endswith("#c")
    assert repr(parse("pq://a@b/c")) == "pq://b/c"
    assert repr(parse("pq://x/a@b")) == "pq://x/a@b"


def test_nearest() -> None:
    assert nearest("qdrnt", ["qdrant", "pq"]) == " (did you mean 'qdrant'? known: pq, qdrant)"
    assert nearest("zzz", []) == " (known: none)"


def test_connect_to_memory() -> None:
    connector, name = connect("memory://#pictures")
    assert isinstance(connector, MemoryConnector)
    assert name == "pictures"
    assert connect("memory://")[1] == "main"
    with pytest.raises(ConfigError, match=r"no store .memroy. .*did you mean 'memory'"):
        connect("memroy://")
    with pytest.raises(ConfigError, match="no option"):
        connect("memory://?x=1")
    assert list(available()) == sorted(available())
