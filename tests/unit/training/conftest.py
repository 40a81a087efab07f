"""Tests of training are passed over where the extra ``train`` is not installed; tiny networks are those of the encoders."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

collect_ignore_glob = [] if all(map(find_spec, ("torch", "pytorch_metric_learning"))) else ["test_*.py"]
sys.path.append(str(Path(__file__).parents[1] / "encoders"))
