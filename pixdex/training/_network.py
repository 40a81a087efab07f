"""A composed encoder as one torch module that can be trained, and back: what of it is trained, and at which rates."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - what everybody calls it

from pixdex.encoders import load
from pixdex.encoders._models import quiet
from pixdex.encoders._tower import Tower
from pixdex.encoders.backbones import Trunk
from pixdex.encoders.compose import ComposedEncoder
from pixdex.encoders.heads import LinearHead
from pixdex.encoders.pooling import Pooling
from pixdex.errors import ConfigError
from pixdex.training import lora
from pixdex.training._device import autocast

__all__ = [
    "Embedder",
    "Learning",
    "begun",
    "choose",
    "depths",
    "encoder_of",
    "frozen_twin",
    "groups",
    "loaded",
    "mixed",
    "trainable_encoder",
]

_SMALLEST = 1e-6


class Embedder(nn.Module):
    """Pictures in, vectors out, with gradients: trunk, pooling and linear head of an encoder.

    Attributes:
        tower: a copy of the encoder's network.
        head: its linear head, or None.
        dim: width of the vectors.
        pooled_dim: width before the head.
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, encoder: ComposedEncoder) -> None:
        super().__init__()
        trunk = trainable_encoder(encoder)
        composition = encoder.composition
        self.tower: Tower = copy.deepcopy(trunk.tower)
        self._pooling, self._power = composition.pooling, composition.gem_power
        self.pooled_dim = composition.pooled_dim(trunk)
        self.dim = composition.dim(trunk)
        self.head = _linear(composition.head)
        mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (trunk.preprocess.mean, trunk.preprocess.std))
        self.register_buffer("scale", 255 * trunk.preprocess.scale / std, persistent=False)
        self.register_buffer("offset", mean / std, persistent=False)

    def train(self, mode: bool = True) -> Embedder:  # noqa: FBT001, FBT002 - torch's signature
        """As torch's, but batch normalization keeps the statistics that it was trained with: batches here are small."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001 - the base of all of them
                module.eval()
        return self

    def pooled(self, pictures: Tensor) -> Tensor:
        """Unit vectors float32 ``[n, pooled_dim]`` of pictures ``[n, 3, h, w]``, uint8 or float in [0, 1]."""
        values = pictures.float() / 255 if pictures.dtype == torch.uint8 else pictures
        with autocast(values.device, processor=True):
            made = dict(zip(self.tower.outputs, self.tower(values * self.scale - self.offset), strict=True))
        return F.normalize(self._pool({name: tensor.float() for name, tensor in made.items()}), dim=1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Unit vectors float32 ``[n, dim]``."""
        return self.headed(self.pooled(pictures))

    def headed(self, pooled: Tensor) -> Tensor:
        """Unit vectors float32 ``[n, dim]`` of ``[n, pooled_dim]``."""
        return pooled if self.head is None else F.normalize(self.head(pooled), dim=1)

    def _pool(self, made: Mapping[str, Tensor]) -> Tensor:
        """What ``Composition.pool`` does."""
        if self._pooling is Pooling.CLS_MEAN:
            parts = (made["cls"], made["cells"].mean(dim=1))
            return torch.cat([F.normalize(part, dim=1) for part in parts], dim=1)
        if self._pooling is Pooling.GEM:
            return made["cells"].clamp(min=_SMALLEST).pow(self._power).mean(dim=1).pow(1 / self._power)
        if self._pooling is Pooling.MEAN:
            return made["cells"].mean(dim=1)
        return made[self._pooling.value]

    @torch.no_grad()
    def embed(self, pictures: Tensor, *, batch: int | None = None) -> NDArray[np.float32]:
        """float32 ``[n, dim]``, in evaluation mode; the pictures may be on another device."""
        was, device = self.training, self.scale.device
        size = batch or (256 if device.type == "cuda" else 32)
        self.eval()
        parts = [self(part.to(device, non_blocking=True)).cpu() for part in torch.split(pictures, size)]
        self.train(was)
        return cast("NDArray[np.float32]", torch.cat(parts).numpy())

    def save_memory(self) -> None:
        """Compute activations again in the backward pass instead of keeping them: a third more time, far less memory.

        Raises:
            ConfigError: the network does not know how.
        """
        model: Any = self.tower.model
        if not getattr(model, "supports_gradient_checkpointing", False):
            raise ConfigError(f"{type(model).__name__} cannot do without its activations: leave checkpointing out")
        # transformers 5.2x gave it another name.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})


