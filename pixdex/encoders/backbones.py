"""Trunks: networks up to their descriptors, loaded with transformers and run by a runtime.

torch and transformers are imported when a trunk is loaded, not before.
"""

from __future__ import annotations

import os
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from pixdex.encoders import _models
from pixdex.encoders._digest import digest_of, tensors_digest
from pixdex.encoders._hub import locate
from pixdex.encoders.pooling import Pooling
from pixdex.encoders.preprocess import Preprocess
from pixdex.errors import ConfigError

if TYPE_CHECKING:
    from pixdex.encoders._tower import Tower
    from pixdex.encoders.runtimes import Runtime

__all__ = ["Activations", "Network", "Trunk"]


@dataclass(frozen=True, slots=True, eq=False)
class Activations:
    """What a network makes of n pictures.

    Attributes:
        cells: float32 ``[n, t, d]``, the local descriptors row by row: patch tokens after the final norm, or the
            cells of a feature map.
        cls: float32 ``[n, d]``, the class token, or None for a network without.
        own: float32 ``[n, e]``, the embedding that the model itself defines (CLIP's projection, SigLIP's attention
            pooling, the pooler of a CNN), or None.
    """

    cells: NDArray[np.float32]
    cls: NDArray[np.float32] | None = None
    own: NDArray[np.float32] | None = None


class Network(Protocol):
    """What an encoder is composed on: a trunk, or one that was exported.

    Attributes:
        name: the model's name, such as ``vit-tiny-16-224``.
        preprocess: what its input must look like.
        outputs: which of ``cells``, ``cls`` and ``own`` its activations have, in that order.
        dim: width of a descriptor.
        own_dim: width of its own embedding, None without one.
        cells: how many local descriptors a picture has.
        batch_size: how many pictures a call of ``forward`` likes best; another number when ``auto`` has chosen.
    """

    @property
    def name(self) -> str: ...
    @property
    def preprocess(self) -> Preprocess: ...
    @property
    def outputs(self) -> tuple[str, ...]: ...
    @property
    def dim(self) -> int: ...
    @property
    def own_dim(self) -> int | None: ...
    @property
    def cells(self) -> int: ...
    @property
    def batch_size(self) -> int: ...

    def forward(self, batch: NDArray[np.uint8]) -> Activations:
        """Descriptors of fitted pictures, uint8 ``[n, h, w, 3]``. Safe to call from several threads at once."""
        ...

    def settle(self) -> str:
        """Have the runtime ``auto`` measure now, instead of in the course of work; the name of what runs it then."""
        ...

    def weights_digest(self) -> str:
        """Digest of the parameters in float32, however a file stores them."""
        ...

    def config_digest(self) -> str:
        """Digest of the architecture."""
        ...

    def save(self, folder: Path) -> None:
        """Write what loads it again into an empty folder."""
        ...


class Trunk:
    """A vision network without its head: the ``Network`` that transformers loads. Made by ``load``.

    Attributes:
        tower: the network in torch, float32.
        source: the folder that it was loaded from.
    """

    def __init__(
        self, tower: Tower, source: _models.ModelFolder, preprocess: Preprocess, *, runtime: str | None = None
    ) -> None:
        from pixdex.encoders.runtimes import requested  # which take Activations from here

        self.tower = tower
        self.source = source
        self.preprocess = preprocess
        self.name = source.name
        self.outputs = tower.outputs
        self.dim = tower.dim
        self.own_dim = tower.own_dim
        self.cells = tower.cells
        self._runtime_name = requested(runtime)
        self._runtime: Runtime | None = None
        self._starting = threading.Lock()
        self._weights_digest: str | None = None

    @classmethod
    def load(
        cls, source: str | os.PathLike[str], *, preprocess: Preprocess | None = None, runtime: str | None = None
    ) -> Trunk:
        """Load a model folder, or a model of the Hugging Face hub by name.

        A folder never touches the network. A hub name is looked up in the local cache first, then, unless
        ``HF_HUB_OFFLINE`` is set, on the hub. ``preprocess`` replaces what the folder says about its input. ``runtime``
        names what runs the network; None: what the variable ``PIXDEX_RUNTIME`` names, else ``auto``.

        Raises:
            ConfigError: not a model, no safetensors weights, weights that don't fit, or nothing known about its input.
            MissingDependency: torch or transformers is not installed.
        """
        _models.require_libraries()
        from pixdex.encoders._tower import Tower

        where = os.fspath(source)
        folder = _models.ModelFolder.read(locate(where), name=Path(where).name)
        _models.require_vision(folder)
        wanted = preprocess or folder.preprocess()
        network = _models.load_network(folder)
        try:
            tower = Tower(network, size=wanted.size)
        except AttributeError as error:
            raise ConfigError(f"{where} ({folder.model_type}) gives no descriptors of a picture: {error}") from error
        except (RuntimeError, ValueError) as error:
            size = "x".join(map(str, wanted.size))
            what = _models.first_line(error)
            raise ConfigError(f"{where} does not take the {size} pixels that its preprocessor makes: {what}") from error
        return cls(tower, folder, wanted, runtime=runtime)

    @property
    def default_pooling(self) -> Pooling:
        """What the family is used with."""
        if self.source.defines_embedding and self.own_dim is not None:
            return Pooling.OWN
        return Pooling.CLS if "cls" in self.outputs else Pooling.MEAN

    @property
    def batch_size(self) -> int:
        """How many pictures its runtime likes best."""
        return self._started().batch_size

    def forward(self, batch: NDArray[np.uint8]) -> Activations:
        """Descriptors of fitted pictures, uint8 ``[n, h, w, 3]``."""
        return self._started().forward(batch)

    def settle(self) -> str:
        """See ``Network``."""
        from pixdex.encoders.runtimes.patient import settled

        return settled(self._started()).name

    def weights_digest(self) -> str:
        """Digest of the parameters in float32, however the file stores them."""
        if self._weights_digest is None:
            state = self.tower.model.state_dict()
            self._weights_digest = tensors_digest({name: tensor.numpy() for name, tensor in state.items()})
        return self._weights_digest

    def config_digest(self) -> str:
        """Digest of the architecture."""
        return self.source.digest()

    def _started(self) -> Runtime:
        """The runtime, which may take a while to start and is not needed to load or to save."""
        from pixdex.encoders.runtimes import runtime_of

        with self._starting:
            if self._runtime is None:
                parts = (self.weights_digest(), self.config_digest(), self.preprocess.digest())
                key = digest_of({"network": parts})
                self._runtime = runtime_of(self._runtime_name, self.tower, self.preprocess, key=key)
            return self._runtime

    def save(self, folder: Path) -> None:
        """Write a folder that ``load`` reads: ``config.json`` and ``model.safetensors``; a dual encoder as it came."""
        if self.source.is_dual:
            for file in self.source.files():
                shutil.copyfile(file, folder / file.name)
            return
        with _models.quiet():
            cast("Any", self.tower.model).save_pretrained(folder, safe_serialization=True)
        # As it was loaded: what the library writes back differs with its version.
        (folder / "config.json").write_bytes(self.source.config)
