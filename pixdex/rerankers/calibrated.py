"""``calibrated:FOLDER``: a reranker whose scores are probabilities, as ``pixdex calibrate`` fitted them to a collection.

The folder holds ``calibration.json``: ``version``, ``inner`` (the reranker's reference), ``name``, ``calibration`` (see
``pixdex.rerankers.calibration``), ``tokens`` and ``vector`` (whose it was fitted to), ``fit`` (figures).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from pixdex.errors import AlreadyExists, ConfigError, FingerprintMismatch, Unsupported
from pixdex.rerankers import references
from pixdex.rerankers.calibration import Calibration
from pixdex.rerankers.port import Candidate, Query, Reranker
from pixdex.spec import Fingerprint, Metric, TokenSpec, Vector

__all__ = ["CONFIG_FILE", "Calibrated", "Record", "load", "uncalibrated"]

CONFIG_FILE = "calibration.json"
_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What ``calibration.json`` says.

    Attributes:
        inner: the reference of the reranker.
        name: what its scores are called.
        calibration: of its scores and the first stage's.
        metric: of the first stage.
        vector: whose vectors the first stage compares.
        tokens: whose tokens the reranker takes; None where it takes none.
        fit: figures.
    """

    inner: str
    name: str
    calibration: Calibration
    metric: Metric
    vector: Fingerprint
    tokens: Fingerprint | None
    fit: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Record:
        """That of a folder.

        Raises:
            ConfigError: there is none, or one of a newer pixdex.
        """
        try:
            values = orjson.loads((folder / CONFIG_FILE).read_bytes())
            version = int(values["version"])
            tokens = values["tokens"]
            record = cls(
                inner=str(values["inner"]),
                name=str(values["name"]),
                calibration=Calibration.from_json(values["calibration"]),
                metric=Metric(values["metric"]),
                vector=Fingerprint(**values["vector"]),
                tokens=None if tokens is None else Fingerprint(**tokens),
                fit=values.get("fit", {}),
            )
        except (OSError, KeyError, TypeError, ValueError, ConfigError) as error:
            raise ConfigError(f"{folder} is not a calibration: {error}") from error
        if version > _VERSION:
            raise ConfigError(f"{folder} is of a newer pixdex: version {version}, this one knows {_VERSION}")
        return record

    def write(self, folder: Path) -> None:
        """Write it into a folder, which is made.

        Raises:
            AlreadyExists: there is something in the folder.
            ConfigError: it can't be written.
        """
        values = {**asdict(self), "version": _VERSION, "calibration": self.calibration.to_json()}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise AlreadyExists(f"{folder} is not empty: choose another folder")
            unfinished = folder / f".{CONFIG_FILE}"
            unfinished.write_bytes(orjson.dumps(values, option=orjson.OPT_INDENT_2))
            unfinished.replace(folder / CONFIG_FILE)
        except OSError as error:
            raise ConfigError(f"{folder} cannot be written ({error.strerror}): choose another folder") from error


class Calibrated:
    """Scores a candidate by the probability that it matches, from the first stage's score and that of a reranker.

    Where the first stage's order turned out not to be beaten, the reranker is not asked, tokens are not fetched, and the
    order stays.

    Attributes:
        name: that of the reranker.
        inner: the reranker; None where it is not asked.
        record: whose pictures the calibration was fitted to, and how that went.
    """

    def __init__(self, inner: Reranker | None, record: Record) -> None:
        """``inner`` is what ``record.inner`` stands for.

        Raises:
            ConfigError: it is None, and the calibration takes its scores.
        """
        if record.calibration.reranks and inner is None:
            raise ConfigError(f"this calibration takes the scores of {record.inner}")
        self.name = record.name
        self.record = record
        self.inner = uncalibrated(inner) if inner is not None and record.calibration.reranks else None
        self.uses_tokens = self.inner is not None and self.inner.uses_tokens
        self.uses_vectors = self.inner is not None and getattr(self.inner, "uses_vectors", False)

    def for_tokens(self, tokens: TokenSpec) -> Calibrated:
        """The one whose reranker is that for these tokens.

        Raises:
            FingerprintMismatch: it was fitted for those of another encoder.
        """
        if self.inner is None or not self.uses_tokens:
            return self
        if self.record.tokens is not None and self.record.tokens.digest != tokens.fingerprint.digest:
            raise _mismatch(self, "tokens", self.record.tokens, tokens.fingerprint)
        return Calibrated(references.for_tokens(self.inner, tokens), self.record)

    def check(self, tokens: TokenSpec) -> None:
        """Make sure that it was fitted for these tokens.

        Raises:
            FingerprintMismatch: it was fitted for those of another encoder.
        """
        self.for_tokens(tokens)

    def check_vector(self, vector: Vector) -> None:
        """Make sure that it was fitted for scores of these vectors.

        Raises:
            FingerprintMismatch: it was fitted for those of another encoder, or compared otherwise.
            Unsupported: the reranker takes no such scores.
        """
        check = getattr(self.inner, "check_vector", None)
        if check is not None:
            check(vector)
        if self.record.vector.digest != vector.fingerprint.digest:
            raise _mismatch(self, "vectors", self.record.vector, vector.fingerprint)
        if self.record.metric is not vector.metric:
            raise FingerprintMismatch(
                f"the calibration of {self.name!r} was fitted to scores of {self.record.metric}; these are of "
                f"{vector.metric}: fit one to this collection: pixdex calibrate"
            )

    def rerank(self, query: Query, candidates: Sequence[Candidate]) -> NDArray[np.float32]:
        """float32 ``[n]``: probabilities; NaN where the reranker has no score. ``Candidate.score`` is the first stage's."""
        first = [candidate.score for candidate in candidates]
        scores = None if self.inner is None else self.inner.rerank(query, candidates)
        return self.record.calibration.probabilities(first, scores)

    def correspondences(self, query: Query, candidate: Candidate) -> NDArray[np.float32]:
        """Those of the reranker, float32 ``[tq, td]``.

        Raises:
            Unsupported: it is not asked, or has none.
        """
        own = getattr(self.inner, "correspondences", None)
        if own is None:
            why = "the first stage orders, it is not asked" if self.inner is None else "it compares no tokens"
            raise Unsupported(f"the calibrated {self.name!r} shows no correspondences: {why}")
        found: NDArray[np.float32] = own(query, candidate)
        return found


def load(rest: str) -> Calibrated:
    """The reranker of ``calibrated:FOLDER``.

    Raises:
        ConfigError: no such folder, or its reranker cannot be made.
        MissingDependency: its reranker needs an extra that is not installed.
    """
    if not rest:
        raise ConfigError("calibrated:FOLDER names the folder that pixdex calibrate wrote")
    record = Record.read(Path(rest).expanduser())
    return Calibrated(references.load(record.inner) if record.calibration.reranks else None, record)


def uncalibrated(reranker: Reranker) -> Reranker:
    """A reranker that gives its own scores, where it is one that makes probabilities of them."""
    own = getattr(reranker, "uncalibrated", None)
    return reranker if own is None else own()


def _mismatch(of: Calibrated, what: str, fitted: Fingerprint, given: Fingerprint) -> FingerprintMismatch:
    return FingerprintMismatch(
        f"the calibration of {of.name!r} was fitted to {what} of {fitted.encoder}; these are of {given.encoder} "
        f"({fitted.difference(given)} differ): fit one to this collection: pixdex calibrate"
    )
