"""Near-duplicate search over ``shared/data/copies``: 100 originals, 6 edits of each among 800 pictures."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from pixdex.encoders.images import decode
from pixdex.encoders.port import Encoder
from pixdex.rerankers.maxsim import MaxSim
from pixdex.rerankers.port import Candidate, Query


class Figures(NamedTuple):
    recall_at_1: float
    mean_average_precision: float


@pytest.fixture(scope="session")
def copies_figures(shared: Path) -> Callable[[Encoder], tuple[Figures, Figures]]:
    """Measures an encoder: the figures of the first stage, and of MaxSim over its top 100."""
    return lambda encoder: evaluate(encoder, shared)


def evaluate(encoder: Encoder, shared: Path) -> tuple[Figures, Figures]:
    folder = shared / "data" / "copies"
    with (folder / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    prepared = [encoder.prepare(decode((folder / row["path"]).read_bytes()).pixels) for row in rows]
    features = encoder.encode(prepared, tokens=True)
    assert features.tokens is not None
    queries = [i for i, row in enumerate(rows) if row["split"] == "query"]
    gallery = [i for i, row in enumerate(rows) if row["split"] == "gallery"]
    relevant = np.array([[rows[q]["label"] == rows[g]["label"] for g in gallery] for q in queries])
    first = features.vectors[queries] @ features.vectors[gallery].T
    second = first - 10
    for row, q in enumerate(queries):
        top = np.argsort(-first[row])[:100]
        candidates = [Candidate("", 0.0, features.tokens[gallery[g]]) for g in top]
        second[row, top] = MaxSim().rerank(Query(features.vectors[q], features.tokens[q]), candidates)
    return figures(first, relevant), figures(second, relevant)


def figures(scores: np.ndarray, relevant: np.ndarray) -> Figures:
    found = np.take_along_axis(relevant, np.argsort(-scores, axis=1, kind="stable"), axis=1)
    precision = np.cumsum(found, axis=1) / np.arange(1, found.shape[1] + 1)
    average = (precision * found).sum(axis=1) / found.sum(axis=1)
    return Figures(float(found[:, 0].mean()), float(average.mean()))
