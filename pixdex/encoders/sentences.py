"""Encoders of texts alone, for captions: models of sentence-transformers, as folders or by their names on the hub.

A language model, the mean of what it makes of the tokens (or the first of them), L2. The model is loaded when the first text
comes. ``export`` writes one as files that need neither torch nor transformers, with the same fingerprint:
``pixdex-text.json`` names them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
from numpy.typing import NDArray

from pixdex.encoders import _models
from pixdex.encoders._digest import digest_of, fingerprint_of, tensors_digest
from pixdex.encoders._hub import locate
from pixdex.encoders.compose import CONFIG_FILE
from pixdex.encoders.compose import load as load_dual
from pixdex.encoders.port import WordEncoder
from pixdex.encoders.text import Forward, Network, TextTower, open_tokenizer
from pixdex.encoders.textgraph import GraphText, TextGraph
from pixdex.errors import AlreadyExists, ConfigError, Unsupported
from pixdex.spec import Metric

__all__ = ["TEXT_FILE", "Pooled", "SentenceEncoder", "SentenceText", "export", "load"]

TEXT_FILE = "pixdex-text.json"
"""What makes a folder an exported encoder of texts."""
_VERSION = 1
_LENGTH = 512
"""Tokens of the longest text, where neither model nor tokenizer says it."""
_LEAST = 0.9999
"""Cosine between the vectors before and after an export: both are in float32."""
_TEXTS = (
    "a",
    "a photo of two dogs on a beach at night",
    "Ein altes Fahrrad, 3 Räder & 日本語!",
    "the same again " * 400,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooled:
    """How a text becomes tokens, and what the model makes of them a vector.

    Attributes:
        mean: the mean over the tokens; else the first.
        length: tokens of the longest text; the rest is cut off.
        lower: texts are made lower case before the tokenizer sees them.
    """

    mean: bool
    length: int
    lower: bool = False

    @classmethod
    def read(cls, folder: Path, model: _models.ModelFolder) -> Pooled:
        """What sentence-transformers wrote beside a model; the mean where it wrote nothing, as it does itself.

        Raises:
            ConfigError: a pooling that is not supported, or a text that the model wants before every other.
        """
        prompt = _json(folder / "config_sentence_transformers.json").get("default_prompt_name")
        if prompt is not None:
            raise ConfigError(f"{folder} puts the prompt {prompt!r} before texts, which is not supported")
        said = _json(model.path / "sentence_bert_config.json")
        longest = model.values.get("max_position_embeddings", _LENGTH)
        of_tokenizer = _json(model.path / "tokenizer_config.json").get("model_max_length", _LENGTH)
        length = said.get("max_seq_length") or min(longest, of_tokenizer)
        return cls(mean=_pooling(folder), length=int(length), lower=bool(said.get("do_lower_case", False)))


class SentenceText(TextTower):
    """A language model of transformers with pooling behind it."""

    def __init__(self, source: _models.ModelFolder, pooled: Pooled) -> None:
        super().__init__()
        self._source = source
        self._pooled = pooled

    @cached_property
    def network(self) -> Network:
        """What encodes texts, loaded when it is asked for.

        Raises:
            ConfigError: the model or its tokenizer cannot be loaded.
            MissingDependency: torch or transformers is not installed.
        """
        _models.require_libraries()
        from pixdex.encoders._sentence import Sentence

        tokenizer = open_tokenizer(self._source)
        tokenizer.padding_side = "right"
        if tokenizer.pad_token_id is None:
            raise ConfigError(f"the tokenizer of {self._source.path} has no token for padding")
        model = _models.load_network(self._source)
        module = Sentence(model, mean=self._pooled.mean, padding=tokenizer.pad_token_id)
        return Network(tokenizer, module, fixed=False, lower=self._pooled.lower, longest=self._pooled.length)

    def _open(self) -> Forward:
        return self.network.forward


class SentenceEncoder:
    """An encoder of texts; the port's ``WordEncoder``. Made by ``load``.

    Attributes:
        text: what runs it.
    """

    metric = Metric.COSINE

    def __init__(self, text: TextTower, *, name: str, reference: str, dim: int, parts: Mapping[str, str]) -> None:
        self.text = text
        self.name = name
        self.reference = reference
        self.dim = dim
        self.fingerprint = fingerprint_of(name, parts)

    def __repr__(self) -> str:
        return f"SentenceEncoder({self.reference!r})"

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors float32 ``[n, dim]``; long texts are cut off.

        Raises:
            ConfigError: the model or its tokenizer is not there, or cannot be loaded.
            MissingDependency: what runs it is not installed.
        """
        if isinstance(texts, str):
            raise ConfigError(f"texts are a list of strings, not one string: {[texts]!r}")
        if not texts:
            return np.empty((0, self.dim), dtype=np.float32)
        # Those of like length together: what is padded is computed all the same.
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        made = np.empty((len(texts), self.dim), dtype=np.float32)
        made[order] = self.text.encode([texts[row] for row in order])
        return made


