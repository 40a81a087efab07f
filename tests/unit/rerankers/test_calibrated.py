"""Trained rerankers that come with a calibration: probabilities in the order of the log-odds beneath them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import orjson
import pytest
from test_calibration import lists

pytest.importorskip("onnxruntime")

from pixdex import rerankers
from pixdex.errors import ConfigError
from pixdex.rerankers.calibrated import Calibrated, Record, uncalibrated
from pixdex.rerankers.calibration import Calibration, sigmoid
from pixdex.rerankers.learned import CONFIG_FILE, Learned, shipped
from pixdex.rerankers.port import Candidate, Query
from pixdex.rerankers.references import for_tokens
from pixdex.spec import Fingerprint, Metric

FOLDERS = [(kind, name) for kind in ("cross", "transport") for name in shipped(kind)]


def pictures(count: int = 12, seed: int = 0) -> tuple[Query, list[Candidate]]:
    """Tokens of a picture, and of others that share more and more of them."""
    rng = np.random.default_rng(seed)
    asked = rng.integers(-127, 128, (16, 64)).astype(np.int8)
    candidates = []
    for row in range(count):
        tokens = rng.integers(-127, 128, (16, 64)).astype(np.int8)
        tokens[:row] = asked[:row]
        candidates.append(Candidate(str(row), 0.3 + row / 30, tokens))
    return Query(np.ones(4, dtype=np.float32), asked), candidates


@pytest.mark.parametrize(("kind", "name"), FOLDERS)
def test_what_comes_with_pixdex_gives_probabilities(kind: str, name: str) -> None:
    reranker = rerankers.load(f"{kind}:{name}")
    assert isinstance(reranker, Learned)
    assert reranker.calibration is not None, "python -m pixdex.training.calibrations fits one"
    query, candidates = pictures()
    candidates.append(Candidate("without", 0.2))
    said = reranker.rerank(query, candidates)
    assert np.isnan(said[-1])
    assert ((said[:-1] >= 0) & (said[:-1] <= 1)).all()
    raw = uncalibrated(reranker).rerank(query, candidates)
    first = np.array([each.score for each in candidates])
    of = reranker.calibration
    expected = sigmoid(of.weight_first * first + of.weight_rerank * raw.astype(float) + of.bias)
    assert said[:-1] == pytest.approx(expected[:-1], abs=1e-5)
    assert of.weight_last == 0  # it must hold for lists of any length
    assert reranker.rerank(query, candidates) == pytest.approx(said, nan_ok=True)  # the other is another


@pytest.mark.parametrize("kind", ["cross", "transport"])
def test_a_calibration_is_fitted_to_what_lies_beneath(kind: str) -> None:
    """Also where a reranker is found by the tokens, before and after it was; which changes none that others may be using."""
    query, candidates = pictures()
    spec = rerankers.load(f"{kind}:mini")._about.fingerprints[0]  # type: ignore[attr-defined]

    class Spec:
        fingerprint = spec

    raw = rerankers.load(f"{kind}:mini").uncalibrated().rerank(query, candidates)  # type: ignore[attr-defined]
    shared = rerankers.load(kind)
    late = for_tokens(shared, Spec())  # type: ignore[arg-type]
    assert uncalibrated(late).rerank(query, candidates).tolist() == raw.tolist()
    early = for_tokens(uncalibrated(shared), Spec())  # type: ignore[arg-type]
    assert early.rerank(query, candidates).tolist() == raw.tolist()
    with pytest.raises(ConfigError, match="say whose tokens these are"):
        shared.rerank(query, candidates)
    calibration = Calibration(0.0, 0.1, 0.0)
    record = Record(
        inner=kind,
        name=kind,
        calibration=calibration,
        metric=Metric.COSINE,
        vector=Fingerprint(encoder="toy", digest="0" * 8),
        tokens=spec,
    )
    said = Calibrated(late, record).rerank(query, candidates)
    assert said == pytest.approx(sigmoid(0.1 * raw.astype(float)), abs=1e-6)
    assert Calibrated(late, record).correspondences(query, candidates[3]).shape == (16, 16)
    there = for_tokens(Calibrated(shared, record), Spec())  # type: ignore[arg-type]
    assert there.rerank(query, candidates) == pytest.approx(said, nan_ok=True)


def test_a_folder_is_calibrated_only_where_that_helps(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from pixdex.training.calibrations import calibrate_folder

    folder = tmp_path / "made"
    shutil.copytree(shipped("transport")["mini"], folder)
    document = orjson.loads((folder / CONFIG_FILE).read_bytes())
    document.pop("calibration", None)
    (folder / CONFIG_FILE).write_bytes(orjson.dumps(document))
    assert Learned(folder, "transport").calibration is None
    for useless in (lists(good=-1.0), lists(queries=5)):
        assert calibrate_folder(folder, useless) is None
        assert orjson.loads((folder / CONFIG_FILE).read_bytes()) == document
    facts = calibrate_folder(folder, lists(good=2.0))
    assert facts is not None
    assert facts["queries"] == 60
    made = Learned(folder, "transport").calibration
    assert made is not None
    assert (made.reranks, made.weight_last) == (True, 0)
