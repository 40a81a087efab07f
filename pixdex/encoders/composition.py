"""What follows a network: pooling, a learned head, and the choice, projection and coding of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixdex.encoders._digest import digest_of, fingerprint_of
from pixdex.encoders.backbones import Activations, Network
from pixdex.encoders.heads import HEAD_FILE, Head
from pixdex.encoders.pooling import GEM_POWER, Pooling, gem_pool, mean_pool
from pixdex.encoders.tokens import Choice, Coding, Projection, chosen, select, unit
from pixdex.errors import ConfigError
from pixdex.spec import TokenSpec

__all__ = ["DEFAULT_TOKENS", "Composition"]

DEFAULT_TOKENS = 64
_PROJECTION = "token_projection.safetensors"
_CHOICES = {Choice.DIVERSE: "farthest points", Choice.CLS: "nearest to the picture", Choice.NORM: "longest"}
"""What fingerprints call them."""
_CODINGS = {Coding.INT8: "int8, largest value 127", Coding.BITS: "signs, the first in the highest bit"}
"""What fingerprints call them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Composition:
    """What follows the network.

    Attributes:
        pooling: how descriptors become one vector.
        gem_power: the exponent of ``Pooling.GEM``; without effect for the others.
        tokens: how many descriptors are kept for rerankers; 0 for none.
        token_choice: which.
        token_projection: what makes them narrower, or None.
        token_coding: how their values are kept.
        head: what the unit vectors go through, to be scaled to length one again; None for nothing. Tokens don't.
    """

    pooling: Pooling
    gem_power: float = GEM_POWER
    tokens: int = DEFAULT_TOKENS
    token_choice: Choice = Choice.DIVERSE
    token_projection: Projection | None = None
    token_coding: Coding = Coding.INT8
    head: Head | None = None

    def __post_init__(self) -> None:
        if self.tokens < 0:
            raise ConfigError(f"tokens: 0 or more, not {self.tokens}")

    @classmethod
    def from_json(cls, values: Mapping[str, Any], folder: Path) -> Composition:
        """The inverse of ``to_json`` and ``save``.

        Raises:
            ConfigError: not such values.
        """
        projection = values.get("token_projection")
        return cls(
            pooling=Pooling.named(values["pooling"]),
            gem_power=values["gem_power"],
            tokens=values["tokens"],
            token_choice=Choice.named(values.get("token_by", Choice.DIVERSE)),
            token_projection=None if projection is None else Projection.load(folder / Path(projection).name),
            token_coding=Coding.named(values.get("token_dtype", Coding.INT8)),
            head=Head.load(folder) if "head" in values else None,
        )

    def to_json(self) -> dict[str, Any]:
        """The values as a JSON object; projection and head are named only, ``save`` writes them."""
        values = {"pooling": self.pooling.value, "gem_power": self.gem_power, "tokens": self.tokens}
        choice = {} if self.token_choice is Choice.DIVERSE else {"token_by": self.token_choice.value}
        projection = {} if self.token_projection is None else {"token_projection": _PROJECTION}
        coding = {} if self.token_coding is Coding.INT8 else {"token_dtype": self.token_coding.value}
        head = {} if self.head is None else {"head": HEAD_FILE}
        return {**values, **choice, **projection, **coding, **head}

    def save(self, folder: Path) -> None:
        """Write what ``to_json`` only names."""
        if self.token_projection is not None:
            self.token_projection.save(folder / _PROJECTION)
        if self.head is not None:
            self.head.save(folder)

    @property
    def version(self) -> int:
        """The first version of a saved encoder that can hold it."""
        if self.head is not None or self.pooling is Pooling.CLS_MEAN:
            return 4
        if self.token_coding is not Coding.INT8:
            return 3
        return 1 if self.token_choice is Choice.DIVERSE and self.token_projection is None else 2

    def check(self, network: Network) -> None:
        """Make sure that it can follow ``network``.

        Raises:
            ConfigError: it is about a class token or an embedding that the network has not, or of another width.
        """
        if self.pooling in (Pooling.CLS, Pooling.CLS_MEAN) and "cls" not in network.outputs:
            raise ConfigError(f"{network.name} has no class token: pooling=mean or pooling=gem")
        if self.pooling is Pooling.OWN and network.own_dim is None:
            raise ConfigError(f"{network.name} defines no embedding of its own: pooling=mean or pooling=gem")
        projection = self.token_projection
        if projection is not None and len(projection.mean) != network.dim:
            raise ConfigError(
                f"the projection of tokens is for descriptors of {len(projection.mean)} values; "
                f"{network.name} has {network.dim}"
            )
        if self.head is not None and self.head.in_dim != self.pooled_dim(network):
            raise ConfigError(
                f"the head takes vectors of {self.head.in_dim} values; {network.name} with pooling={self.pooling} gives "
                f"{self.pooled_dim(network)}"
            )

    def pooled_dim(self, network: Network) -> int:
        """Width of a vector before the head."""
        if self.pooling is Pooling.OWN:
            return network.own_dim or network.dim
        return 2 * network.dim if self.pooling is Pooling.CLS_MEAN else network.dim

    def dim(self, network: Network) -> int:
        """Width of a vector."""
        return self.pooled_dim(network) if self.head is None else self.head.dim

    def vector_values(self) -> dict[str, Any]:
        """What shapes a vector, for the fingerprint: the tokens don't."""
        power = self.gem_power if self.pooling is Pooling.GEM else None
        head = "identity" if self.head is None else self.head.digest()
        return {"pooling": self.pooling.value, "gem_power": power, "head": head, "normalize": "l2"}

    def token_spec(self, network: Network, name: str, parts: Mapping[str, str]) -> TokenSpec | None:
        """What the tokens are, None for none. ``parts`` make the fingerprint of the encoder ``name``.

        Raises:
            ConfigError: their width does not suit their coding.
        """
        if self.tokens == 0:
            return None
        config = {
            "vector": parts["config"],
            "tokens": self.tokens,
            "choice": _CHOICES[self.token_choice],
            "coding": _CODINGS[self.token_coding],
        }
        width = network.dim
        if self.token_projection is not None:
            config["projection"] = self.token_projection.digest()
            width = self.token_projection.width
        fingerprint = fingerprint_of(name, {**parts, "config": digest_of(config)})
        return TokenSpec(count=self.tokens, dim=width, dtype=self.token_coding.value, fingerprint=fingerprint)

    def pool(self, activations: Activations) -> NDArray[np.float32]:
        """float32 ``[n, pooled_dim]``, not normalized yet."""
        if self.pooling is Pooling.CLS_MEAN and activations.cls is not None:
            return np.concatenate([unit(activations.cls), unit(mean_pool(activations.cells))], axis=1)
        if self.pooling is Pooling.GEM:
            return gem_pool(activations.cells, self.gem_power)
        if self.pooling is Pooling.OWN and activations.own is not None:
            return activations.own
        if self.pooling is Pooling.CLS and activations.cls is not None:
            return activations.cls
        return mean_pool(activations.cells)

    def project(self, pooled: NDArray[np.float32]) -> NDArray[np.float32]:
        """Unit vectors float32 ``[n, dim]`` of unit vectors ``[n, pooled_dim]``: through the head, if there is one."""
        return pooled if self.head is None else unit(self.head.apply(pooled))

    def guide(self, activations: Activations, pooled: NDArray[np.float32]) -> NDArray[np.float32]:
        """Unit vectors float32 ``[n, d]`` among the descriptors, by which they are chosen; ``pooled`` as in ``tokens_of``."""
        if self.pooling in (Pooling.OWN, Pooling.CLS_MEAN):  # another width, or at least another space
            return unit(mean_pool(activations.cells) if activations.cls is None else activations.cls)
        return pooled

    def tokens_of(self, activations: Activations, pooled: NDArray[np.float32]) -> NDArray[Any]:
        """``[n, t, width]`` as the ``TokenSpec`` says, of pictures with the unit vectors ``pooled`` before the head."""
        kept = select(activations.cells, self.guide(activations, pooled), self.tokens, self.token_choice)
        if self.token_projection is not None:
            kept = self.token_projection.apply(kept)
        return self.token_coding.pack(kept)

    def cells_of(self, activations: Activations, pooled: NDArray[np.float32]) -> NDArray[np.intp]:
        """``[n, t]``: the numbers of the descriptors that ``tokens_of`` makes tokens of."""
        return chosen(activations.cells, self.guide(activations, pooled), self.tokens, self.token_choice)