def load(rest: str) -> WordEncoder:
    """The encoder of texts of ``hf:<rest>``: a folder of sentence-transformers or of ``export``, a model's name on the hub,
    or a model of pictures and texts, whose side of the texts it then is.

    Raises:
        ConfigError: no such model, or one that is not supported.
        MissingDependency: torch or transformers is not installed.
    """
    folder = Path(rest).expanduser()
    if (folder / TEXT_FILE).is_file():
        return _load_exported(folder)
    if "?" in rest or (folder / CONFIG_FILE).is_file():
        return _dual(rest)
    folder = locate(rest)
    model = _models.ModelFolder.read(folder, name=Path(rest).name)
    if model.is_dual:
        return _dual(rest)
    if "hidden_size" not in model.values or "image_size" in model.values:
        raise ConfigError(f"{rest} ({model.model_type}) is no model of texts")
    if not any((model.path / name).is_file() for name in _models.TOKENIZER):
        raise ConfigError(f"{model.path} has no tokenizer: copy tokenizer.json of the model it comes from")
    pooled = Pooled.read(folder, model)
    where = str(folder.resolve()) if Path(rest).expanduser().is_dir() else rest
    parts = {
        "config": digest_of({"network": model.digest(), "pooled": asdict(pooled)}),
        "weights": tensors_digest(_weights(model)),
        "preprocessing": _tokenizer_digest(model),
    }
    return SentenceEncoder(
        SentenceText(model, pooled),
        name=model.name,
        reference=f"hf:{where}",
        dim=int(model.values["hidden_size"]),
        parts=parts,
    )


def export(
    encoder: SentenceEncoder,
    folder: str | os.PathLike[str],
    *,
    format: Literal["onnx", "openvino"] = "onnx",  # noqa: A002 - what everybody calls it
) -> None:
    """Write an encoder of texts to a new or empty folder, which ``encoders.load_text`` reads without torch. It is the same
    encoder: same fingerprint, and vectors that are compared before it counts as one.

    Raises:
        AlreadyExists: there is something in the folder.
        ConfigError: the model cannot be turned into a graph, or the graph gives other vectors.
        MissingDependency: a package that writes graphs is not installed.
        Unsupported: it was exported already.
    """
    if not isinstance(encoder.text, SentenceText):
        raise Unsupported(f"{encoder.reference} was exported already: copy its folder")
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise AlreadyExists(f"{target} is not empty")
    _models.require_libraries()
    from pixdex.encoders import _textwriting

    target.mkdir(parents=True, exist_ok=True)
    try:
        files = _textwriting.write(encoder.text.network, format, target)
        _compare(files, encoder, format)
    except BaseException:
        for file in target.iterdir():  # it was empty, and a second try should find it so
            file.unlink()
        raise
    document = {
        "version": _VERSION,
        "name": encoder.name,
        "dim": encoder.dim,
        "parts": dict(encoder.fingerprint.parts),
        "fingerprint": encoder.fingerprint.digest,
        "text": files.to_json(),
    }
    unfinished = target / f".{TEXT_FILE}"
    unfinished.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    unfinished.replace(target / TEXT_FILE)  # last: a folder without it is no encoder


