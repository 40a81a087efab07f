"""Encoders as things that lie somewhere: which there are, what they are, and whether they are what they say they are."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import orjson

from pixdex import encoders
from pixdex.collection import Collection
from pixdex.connectors import connect
from pixdex.encoders import _hub as hub
from pixdex.encoders.compose import CONFIG_FILE, read_document
from pixdex.errors import ConfigError, FingerprintMismatch, MissingDependency, PixdexError
from pixdex.fields import IMAGE

if TYPE_CHECKING:
    from pixdex.encoders.port import Encoder

__all__ = [
    "Check",
    "Entry",
    "cached",
    "describe",
    "describe_collection",
    "in_folders",
    "named",
    "pull",
    "verify",
    "verify_collection",
]

_TAKES = {"hf": "a model folder, or a name of the hub", "onnx": "an .onnx file"}
"""What follows the colon of names that are nothing without it."""
_CHUNK = 1 << 22
_HUB_PREFIX = "hf:"
_LEAST = 0.999
"""Cosine between two encodings of one picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An encoder that ``--encoder`` can name.

    Attributes:
        reference: how.
        kind: where it comes from.
        digest: of its fingerprint; None where that takes loading it.
        size: bytes, None for what is part of a package.
        place: its folder.
        note: what else there is to say.
    """

    reference: str
    kind: Literal["installed", "saved", "exported", "model", "cached"]
    digest: str | None = None
    size: int | None = None
    place: str | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at: what, whether it holds, and what was found."""

    what: str
    holds: bool
    found: str


# --- which there are ---------------------------------------------------------------------------------


def named() -> list[Entry]:
    """What is installed: the built-in encoders and those of plugins."""
    return [_installed(name) for name in encoders.available()]


def _installed(name: str) -> Entry:
    if name in _TAKES:
        return Entry(reference=f"{name}:...", kind="installed", note=_TAKES[name])
    try:
        made = encoders.load(name)
    except PixdexError as error:  # it wants something after its name, or an extra
        return Entry(reference=name, kind="installed", note=str(error))
    return Entry(
        reference=made.reference, kind="installed", digest=made.fingerprint.digest, note=f"{made.dim} x {made.metric}"
    )


def in_folders(folders: Sequence[Path]) -> list[Entry]:
    """The saved and exported encoders, and models of transformers, that are these folders or lie right under them.

    Raises:
        ConfigError: there is none at or under a folder.
    """
    found: list[Entry] = []
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{folder} is no folder")
        here = _in_folder(folder)
        below = [] if here else [_in_folder(child) for child in sorted(folder.iterdir()) if child.is_dir()]
        entries = [entry for entry in (here, *below) if entry is not None]
        if not entries:
            raise ConfigError(f"{folder} neither is nor holds an encoder: there is no {CONFIG_FILE} and no model")
        found += entries
    return found


def _in_folder(folder: Path) -> Entry | None:
    place, size = str(folder.resolve()), _bytes_of(folder)
    if (folder / CONFIG_FILE).is_file():
        try:
            document = read_document(folder / CONFIG_FILE)
        except ConfigError as error:
            return Entry(reference=str(folder), kind="saved", size=size, place=place, note=str(error))
        head = ", with a head" if "head" in document else ""
        return Entry(
            reference=str(folder),
            kind="exported" if "outputs" in document else "saved",
            digest=str(document["fingerprint"]),
            size=size,
            place=place,
            note=f"{document['name']}, {document['pooling']}{head}",
        )
    if (folder / "config.json").is_file() and any(folder.glob("model*.safetensors")):
        return Entry(reference=str(folder), kind="model", size=size, place=place, note=_model_type(folder))
    return None


def _model_type(folder: Path) -> str:
    try:
        return str(orjson.loads((folder / "config.json").read_bytes()).get("model_type", ""))
    except (ValueError, AttributeError):
        return "config.json is damaged"


def _bytes_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def cached() -> list[Entry]:
    """The models of the hub that are in its cache; also those whose download broke off. None where the client is missing."""
    found = []
    for repository in _repositories():
        name = repository.name.removeprefix("models--").replace("--", "/", 1)
        newest = _newest(repository)
        if newest is None:
            continue
        try:
            whole = hub.is_whole(newest)
        except ConfigError:  # a model of sentence-transformers that is none of pictures
            continue
        if not whole and not (newest / "config.json").is_file():
            continue  # something else, such as a tokenizer
        note = f"revision {newest.name[:12]}" if whole else "not whole: pixdex encoders pull fetches the rest"
        found.append(
            Entry(
                reference=f"{_HUB_PREFIX}{name}",
                kind="cached",
                size=_bytes_of(repository / "blobs"),
                place=str(newest),
                note=note,
            )
        )
    return found