class Learning(nn.Module):
    """All that learns: a network, and what a loss has of its own. In its state they are ``net.`` and ``own.``."""

    def __init__(self, net: Embedder, own: Any) -> None:
        super().__init__()
        self.net = net
        self.own = own


def begun(
    encoder: ComposedEncoder, what: str, *, seed: int, keep: bool, checkpointing: bool, device: torch.device
) -> tuple[Embedder, dict[str, Tensor], Embedder | None]:
    """The network to train, with gradients for ``what`` (see ``choose``), the state that it starts from, on the device, and
    the frozen one where vectors are to ``keep`` near its own.

    Raises:
        ConfigError: nothing of that name can be trained, or activations cannot be done without.
    """
    torch.manual_seed(seed)
    net = Embedder(encoder)
    start = {name: tensor.to(device, copy=True) for name, tensor in net.state_dict().items()}
    frozen = frozen_twin(net, device) if keep else None
    choose(net, what)
    if checkpointing:
        net.save_memory()
    return net, start, frozen


def frozen_twin(network: Embedder, device: torch.device) -> Embedder:
    """A copy as it stands, for evaluation only."""
    return copy.deepcopy(network).to(device).requires_grad_(requires_grad=False).eval()


def loaded(encoder: str | ComposedEncoder) -> ComposedEncoder:
    """The encoder of a reference, or the one that was given.

    Raises:
        ConfigError: it is no encoder on a network that torch runs.
    """
    found: Any = load(encoder) if isinstance(encoder, str) else encoder
    trainable_encoder(found)
    return cast("ComposedEncoder", found)


def trainable_encoder(encoder: ComposedEncoder) -> Trunk:
    """The trunk of an encoder that can be trained.

    Raises:
        ConfigError: it is no encoder on a network that torch runs.
    """
    trunk = getattr(encoder, "trunk", None)
    if not isinstance(encoder, ComposedEncoder) or not isinstance(trunk, Trunk):
        name = getattr(encoder, "reference", encoder)
        raise ConfigError(
            f"{name} has no network that could be trained: give a model of transformers, such as hf:FOLDER"
        )
    return trunk


def encoder_of(
    encoder: ComposedEncoder, network: Mapping[str, Tensor], *, name: str, reference: str, work: Path
) -> ComposedEncoder:
    """The encoder with the weights of a trained ``Embedder``, by the names of its state.

    Of a dual encoder the side of the pictures alone, since it has parted from that of the texts; it is written to ``work``
    on the way.
    """
    trunk = trainable_encoder(encoder)
    if trunk.source.is_dual:
        trunk = _alone(trunk, work)
    tower = copy.deepcopy(trunk.tower)
    part = {k.removeprefix("tower."): t.cpu() for k, t in network.items() if k.startswith("tower.")}
    tower.load_state_dict(part)
    composition = encoder.composition
    if composition.head is not None:
        weight, bias = network["head.weight"].cpu().float(), network["head.bias"].cpu().float()
        prefixes = composition.head.prefixes
        head = LinearHead(np.ascontiguousarray(weight.T.numpy()), bias.numpy(), prefixes)
        composition = replace(composition, head=head)
    tuned = Trunk(tower, trunk.source, trunk.preprocess)
    return ComposedEncoder.on(tuned, composition, name=name, reference=reference)