def _compare(files: TextGraph, encoder: SentenceEncoder, form: str) -> None:
    cosine = float((GraphText(files).encode(_TEXTS) * encoder.text.encode(_TEXTS)).sum(axis=1).min())
    if not cosine >= _LEAST:
        raise ConfigError(f"{encoder.name} gives other vectors as a graph of {form}: cosine {cosine:.5f}")


def _load_exported(folder: Path) -> SentenceEncoder:
    try:
        about = orjson.loads((folder / TEXT_FILE).read_bytes())
        if int(about["version"]) > _VERSION:
            raise ConfigError(f"{folder} was exported by a newer pixdex: pip install -U pixdex")
        text = GraphText(TextGraph.from_json(about["text"], folder))
        made = SentenceEncoder(
            text, name=about["name"], reference=f"hf:{folder.resolve()}", dim=about["dim"], parts=about["parts"]
        )
    except (KeyError, TypeError, ValueError, OSError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{folder} is not an exported encoder of texts: {error!r}") from error
    if made.fingerprint.digest != about["fingerprint"]:
        raise ConfigError(f"{folder} was changed after it was exported: its fingerprint is another")
    return made


def _dual(rest: str) -> WordEncoder:
    encoder: Any = load_dual(rest)
    if not hasattr(encoder, "encode_text"):
        raise ConfigError(f"{rest} is an encoder of pictures alone")
    word: WordEncoder = encoder
    return word


# --- what lies in a folder ---------------------------------------------------------------------------------------------


def _json(file: Path) -> Mapping[str, Any]:
    """What a file says; nothing where there is none.

    Raises:
        ConfigError: it is no JSON object.
    """
    if not file.is_file():
        return {}
    try:
        return dict(orjson.loads(file.read_bytes()))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{file} is no JSON object") from error


def _pooling(folder: Path) -> bool:
    """Whether it is the mean; else the first token."""
    modules = folder / _models.MODULES
    listed = orjson.loads(modules.read_bytes()) if modules.is_file() else []
    found = next((str(each["path"]) for each in listed if str(each["type"]).endswith("Pooling")), None)
    if found is None:
        if listed:
            raise ConfigError(f"{modules} names no pooling: there is no one vector of a text")
        return True
    # In ``_models.model_folder`` it was seen that paths are looked up within: this one is read, never followed out.
    said = _json(folder / Path(found).name / "config.json")
    mode = said.get("pooling_mode")
    modes = {name for name, on in said.items() if name.startswith("pooling_mode_") and on} if mode is None else {mode}
    if modes in ({"pooling_mode_mean_tokens"}, {"mean"}):
        return True
    if modes in ({"pooling_mode_cls_token"}, {"cls"}):
        return False
    raise ConfigError(
        f"{folder} pools tokens by {', '.join(map(str, modes)) or 'nothing'}: only mean and cls are supported"
    )


def _weights(model: _models.ModelFolder) -> dict[str, NDArray[np.float32]]:
    """The parameters that shape a vector, in float32, however the file stores them."""
    return {
        name: tensor.astype(np.float32)
        for file in sorted(model.path.glob("model*.safetensors"))
        for name, tensor in _tensors(file).items()
        if "pooler." not in name and not name.endswith("position_ids")
    }


def _tensors(file: Path) -> dict[str, NDArray[Any]]:
    from safetensors.numpy import load_file

    try:
        return load_file(file)
    except (KeyError, TypeError):  # bfloat16, which numpy does not have
        _models.require_libraries()
        from safetensors.torch import load_file as load_torch

        return {name: tensor.float().numpy() for name, tensor in load_torch(file).items()}
    except Exception as error:  # the library raises its own kind, of no common base
        raise ConfigError(f"{file} is damaged, copy or download it again: {_models.first_line(error)}") from error


def _tokenizer_digest(model: _models.ModelFolder) -> str:
    files = [model.path / name for name in sorted(_models.TOKENIZER) if (model.path / name).is_file()]
    return digest_of({file.name: hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest() for file in files})