def _repositories() -> list[Path]:
    folder = hub.cache_folder()
    return sorted(folder.glob("models--*")) if folder is not None and folder.is_dir() else []


def _newest(repository: Path) -> Path | None:
    """The snapshot that the branch ``main`` names, else the last one that was made."""
    named = repository / "refs" / "main"
    snapshots = sorted((repository / "snapshots").glob("*"), key=lambda path: path.stat().st_mtime)
    if named.is_file():
        wanted = repository / "snapshots" / named.read_text(encoding="utf-8").strip()
        if wanted.is_dir():
            return wanted
    return snapshots[-1] if snapshots else None


# --- what they are -----------------------------------------------------------------------------------


def describe(encoder: Encoder) -> dict[str, Any]:
    """What an encoder is, as a JSON object: for people, and to compare two of them."""
    tokens = encoder.token_spec
    facts: dict[str, Any] = {
        "name": encoder.name,
        "reference": encoder.reference,
        "dim": encoder.dim,
        "metric": str(encoder.metric),
        "fingerprint": encoder.fingerprint.digest,
        "parts": dict(encoder.fingerprint.parts),
        "tokens": None if tokens is None else f"{tokens.count} x {tokens.dim} {tokens.dtype}",
        "texts": hasattr(encoder, "encode_text"),
    }
    trunk, composition = getattr(encoder, "trunk", None), getattr(encoder, "composition", None)
    if trunk is not None and composition is not None:
        height, width = trunk.preprocess.size
        facts["network"] = f"{trunk.cells} descriptors x {trunk.dim} of {height} x {width} pixels"
        facts["composition"] = composition.to_json()
        facts["preprocessing"] = trunk.preprocess.to_json()
    folder = Path(encoder.reference.partition("?")[0])
    if (folder / CONFIG_FILE).is_file():
        facts["size"] = _bytes_of(folder)
    return facts


def describe_collection(url: str) -> dict[str, Any]:
    """What the collection at an address says of its encoder; the encoder itself is not loaded.

    Raises:
        NotFound: no such collection.
    """
    connector, name = connect(url)
    try:
        spec = Collection.open(connector, name).spec
    finally:
        connector.close()
    tokens = spec.tokens
    return {
        "collection": name,
        "reference": spec.encoder,
        "vectors": {
            vector.name: {
                "encoder": vector.fingerprint.encoder,
                "dim": vector.dim,
                "metric": str(vector.metric),
                "fingerprint": vector.fingerprint.digest,
                "parts": dict(vector.fingerprint.parts),
            }
            for vector in spec.vectors
        },
        "tokens": None if tokens is None else f"{tokens.count} x {tokens.dim} {tokens.dtype}",
    }


# --- fetching ----------------------------------------------------------------------------------------


def pull(reference: str) -> Path:
    """The folder of a model of the hub, fetched where it is not in the cache.

    Raises:
        ConfigError: the reference names a folder, or the hub does not give the model.
        MissingDependency: the client of the hub is not installed.
    """
    name = _hub_name(reference)
    if Path(name).expanduser().exists():
        raise ConfigError(f"{name} is here already: pull takes a name of the hub, such as google/vit-base-patch16-224")
    if hub.cache_folder() is None:
        raise MissingDependency("huggingface_hub", "torch")
    return hub.locate(name)


def _hub_name(reference: str) -> str:
    return reference.removeprefix(_HUB_PREFIX).partition("?")[0]


# --- whether they are whole --------------------------------------------------------------------------


def verify(reference: str) -> list[Check]:
    """Read an encoder whole and compare it with what it says of itself.

    Files of the hub's cache are compared with the checksums that the hub gave for them, a saved or exported encoder with the
    fingerprint in its ``pixdex.json``; then it is loaded and encodes a picture.
    """
    return _verified(reference)[0]


def _verified(reference: str) -> tuple[list[Check], Encoder | None]:
    """What ``verify`` finds, and the encoder where it loads."""
    checks = list(_blobs(reference))
    try:
        encoder = encoders.load(reference)
    except PixdexError as error:
        return [*checks, Check(what="loads", holds=False, found=str(error))], None
    said = _said(reference)
    found = encoder.fingerprint.digest
    if said is not None:
        checks.append(Check(what=f"fingerprint in {CONFIG_FILE}", holds=said == found, found=found))
    else:
        checks.append(Check(what="fingerprint", holds=True, found=found))
    return [*checks, _probed(encoder)], encoder


