"""Tests of training are passed over where the extra ``train`` is not installed; tiny networks are those of the encoders."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pixdex.training.data import Labelled

collect_ignore_glob = [] if all(map(find_spec, ("torch", "pytorch_metric_learning"))) else ["test_*.py"]
sys.path.append(str(Path(__file__).parents[1] / "encoders"))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The reference of a tiny network that can be trained."""
    import tuning_toys

    return tuning_toys.tiny_vit(tmp_path_factory.mktemp("model") / "tiny-vit")


@pytest.fixture(scope="session")
def data() -> Labelled:
    """Pictures of eight classes for it."""
    import tuning_toys

    return tuning_toys.coloured()