def mixed(start: Mapping[str, Tensor], end: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """``(1 - share) start + share end``, of the parameters (Wortsman et al.: Robust Fine-Tuning of Zero-Shot Models, CVPR
    2022); what is not a floating-point number is the start's.
    """
    return {n: torch.lerp(t, end[n].to(t.device), share) if t.is_floating_point() else t for n, t in start.items()}


# --- what is trained, and how fast -----------------------------------------------------------------


def choose(network: Embedder, what: str) -> None:
    """Have gradients computed for ``all``, ``blocks:N`` (the last N, and what follows them) or ``lora:RANK``; the head always.

    Raises:
        ConfigError: none of these, or the network has no such blocks or no linear layers.
    """
    kind, _, number = what.partition(":")
    if what != "all" and (kind not in ("blocks", "lora") or not number.isdecimal() or int(number) < 1):
        raise ConfigError(f"what={what!r}: all, blocks:N (the last N) or lora:RANK")
    network.requires_grad_(requires_grad=True)
    if kind == "lora":
        lora.inject(network.tower, int(number))
    elif kind == "blocks":
        depth, last = depths(network.tower)
        for name, parameter in network.tower.named_parameters():
            parameter.requires_grad_(depth[name] >= last - int(number))
    if network.head is not None:
        network.head.requires_grad_(requires_grad=True)


def depths(network: nn.Module) -> tuple[dict[str, int], int]:
    """Of each parameter how deep it lies: 0 before the blocks, 1 to n in them, n + 1 after them; and n + 1.

    The blocks are the list of modules that has most of the parameters.
    """
    lists = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        return {name: 0 for name, _ in network.named_parameters()}, 1
    prefix, blocks = max(lists, key=lambda pair: sum(p.numel() for p in pair[1].parameters()))
    found: dict[str, int] = {}
    depth = 0
    for name, _ in network.named_parameters():  # in the order in which they were made, which is that of use
        if name.startswith(f"{prefix}."):
            depth = int(name.removeprefix(f"{prefix}.").partition(".")[0]) + 1
        elif depth:
            depth = len(blocks) + 1
        found[name] = depth
    return found, len(blocks) + 1


def groups(
    network: Embedder, *, rate: float, decay: float, weight_decay: float, head_rate: float
) -> list[dict[str, Any]]:
    """Groups of an optimizer: ``rate`` at the top, times ``decay`` a block further down (Clark et al.: ELECTRA, ICLR 2020).

    Vectors, such as biases and the scales of norms, are not decayed, nor are tokens and positions.
    """
    depth, last = depths(network.tower)
    made: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        inner = name.removeprefix("tower.")
        lr = head_rate if inner == name else rate * decay ** (last - depth[inner])
        plain = parameter.ndim < 2 or name.endswith(("_token", "_tokens", "position_embeddings"))
        shrinks = 0.0 if plain else weight_decay
        group = made.setdefault((lr, shrinks), {"params": [], "lr": lr, "weight_decay": shrinks})
        group["params"].append(parameter)
    return list(made.values())


def _linear(head: Any) -> nn.Linear | None:
    if head is None:
        return None
    if not isinstance(head, LinearHead):
        raise ConfigError(f"a head of the kind {head.kind!r} cannot be trained with the network: only a linear one can")
    layer = nn.Linear(head.in_dim, head.dim)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(np.array(head.weight.T, dtype=np.float32)))
        layer.bias.copy_(torch.from_numpy(np.array(head.bias, dtype=np.float32)))
    return layer


def _alone(trunk: Trunk, work: Path) -> Trunk:
    """The side of the pictures of a dual encoder, as a model of its own."""
    folder = work / trunk.name
    folder.mkdir(exist_ok=True)
    with quiet():
        cast("Any", trunk.tower.model).save_pretrained(folder, safe_serialization=True)
    return Trunk.load(folder, preprocess=trunk.preprocess)
