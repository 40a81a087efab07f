"""Where a model lies: a local folder, or the cache of the Hugging Face hub, filled when it must be."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

import orjson

from pixdex.encoders._models import MODULES, TOKENIZER, WEIGHTS, first_line, model_folder
from pixdex.errors import ConfigError

__all__ = ["cache_folder", "is_whole", "locate"]

_INNER = "0_*/"
"""Where sentence-transformers keeps the model."""
_SMALL = (
    "config.json", "preprocessor_config.json", "processor_config.json", *TOKENIZER, "sentence_bert_config.json",
    "config_sentence_transformers.json", "*_Pooling/config.json",
)  # fmt: skip
_TIMEOUT = 10.0
"""Seconds until the hub has told what a model consists of."""


def locate(source: str) -> Path:
    """The local folder of a model, downloaded when it is a hub name that is not in the cache.

    A model that is whole in the cache is taken from there, without a question to the hub.

    Raises:
        ConfigError: no such folder, or the hub does not give it; the message names the remedy.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.exists() or source.startswith(("/", ".", "~")) or source.count("/") > 1 or not source:
        raise ConfigError(f"{source!r} is not a model: no such folder")
    cached = _cached(source)
    if cached is not None:
        return cached
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        raise ConfigError(
            f"model {source!r} is neither a folder nor whole in the Hugging Face cache, and HF_HUB_OFFLINE is set"
        )
    return _download(source)


def cache_folder() -> Path | None:
    """Where the client of the hub keeps models; None where it is not installed."""
    try:
        from huggingface_hub import constants
    except ImportError:
        return None
    return Path(constants.HF_HUB_CACHE)


def _cached(name: str) -> Path | None:
    """The folder in the cache, if everything is there: the client also gives what a broken-off download left."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, local_files_only=True, allow_patterns=_patterns(_SMALL + WEIGHTS)))
        return folder if is_whole(folder) else None
    except Exception:  # noqa: BLE001 - the client raises many kinds; each means: not in the cache
        return None


def is_whole(snapshot: Path) -> bool:
    """Whether the weights of a model in the cache are there. They are fetched last, so then all is.

    Raises:
        ConfigError: its list of modules cannot be followed.
    """
    folder = model_folder(snapshot)
    if not (folder / "config.json").is_file():
        return False
    indexes = list(folder.glob("model*.safetensors.index.json"))
    if not indexes:
        return any(folder.glob("model*.safetensors"))
    shards = {shard for index in indexes for shard in orjson.loads(index.read_bytes())["weight_map"].values()}
    return all((folder / shard).is_file() for shard in shards)


def _download(name: str) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    with _explained(name):
        # Asked first: it fails at once where the client would try to download for half a minute.
        listed = [sibling.rfilename for sibling in HfApi().model_info(name, timeout=_TIMEOUT).siblings or ()]
    _check(name, listed)
    with _explained(name):
        snapshot_download(name, allow_patterns=[MODULES, *_patterns(_SMALL)])
        return Path(snapshot_download(name, allow_patterns=[MODULES, *_patterns(_SMALL + WEIGHTS)]))


def _check(name: str, files: Sequence[str]) -> None:
    """Refuse what could not be loaded before anything is fetched."""
    if any(fnmatch(file, pattern) for file in files for pattern in _patterns(WEIGHTS)):
        return
    if any(PurePosixPath(file).suffix in {".bin", ".pt", ".pth", ".h5", ".msgpack"} for file in files):
        raise ConfigError(
            f"model {name!r} has no *.safetensors on the hub, only pickled weights or those of other libraries, which "
            "are not read: load it with transformers in a place where it may run code, and save_pretrained it"
        )
    raise ConfigError(f"{name!r} is not a folder, and on the hub it holds no weights that transformers could load")


def _patterns(names: Sequence[str]) -> list[str]:
    return [*names, *(_INNER + name for name in names)]


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """One sentence and a remedy for whatever the client and the network do."""
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT
    try:
        yield
    except errors.GatedRepoError as error:
        raise ConfigError(
            f"model {name!r} is gated: accept its terms at {hub}/{name}, then log in with `hf auth login` or set HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ConfigError(
            f"{name!r} is not a folder, and {hub} knows no such model; for a private one log in with `hf auth login` or "
            "set HF_TOKEN"
        ) from error
    except errors.HFValidationError as error:
        raise ConfigError(f"{name!r} is not a folder, and not a name that a model of the hub may have") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        remedy = "log in with `hf auth login` or set HF_TOKEN" if status in {401, 403} else "try again later"
        raise ConfigError(f"{hub} refuses model {name!r} ({status}): {remedy}") from error
    except Exception as error:  # whatever a network does, in the kinds of a library that changes with the client
        raise ConfigError(
            f"model {name!r} is not a folder and could not be fetched from {hub} ({first_line(error)}): try again, or "
            "without a network use a folder"
        ) from error
