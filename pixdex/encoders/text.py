"""Texts to vectors: the other tower of a dual encoder, with the tokenizer that lies beside it.

Both are loaded when the first text comes, from local files; until then only the tower for pictures is in memory. What is
here needs torch and transformers only then, and a tower that was exported (``textgraph``) not even then.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from pixdex.encoders import _models
from pixdex.encoders.tokens import unit
from pixdex.errors import ConfigError

if TYPE_CHECKING:
    import torch

__all__ = ["Forward", "Network", "TextTower", "TrunkText", "open_tokenizer"]

Forward: TypeAlias = Callable[[list[str]], NDArray[np.float32]]
"""Vectors float32 ``[n, dim]`` of any length."""

_BATCH = 64
_LOWER_PADDED = frozenset({"siglip"})
"""Model types trained on texts in lower case, padded to one length, without a mask.

Of SigLIP's tokenizers some make lower case themselves; Gemma's, that SigLIP 2 came with, doesn't.
"""


class TextTower(ABC):
    """Encodes texts for a dual encoder. Safe to call from several threads at once."""

    def __init__(self) -> None:
        self._forward: Forward | None = None
        self._opening = threading.Lock()

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors float32 ``[n, dim]``, as near to those of pictures as the model finds them alike.

        What is longer than the model takes is cut off.

        Raises:
            ConfigError: the tower or its tokenizer is not there, or cannot be loaded.
        """
        if isinstance(texts, str):
            raise ConfigError(f"texts are a list of strings, not one string: {[texts]!r}")
        forward = self._opened()
        parts = [forward(list(texts[start : start + _BATCH])) for start in range(0, len(texts), _BATCH)]
        if not parts:
            return np.empty((0, forward([""]).shape[1]), dtype=np.float32)
        return unit(np.concatenate(parts))

    def _opened(self) -> Forward:
        with self._opening:
            if self._forward is None:
                self._forward = self._open()
            return self._forward

    @abstractmethod
    def _open(self) -> Forward:
        """Load what makes vectors of at most ``_BATCH`` texts."""


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A tower for texts as transformers loads it.

    Attributes:
        tokenizer: of transformers.
        module: the network in torch, float32.
        fixed: texts are padded to the full length, without a mask.
        lower: they are made lower case before.
        longest: tokens of the longest text; default: as many as it has places for.
    """

    tokenizer: Any
    module: torch.nn.Module
    fixed: bool
    lower: bool = False
    longest: int | None = None

    @property
    def length(self) -> int:
        """Tokens of the longest text it takes."""
        return self.longest or int(cast("Any", self.module).config.max_position_embeddings)

    def forward(self, texts: list[str]) -> NDArray[np.float32]:
        """See ``Forward``."""
        import torch

        with torch.inference_mode():
            given = self.tokenizer(
                [text.lower() for text in texts] if self.lower else texts,
                padding="max_length" if self.fixed else True,
                max_length=self.length,
                truncation=True,
                return_attention_mask=not self.fixed,
                return_token_type_ids=False,
                return_tensors="pt",
            )
            made = self.module(**given)
        vectors = made.text_embeds if hasattr(made, "text_embeds") else made.pooler_output
        return cast("NDArray[np.float32]", vectors.numpy())


class TrunkText(TextTower):
    """The tower for texts in a folder of transformers."""

    def __init__(self, source: _models.ModelFolder) -> None:
        super().__init__()
        self._source = source

    @cached_property
    def network(self) -> Network:
        """What encodes texts, loaded when it is asked for.

        Raises:
            ConfigError: no tokenizer lies beside the model, or it or the tower cannot be loaded.
        """
        tokenizer = open_tokenizer(self._source)
        module = _models.load_text_network(self._source)
        alike = self._source.model_type in _LOWER_PADDED
        return Network(tokenizer, module, fixed=alike, lower=alike)

    def _open(self) -> Forward:
        return self.network.forward


def open_tokenizer(source: _models.ModelFolder) -> Any:
    """The tokenizer of transformers that lies beside a model.

    Raises:
        ConfigError: there is none, or it cannot be loaded.
    """
    if not any((source.path / name).is_file() for name in _models.TOKENIZER):
        raise ConfigError(
            f"{source.path} has no tokenizer: copy tokenizer.json and tokenizer_config.json of the model it comes from"
        )
    try:
        with _models.quiet():
            return _of_transformers(source)
    except ImportError as error:  # SigLIP's first tokenizer is sentencepiece's
        raise ConfigError(
            f"the tokenizer of {source.path} needs more libraries: pip install sentencepiece protobuf"
        ) from error
    except Exception as error:  # it raises anything on files that it does not expect
        raise ConfigError(f"the tokenizer of {source.path} cannot be loaded: {_models.first_line(error)}") from error


def _of_transformers(source: _models.ModelFolder) -> Any:
    import transformers

    library = cast("Any", transformers)
    try:
        return library.AutoTokenizer.from_pretrained(source.path, local_files_only=True, trust_remote_code=False)
    except ImportError:
        if not (source.path / "tokenizer.json").is_file():
            raise
        # The same tokenizer for another library, which is there.
        return library.PreTrainedTokenizerFast.from_pretrained(source.path, local_files_only=True)