def verify_collection(url: str, reference: str | None = None) -> list[Check]:
    """Whether the encoder at hand, the one named or the one that the collection names, is the one it was made with.

    Raises:
        NotFound: no such collection.
    """
    connector, name = connect(url)
    try:
        collection = Collection.open(connector, name)
        wanted = reference or collection.spec.encoder
        if wanted is None:
            what = "does not say which encoder made its vectors: name it with --encoder"
            return [Check(what=f"encoder of collection {name!r}", holds=False, found=what)]
        checks, encoder = _verified(wanted)
        if encoder is None or not all(check.holds for check in checks):
            return checks
        if any(vector.name == IMAGE for vector in collection.spec.vectors):
            checks.append(
                _required(f"vectors of {name!r}", lambda: collection.require(encoder.fingerprint, vector=IMAGE))
            )
        else:
            checks.append(Check(what=f"vectors of {name!r}", holds=False, found=f"it has no vector {IMAGE!r}"))
        if collection.spec.tokens is not None:
            checks.append(_required(f"tokens of {name!r}", lambda: collection.require_tokens(encoder.token_spec)))
        return checks
    finally:
        connector.close()


def _required(what: str, require: Callable[[], None]) -> Check:
    try:
        require()
    except FingerprintMismatch as error:
        return Check(what=what, holds=False, found=str(error))
    return Check(what=what, holds=True, found="made by this encoder")


def _said(reference: str) -> str | None:
    """The fingerprint that a folder claims; None for what claims none. Of a part of it (``dim=``) it says nothing."""
    path, _, options = reference.removeprefix(_HUB_PREFIX).partition("?")
    file = Path(path).expanduser() / CONFIG_FILE
    return None if "dim=" in options or not file.is_file() else str(read_document(file)["fingerprint"])


def _probed(encoder: Encoder) -> Check:
    """A picture encoded twice, alone and beside another: vectors that can be searched with, and the same ones."""
    what = "encodes a picture"
    noise = np.random.default_rng(0).integers(0, 256, (2, 96, 128, 3), dtype=np.uint8)
    try:
        alone = encoder.encode([encoder.prepare(noise[0])]).vectors
        beside = encoder.encode([encoder.prepare(pixels) for pixels in noise]).vectors
    except PixdexError as error:
        return Check(what=what, holds=False, found=str(error))
    if alone.shape != (1, encoder.dim) or not np.isfinite(beside).all() or not np.abs(beside).sum(axis=1).all():
        return Check(what=what, holds=False, found=f"vectors of {alone.shape[1]} values, with zeros, NaN or infinity")
    cosine = float(alone[0] @ beside[0] / (np.linalg.norm(alone[0]) * np.linalg.norm(beside[0])))
    return Check(what=what, holds=cosine >= _LEAST, found=f"{encoder.dim} values, the same twice to {cosine:.5f}")


def _blobs(reference: str) -> Iterator[Check]:
    """The files of a model in the hub's cache: each is called by the checksum that the hub gave for it."""
    name = _hub_name(reference)
    folder = hub.cache_folder()
    if folder is None or Path(name).expanduser().exists() or name.count("/") != 1:
        return
    newest = _newest(folder / f"models--{name.replace('/', '--')}")
    if newest is None:
        return
    for file in sorted(path for path in newest.rglob("*") if path.is_file()):
        checksum = _checksum_of(file)
        if checksum is not None:
            called, found = checksum
            shown = file.relative_to(newest).as_posix()
            note = found[:16] if called == found else f"its checksum is {found[:16]}, not {called[:16]}: pull it again"
            yield Check(what=shown, holds=called == found, found=note)


def _checksum_of(file: Path) -> tuple[str, str] | None:
    """What a file of the cache is called by, and what that should be: SHA-256 for large files, git's SHA-1 for others."""
    blob = Path(os.path.realpath(file))
    called = blob.name
    states: Mapping[int, Any] = {64: hashlib.sha256(), 40: hashlib.sha1(usedforsecurity=False)}
    state = states.get(len(called))
    if state is None or blob.parent.name != "blobs":
        return None
    if len(called) == 40:
        state.update(f"blob {blob.stat().st_size}\0".encode())
    with blob.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            state.update(chunk)
    return called, state.hexdigest()
