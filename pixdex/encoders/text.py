"""Texts to vectors: the other tower of a dual encoder, with the tokenizer that lies beside it.

Both are loaded when the first text comes, from local files; until then only the tower for pictures is in memory.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from pixdex.encoders import _models
from pixdex.encoders.tokens import unit
from pixdex.errors import ConfigError

if TYPE_CHECKING:
    import torch

__all__ = ["TextTower"]

_BATCH = 64
_LOWER_PADDED = frozenset({"siglip"})
"""Model types trained on texts in lower case, padded to one length, without a mask.

Of SigLIP's tokenizers some make lower case themselves; Gemma's, that SigLIP 2 came with, doesn't.
"""


class TextTower:
    """Encodes texts for a dual encoder. Safe to call from several threads at once."""

    def __init__(self, source: _models.ModelFolder) -> None:
        self._source = source
        self._network: torch.nn.Module | None = None
        self._tokenizer: Any = None
        self._loading = threading.Lock()

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors float32 ``[n, dim]``, as near to those of pictures as the model finds them alike.

        What is longer than the model takes is cut off.

        Raises:
            ConfigError: no tokenizer lies beside the model, or it or the tower cannot be loaded.
        """
        if isinstance(texts, str):
            raise ConfigError(f"texts are a list of strings, not one string: {[texts]!r}")
        self._load()
        parts = [self._forward(list(texts[start : start + _BATCH])) for start in range(0, len(texts), _BATCH)]
        if not parts:
            return np.empty((0, self._width()), dtype=np.float32)
        return unit(np.concatenate(parts))

    def _load(self) -> None:
        with self._loading:
            if self._network is None:
                self._tokenizer = _load_tokenizer(self._source)
                self._network = _models.load_text_network(self._source)

    def _forward(self, texts: list[str]) -> NDArray[np.float32]:
        import torch

        network = cast("Any", self._network)
        fixed = self._source.model_type in _LOWER_PADDED
        with torch.inference_mode():
            given = self._tokenizer(
                [text.lower() for text in texts] if fixed else texts,
                padding="max_length" if fixed else True,
                max_length=network.config.max_position_embeddings,
                truncation=True,
                return_attention_mask=not fixed,
                return_token_type_ids=False,
                return_tensors="pt",
            )
            made = network(**given)
        vectors = made.text_embeds if hasattr(made, "text_embeds") else made.pooler_output
        return cast("NDArray[np.float32]", vectors.numpy())

    def _width(self) -> int:
        return int(self._forward([""]).shape[1])


def _load_tokenizer(source: _models.ModelFolder) -> Any:
    if not any((source.path / name).is_file() for name in _models.TOKENIZER):
        raise ConfigError(
            f"{source.path} has no tokenizer: copy tokenizer.json and tokenizer_config.json of the model it comes from"
        )
    try:
        with _models.quiet():
            return _open_tokenizer(source)
    except ImportError as error:  # SigLIP's first tokenizer is sentencepiece's
        raise ConfigError(
            f"the tokenizer of {source.path} needs more libraries: pip install sentencepiece protobuf"
        ) from error
    except Exception as error:  # it raises anything on files that it does not expect
        raise ConfigError(f"the tokenizer of {source.path} cannot be loaded: {_models.first_line(error)}") from error


def _open_tokenizer(source: _models.ModelFolder) -> Any:
    import transformers

    library = cast("Any", transformers)
    try:
        return library.AutoTokenizer.from_pretrained(source.path, local_files_only=True, trust_remote_code=False)
    except ImportError:
        if not (source.path / "tokenizer.json").is_file():
            raise
        # The same tokenizer for another library, which is there.
        return library.PreTrainedTokenizerFast.from_pretrained(source.path, local_files_only=True)
