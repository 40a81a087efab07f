"""Model folders as transformers writes them: what they hold, and their networks loaded.

Only safetensors weights are read, in float32; nothing is unpickled and no code of a model repository is run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, cast

import orjson

from pixdex.encoders._digest import digest_of
from pixdex.encoders.preprocess import Preprocess
from pixdex.errors import ConfigError, MissingDependency

if TYPE_CHECKING:
    import torch

__all__ = [
    "MODULES",
    "TOKENIZER",
    "WEIGHTS",
    "ModelFolder",
    "first_line",
    "load_network",
    "load_text_network",
    "model_folder",
    "quiet",
    "require_libraries",
    "require_vision",
]

_SILENT = 100
"""Above every level of the logging module."""
_VOLATILE = frozenset({
    "_name_or_path", "architectures", "dtype", "id2label", "label2id", "torch_dtype", "transformers_version",
})  # fmt: skip
"""Keys of a ``config.json`` that shape no vector."""
WEIGHTS = ("model*.safetensors", "model*.safetensors.index.json")
"""Patterns of weight files; some repositories hold the same weights under other names once more."""
TOKENIZER = (
    "added_tokens.json", "merges.txt", "sentencepiece.bpe.model", "special_tokens_map.json", "spiece.model",
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt",
)  # fmt: skip
MODULES = "modules.json"
"""What sentence-transformers calls its list of modules."""
_FOLLOWED = frozenset({"CLIPModel", "Transformer", "Normalize", "Pooling"})
"""Modules of sentence-transformers that are the model, or that pooling here stands for."""
_KEPT = ("config.json", *WEIGHTS, *TOKENIZER)
_DUALS = {
    "clip": ("CLIPVisionModelWithProjection", "CLIPTextModelWithProjection"),
    "metaclip_2": ("MetaClip2VisionModelWithProjection", "MetaClip2TextModelWithProjection"),
    "siglip": ("SiglipVisionModel", "SiglipTextModel"),
}
"""Model types with a tower for pictures and one for texts, and the classes of both."""
_PROJECTED = frozenset({"CLIPVisionModelWithProjection", "MetaClip2VisionModelWithProjection"})
"""Vision towers saved alone whose projection AutoModel would leave out."""
_NAFLEX = "for pictures of any shape (NaFlex): take a SigLIP 2 of fixed resolution, such as siglip2-base-patch16-224"
_UNREAD = {
    "siglip2": _NAFLEX,
    "siglip2_vision_model": _NAFLEX,
    "timm_wrapper": "a timm model: export it to ONNX, or take the same network as transformers saves it",
    "vit_mae": "a model that hides random patches: load its encoder as ViTModel and save that",
}
"""Model types that have pictures as input and no vector that could be relied on."""


@dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """A folder with ``config.json`` and safetensors weights, checked as far as can be without a library.

    Attributes:
        path: where it is.
        name: what the model is called.
        config: the bytes of its ``config.json``.
    """

    path: Path
    name: str
    config: bytes

    @classmethod
    def read(cls, folder: Path, *, name: str) -> ModelFolder:
        """Look into a folder, or into that of its transformer where sentence-transformers made it.

        Raises:
            ConfigError: no model, or none with weights in safetensors.
        """
        path = model_folder(folder)
        config = _config(path)
        found = cls(path=path, name=name, config=config)
        if found.model_type in _UNREAD:
            raise ConfigError(f"{path} is {found.model_type}, {_UNREAD[found.model_type]}")
        if not any(path.glob("model*.safetensors")):
            pickled = any(path.glob("*.bin")) or any(path.glob("*.pt*"))
            remedy = (
                f"only pickled weights, which are not read: save {found.model_type} again with save_pretrained"
                if pickled
                else "no weights"
            )
            raise ConfigError(f"{path} has no *.safetensors: {remedy}")
        return found

    @cached_property
    def values(self) -> Mapping[str, Any]:
        """What ``config.json`` says."""
        return cast("Mapping[str, Any]", orjson.loads(self.config))

    @property
    def model_type(self) -> str:
        return str(self.values["model_type"])

    @property
    def architecture(self) -> str:
        """The class it was saved from; empty when it does not say."""
        return str((self.values.get("architectures") or [""])[0])

    @property
    def is_dual(self) -> bool:
        """Whether there is a tower for texts too."""
        return self.model_type in _DUALS

    @property
    def defines_embedding(self) -> bool:
        """Whether it was trained to embed pictures: its own embedding is then what it is used for."""
        return self.model_type.removesuffix("_vision_model") in _DUALS

    @property
    def is_backbone(self) -> bool:
        """Whether it was saved for the feature maps that its config names."""
        return self.architecture.endswith("Backbone")

    def files(self) -> list[Path]:
        """The files that make it up, but for what its input looks like."""
        return sorted({file for pattern in _KEPT for file in self.path.glob(pattern)})

    def preprocess(self) -> Preprocess:
        """What its input looks like.

        Raises:
            ConfigError: it does not say, or something that cannot be followed.
        """
        for name, nested in (("processor_config.json", True), ("preprocessor_config.json", False)):
            file = self.path / name
            if not file.is_file():
                continue
            try:
                values = orjson.loads(file.read_bytes())
                found = values.get("image_processor", None if nested else values)
                if found is not None:
                    return Preprocess.from_transformers(found)
            except (orjson.JSONDecodeError, AttributeError) as error:
                raise ConfigError(f"{file} is not JSON of a preprocessor") from error
        raise ConfigError(
            f"{self.path} has no preprocessor_config.json: what its input looks like is part of a model; copy the one "
            "of the model it comes from"
        )

    def digest(self) -> str:
        """Digest of the architecture that makes vectors of pictures."""
        values = _lasting(self.values)
        if self.is_dual:
            values = {
                "model_type": self.model_type,
                "projection_dim": self.values.get("projection_dim"),
                "vision_config": _lasting(self.values.get("vision_config") or {}),
            }
        if self.is_backbone:
            values = {**values, "network": "feature maps"}
        elif self.defines_embedding:  # CLIP's last norm, which transformers leaves out of the last hidden state
            values = {**values, "network": "all tokens normalized", "projected": self.architecture in _PROJECTED}
        return digest_of(values)


def model_folder(folder: Path) -> Path:
    """The folder of the model proper: sentence-transformers keeps modules in folders of their own.

    Raises:
        ConfigError: a list of modules that names no folder within, or a module that shapes vectors after the model.
    """
    file = folder / MODULES
    if not file.is_file():
        return folder
    try:
        modules = [
            (str(module["type"]).rpartition(".")[2], str(module["path"])) for module in orjson.loads(file.read_bytes())
        ]
        inner = PurePosixPath(modules[0][1])
    except (ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"{file} does not name the folder of a model") from error
    unknown = next((kind for kind, _ in modules if kind not in _FOLLOWED), None)
    if unknown is not None:
        raise ConfigError(
            f"{file} names the module {unknown}, which is not supported: give the folder of the model alone"
        )
    if inner.is_absolute() or ".." in inner.parts:
        raise ConfigError(f"{file} does not name the folder of a model within: {inner}")
    return folder if (folder / "config.json").is_file() else folder / inner


def require_libraries() -> None:
    """Import torch and transformers.

    Raises:
        MissingDependency: one of them is not installed.
    """
    for package in ("torch", "transformers"):
        try:
            __import__(package)
        except ImportError as error:
            raise MissingDependency(package, "torch") from error


def require_vision(source: ModelFolder) -> None:
    """Refuse a language model, before its weights are read or something is missed that it has no need of.

    Raises:
        ConfigError: it does not take pictures, or transformers doesn't know it.
    """
    if source.is_dual or source.is_backbone or source.architecture in _PROJECTED:
        return
    from transformers import MODEL_MAPPING

    config = _library_config(source)
    try:
        model = cast("Any", MODEL_MAPPING)[type(config)]
    except KeyError as error:
        raise ConfigError(f"{source.path} ({source.model_type}) is not a model that transformers can load") from error
    takes = (model[0] if isinstance(model, tuple) else model).main_input_name
    if takes != "pixel_values":
        raise ConfigError(f"{source.path} ({source.model_type}) is not a vision model: it takes {takes}")


def load_network(source: ModelFolder) -> torch.nn.Module:
    """The network that takes ``pixel_values``; of a dual encoder its vision tower alone.

    Raises:
        ConfigError: weights that don't fit its config.
    """
    import transformers

    library = cast("Any", transformers)
    config = _library_config(source)
    if source.is_dual:
        loader = getattr(library, _DUALS[source.model_type][0])
        config = _tower_config(config, "vision_config")
    elif source.is_backbone or source.architecture in _PROJECTED:
        loader = getattr(library, source.architecture, None)
        if loader is None:
            raise ConfigError(f"{source.path}: this version of transformers has no {source.architecture}")
    else:
        loader = library.AutoModel
    return _load(loader, source, config)


def load_text_network(source: ModelFolder) -> torch.nn.Module:
    """The tower for texts of a dual encoder.

    Raises:
        ConfigError: weights that don't fit its config.
    """
    import transformers

    loader = getattr(cast("Any", transformers), _DUALS[source.model_type][1])
    return _load(loader, source, _tower_config(_library_config(source), "text_config"))


def _config(folder: Path) -> bytes:
    file = folder / "config.json"
    if not file.is_file():
        raise ConfigError(f"{folder} is not a model: it has no config.json")
    config = file.read_bytes()
    try:
        _ = orjson.loads(config)["model_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder} is not a model: its config.json names no model_type") from error
    return config


def _lasting(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in _VOLATILE}


def _library_config(source: ModelFolder) -> Any:
    from transformers import AutoConfig

    try:
        with quiet():
            return AutoConfig.from_pretrained(source.path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # it raises anything on values that it does not expect
        raise ConfigError(f"{source.path} ({source.model_type}) cannot be loaded: {first_line(error)}") from error


def _tower_config(config: Any, part: str) -> Any:
    """The config of one tower; the width of what both share stands above it."""
    tower = getattr(config, part)
    width = getattr(config, "projection_dim", None)
    if width is not None:
        tower.projection_dim = width
    return tower


def _load(loader: Any, source: ModelFolder, config: Any) -> torch.nn.Module:
    import torch

    try:
        with quiet():
            model, report = loader.from_pretrained(
                source.path,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except Exception as error:  # transformers and safetensors raise anything on a damaged or unknown model
        what = first_line(error)
        if type(error).__name__ == "SafetensorError":
            what = f"its weights are damaged, copy or download them again ({what})"
        raise ConfigError(f"{source.path} cannot be loaded: {what}") from error
    _drop_unused(model, report, source)
    model.eval()
    return cast("torch.nn.Module", model)


def _drop_unused(model: Any, report: Mapping[str, Any], source: ModelFolder) -> None:
    """Take off a pooler that the file has no weights for: it would be random, and it is not used here."""
    missing = sorted(report["missing_keys"])
    if missing and all(key.startswith("pooler.") for key in missing):
        model.pooler = None
        missing = []
    if missing or report["mismatched_keys"] or report["error_msgs"]:
        what = missing or report["mismatched_keys"] or report["error_msgs"]
        raise ConfigError(f"{source.path}: weights and config.json don't fit: {next(iter(what))}")


def first_line(error: Exception) -> str:
    """The first line of what another library says, for a message of one line."""
    return str(error).strip().partition("\n")[0]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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
