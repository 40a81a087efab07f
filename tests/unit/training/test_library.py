"""Who uses pytorch-metric-learning leaves faiss as it is for everybody else in the process."""

from __future__ import annotations

import subprocess
import sys

_CODE = """
import sys
import numpy as np
from pixdex.training._library import metric_learning
from pixdex.training.losses import named
named("contrastive", dim=4, classes=2)
metric_learning("utils.inference")
assert "faiss.contrib.torch_utils" not in sys.modules
import faiss
index = faiss.IndexIVFFlat(faiss.IndexFlatL2(4), 4, 1)
points = np.eye(4, dtype=np.float32)
index.train(points)
index.add(points)
distances, rows = index.search(points, 1, params=faiss.SearchParametersIVF(nprobe=1))
assert isinstance(rows, np.ndarray) and rows[:, 0].tolist() == [0, 1, 2, 3]
"""


def test_faiss_still_takes_arrays_and_parameters() -> None:
    done = subprocess.run([sys.executable, "-c", _CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
