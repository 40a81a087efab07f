"""Trunks: networks loaded with transformers, up to their last hidden state.

Only safetensors weights are read, in float32; nothing is unpickled and no code of a model repository is run. torch and
transformers are imported when a trunk is loaded, not before.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import orjson
from numpy.typing import NDArray

from pixdex.encoders._digest import digest_of, tensors_digest
from pixdex.encoders.pooling import as_tokens
from pixdex.encoders.preprocess import Preprocess
from pixdex.errors import ConfigError, MissingDependency

if TYPE_CHECKING:
    import torch

__all__ = ["Activations", "Trunk"]

_FILES = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
)
_SILENT = 100
"""Above every level of the logging module."""
_VOLATILE = frozenset({
    "_name_or_path", "architectures", "dtype", "id2label", "label2id", "torch_dtype", "transformers_version",
})  # fmt: skip
"""Keys of a ``config.json`` that shape no vector."""


@dataclass(frozen=True, slots=True, eq=False)
class Activations:
    """What a trunk makes of n pictures.

    Attributes:
        cells: float32 ``[n, t, d]``, the local descriptors row by row: patch tokens after the final norm, or the
            cells of a feature map.
        cls: float32 ``[n, d]``, the class token, or None for a trunk without.
    """

    cells: NDArray[np.float32]
    cls: NDArray[np.float32] | None


class Trunk:
    """A vision network without its head. Made by ``load``.

    Attributes:
        name: the model's name, such as ``vit-tiny-16-224``.
        preprocess: what its input must look like.
        dim: width of a descriptor.
        cells: how many local descriptors a picture has.
        prefix: how many tokens come before the patches: the class token and registers; 0 for feature maps.
    """

    def __init__(self, model: torch.nn.Module, name: str, config: bytes, preprocess: Preprocess) -> None:
        self._model = model
        self._config = config
        self.name = name
        self.preprocess = preprocess
        self.prefix = 0
        probe = self._last_hidden_state(np.zeros((1, 3, *preprocess.size), dtype=np.float32))
        if probe.ndim == 3:
            self.prefix = _prefix(probe.shape[1], orjson.loads(config), preprocess)
        self.dim = int(probe.shape[2] if probe.ndim == 3 else probe.shape[1])
        self.cells = as_tokens(probe).shape[1] - self.prefix

    @classmethod
    def load(cls, source: str | os.PathLike[str], *, preprocess: Preprocess | None = None) -> Trunk:
        """Load a model folder, or a model of the Hugging Face hub by name.

        A folder never touches the network. A hub name is looked up in the local cache first, then, unless
        ``HF_HUB_OFFLINE`` is set, on the hub. ``preprocess`` replaces what the folder says about its input.

        Raises:
            ConfigError: not a model, no safetensors weights, weights that don't fit, or nothing known about its input.
            MissingDependency: torch or transformers is not installed.
        """
        _require("torch")
        _require("transformers")
        folder = _folder(os.fspath(source))
        config = _checked_config(folder)
        prepared = preprocess or _preprocess(folder)
        model = _load_model(folder)
        return cls(model, Path(os.fspath(source)).name, config, prepared)

    def forward(self, batch: NDArray[np.float32]) -> Activations:
        """Descriptors of normalized pictures, float32 ``[n, 3, h, w]``."""
        state = as_tokens(self._last_hidden_state(batch))
        return Activations(state[:, self.prefix :], state[:, 0] if self.prefix else None)

    def weights_digest(self) -> str:
        """Digest of the parameters in float32, however the file stores them."""
        return tensors_digest({name: tensor.numpy() for name, tensor in self._model.state_dict().items()})

    def config_digest(self) -> str:
        """Digest of the architecture."""
        return digest_of({k: v for k, v in orjson.loads(self._config).items() if k not in _VOLATILE})

    def save(self, folder: Path) -> None:
        """Write a folder that ``load`` reads: ``config.json`` and ``model.safetensors``."""
        with _quiet():
            cast("Any", self._model).save_pretrained(folder, safe_serialization=True)
        # As it was loaded: what the library writes back differs with its version.
        (folder / "config.json").write_bytes(self._config)

    def _last_hidden_state(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            state = self._model(pixel_values=torch.from_numpy(batch)).last_hidden_state
        return cast("NDArray[np.float32]", state.numpy())


def _require(package: str) -> None:
    try:
        __import__(package)
    except ImportError as error:
        raise MissingDependency(package, "torch") from error


def _folder(source: str) -> Path:
    """The local folder of a model, downloaded when it is a hub name that is not in the cache."""
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.exists() or source.startswith(("/", ".", "~")) or source.count("/") > 1 or not source:
        raise ConfigError(f"{source!r} is not a model: no such folder")
    return _from_hub(source)


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(_FILES), local_files_only=True))
    except Exception as error:  # the client raises many kinds; each means: not in the cache
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
            raise ConfigError(
                f"model {name!r} is neither a folder nor in the Hugging Face cache, and HF_HUB_OFFLINE is set"
            ) from error
    try:
        with _quiet():
            return Path(snapshot_download(name, allow_patterns=list(_FILES)))
    except Exception as error:  # the same, plus whatever a network does
        raise ConfigError(f"model {name!r} is not a folder and could not be fetched from the hub: {error}") from error


def _checked_config(folder: Path) -> bytes:
    file = folder / "config.json"
    if not file.is_file():
        raise ConfigError(f"{folder} is not a model: it has no config.json")
    config = file.read_bytes()
    try:
        model_type = orjson.loads(config)["model_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder} is not a model: its config.json names no model_type") from error
    if not any(folder.glob("*.safetensors")):
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt*"))
        remedy = (
            f"only pickled weights, which are not read: save {model_type} again with save_pretrained"
            if pickled
            else "no weights"
        )
        raise ConfigError(f"{folder} has no *.safetensors: {remedy}")
    return config


def _preprocess(folder: Path) -> Preprocess:
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            try:
                values = orjson.loads((folder / name).read_bytes())
                return Preprocess.from_transformers(values.get("image_processor", values))
            except (orjson.JSONDecodeError, AttributeError) as error:
                raise ConfigError(f"{folder / name} is not JSON of a preprocessor") from error
    raise ConfigError(f"{folder} has no preprocessor_config.json: what its input looks like is part of a model")


def _load_model(folder: Path) -> torch.nn.Module:
    import torch
    from transformers import AutoModel

    try:
        with _quiet():
            model, report = AutoModel.from_pretrained(
                folder,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except Exception as error:  # transformers and safetensors raise anything on a damaged or unknown model
        raise ConfigError(f"{folder} cannot be loaded: {error}") from error
    if model.main_input_name != "pixel_values":
        raise ConfigError(f"{folder} is not a vision model: it takes {model.main_input_name}")
    _drop_unused(model, report, folder)
    model.eval()
    return cast("torch.nn.Module", model)


def _drop_unused(model: Any, report: Mapping[str, Any], folder: Path) -> None:
    """Take off a pooler that the file has no weights for: it would be random, and it is not used here."""
    missing = sorted(report["missing_keys"])
    if missing and all(key.startswith("pooler.") for key in missing):
        model.pooler = None
        missing = []
    if missing or report["mismatched_keys"] or report["error_msgs"]:
        what = missing or report["mismatched_keys"] or report["error_msgs"]
        raise ConfigError(f"{folder}: weights and config.json don't fit: {next(iter(what))}")


def _prefix(tokens: int, config: Mapping[str, Any], preprocess: Preprocess) -> int:
    """Tokens before the patches. Hierarchical networks merge patches and have none."""
    patch = config.get("patch_size")
    if not isinstance(patch, int):
        return 0
    height, width = preprocess.size
    return max(0, tokens - (height // patch) * (width // patch))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the load report and the progress bars of transformers; its settings come back afterwards."""
    from transformers.utils import logging as library

    logging = cast("Any", library)  # half typed
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(_SILENT)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
