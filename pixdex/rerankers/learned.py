"""Rerankers that were trained: folders of a graph that ONNX Runtime runs, and of whose tokens it was trained on.

A folder holds ``reranker.json`` (``version``, ``kind``, ``name``, ``tokens``: width, dtype and count it was trained with,
``fingerprints`` of the tokens it takes, ``digest`` of the graphs, ``trained``: figures, perhaps ``calibration``: see
``pixdex.rerankers.calibration``), ``scores.onnx``, ``looks.onnx`` (the correspondences), and ``model.safetensors`` (the
weights, to train on). ``pixdex.training.pairfolder`` writes it.
"""

from __future__ import annotations

import copy
import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from pixdex._machine import cores
from pixdex.errors import ConfigError, FingerprintMismatch, MissingDependency, Unsupported
from pixdex.rerankers.calibration import Calibration
from pixdex.rerankers.maxsim import unpacked
from pixdex.rerankers.port import Candidate, Query
from pixdex.spec import Fingerprint, Metric, TokenSpec, Vector

__all__ = ["CONFIG_FILE", "LOOKS", "SCORES", "Learned", "Shipped", "graphs_digest", "load", "shipped"]

CONFIG_FILE = "reranker.json"
SCORES, LOOKS = "scores.onnx", "looks.onnx"
_VERSION = 1
_AT_ONCE = 64
"""Candidates a run of the graph, so that what it makes stays in tens of megabytes."""
_ERRORS_ONLY = 3
_DATA = Path(__file__).parent / "data"


@dataclass(frozen=True, slots=True, eq=False)
class _About:
    """What ``reranker.json`` says."""

    folder: Path
    kind: str
    name: str
    dim: int
    fingerprints: tuple[Fingerprint, ...]
    digest: str
    trained: Mapping[str, Any]
    calibration: Calibration | None

    @classmethod
    def read(cls, folder: Path) -> _About:
        try:
            values = orjson.loads((folder / CONFIG_FILE).read_bytes())
            version = int(values["version"])
            fitted = values.get("calibration")
            about = cls(
                folder=folder,
                kind=values["kind"],
                name=values["name"],
                dim=int(values["tokens"]["dim"]),
                fingerprints=tuple(Fingerprint(**each) for each in values["fingerprints"]),
                digest=values["digest"],
                trained=values.get("trained", {}),
                calibration=None if fitted is None else Calibration.from_json(fitted),
            )
        except (OSError, KeyError, TypeError, ValueError, ConfigError) as error:
            raise ConfigError(f"{folder} is not a reranker: {error}") from error
        if version > _VERSION:
            raise ConfigError(f"{folder} is of a newer pixdex: version {version}, this one knows {_VERSION}")
        return about

    @property
    def encoders(self) -> str:
        """The encoders that it was trained for, in words."""
        return ", ".join(sorted({each.encoder for each in self.fingerprints})) or "no encoder"


class Learned:
    """A trained reranker: scores a candidate by the probability that it belongs to the query's picture where its folder has a
    calibration, as those do that come with pixdex; else by the log-odds of that as it was in training, where one of 16 did.

    Attributes:
        name: what it is called, ``cross`` or ``transport`` unless told otherwise.
        kind: ``cross`` or ``transport``.
        folder: where it lies.
        trained: figures of its training.
        calibration: what makes probabilities of its log-odds; None where nobody fitted one.

    Raises:
        ConfigError: the folder is no such reranker, of another kind, or was changed.
        MissingDependency: ONNX Runtime is not installed.
    """

    uses_tokens = True
    uses_vectors = False

    def __init__(self, folder: Path, kind: str) -> None:
        about = _About.read(folder)
        if about.kind != kind:
            raise ConfigError(f"{folder} is a reranker of the kind {about.kind}: load it as {about.kind}:{folder}")
        if graphs_digest(folder) != about.digest:
            raise ConfigError(f"{folder} was changed after it was written: the digest of its graphs is another")
        self.name, self.kind, self.folder, self.trained = about.name, about.kind, folder, about.trained
        self.calibration = about.calibration
        self._about = about
        self._sessions: dict[str, Any] = {}
        self._starting = threading.Lock()
        self._session(SCORES)

    def check(self, tokens: TokenSpec) -> None:
        """Make sure that it was trained for these tokens.

        Raises:
            FingerprintMismatch: it was trained for those of another encoder.
        """
        if any(each.digest == tokens.fingerprint.digest for each in self._about.fingerprints):
            return
        same = [each for each in self._about.fingerprints if each.encoder == tokens.fingerprint.encoder]
        differs = f", but {same[0].difference(tokens.fingerprint)} differ" if same else ""
        raise FingerprintMismatch(
            f"reranker {self.name!r} was trained for tokens of {self._about.encoders}; these are of "
            f"{tokens.fingerprint.encoder}{differs}: rerank with maxsim, or train one for this encoder"
        )

    def check_vector(self, vector: Vector) -> None:
        """Make sure that the first stage's scores, part of what it judges by, may be cosines; of ``dot`` they are where vectors are
        of length one, as it was trained.

        Raises:
            Unsupported: they are distances.
        """
        if vector.metric is Metric.L2:
            raise Unsupported(
                f"reranker {self.name!r} judges by the cosine of the first stage, and vectors {vector.name!r} are compared by "
                f"{vector.metric}: rerank with maxsim"
            )

    def rerank(self, query: Query, candidates: Sequence[Candidate]) -> NDArray[np.float32]:
        """float32 ``[n]``: probabilities, or log-odds without a calibration; NaN where candidate or query has no tokens.

        ``Candidate.score`` must be the cosine of the first stage, which is part of what is judged.

        Raises:
            ConfigError: tokens are not as wide as those it was trained on.
        """
        scores = np.full(len(candidates), np.nan, dtype=np.float32)
        if query.tokens is None or not len(query.tokens):
            return scores
        asked = self._tokens(query.tokens, "the query")[None]
        mask = np.ones(asked.shape[:2], dtype=np.float32)
        rows = [
            row for row, candidate in enumerate(candidates) if candidate.tokens is not None and len(candidate.tokens)
        ]
        for start in range(0, len(rows), _AT_ONCE):
            part = rows[start : start + _AT_ONCE]
            matrices = [self._tokens(candidates[row].tokens, repr(candidates[row].id)) for row in part]
            padded, there = _padded(matrices)
            first = np.array([[candidates[row].score for row in part]], dtype=np.float32)
            feed = {"query": asked, "query_mask": mask, "candidates": padded, "candidate_mask": there, "first": first}
            scores[part] = self._session(SCORES).run(None, feed)[0][0]
        if self.calibration is None:
            return scores
        return self.calibration.probabilities([candidate.score for candidate in candidates], scores)

    def uncalibrated(self) -> Learned:
        """The same, scoring by log-odds: what a calibration is fitted to."""
        other = copy.copy(self)  # which runs the same graphs
        other.calibration = None
        return other

    def correspondences(self, query: Query, candidate: Candidate) -> NDArray[np.float32]:
        """float32 ``[tq, td]``: how much of each token of the query it lays on each of the candidate, at most 1 a row.

        Raises:
            ConfigError: one of them has no tokens, or they are of another width.
        """
        if any(tokens is None or not len(tokens) for tokens in (query.tokens, candidate.tokens)):
            raise ConfigError("correspondences take tokens of both pictures")
        one, other = self._tokens(query.tokens, "the query"), self._tokens(candidate.tokens, repr(candidate.id))
        feed = {"query": one[None], "candidates": other[None, None]}
        feed |= {
            "query_mask": np.ones((1, len(one)), np.float32),
            "candidate_mask": np.ones((1, 1, len(other)), np.float32),
        }
        looks: NDArray[np.float32] = self._session(LOOKS).run(None, feed)[0][0, 0]
        return looks

    def _tokens(self, tokens: Any, whose: str) -> NDArray[np.float32]:
        values = unpacked(np.asarray(tokens))
        if values.ndim != 2 or values.shape[1] != self._about.dim:
            raise ConfigError(
                f"tokens of {whose} are {list(values.shape)}; reranker {self.name!r} takes {self._about.dim} values each"
            )
        return values.astype(np.float32)

    def _session(self, file: str) -> Any:
        with self._starting:
            if file not in self._sessions:
                self._sessions[file] = _started(self.folder / file)
            return self._sessions[file]


class Shipped:
    """The trained reranker of a kind that comes with pixdex for the tokens at hand, found when they are known: the one for
    copies, whose name is its kind. Others, such as those for classes, are asked for by name.

    Attributes:
        name: the kind.
    """

    uses_tokens = True
    uses_vectors = False

    def __init__(self, kind: str, *, calibrated: bool = True) -> None:
        """Without ``calibrated`` it chooses those that score by log-odds, see ``Learned.uncalibrated``."""
        self.name = kind
        self._calibrated = calibrated

    def for_tokens(self, tokens: TokenSpec) -> Learned:
        """The one for these tokens.

        Raises:
            FingerprintMismatch: there is none.
        """
        known = [about for about in map(_About.read, shipped(self.name).values()) if about.name == self.name]
        for about in known:
            if any(each.digest == tokens.fingerprint.digest for each in about.fingerprints):
                found = _started_once(about.folder, self.name)
                return found if self._calibrated else found.uncalibrated()
        encoders = ", ".join(sorted({about.encoders for about in known})) or "no encoder"
        raise FingerprintMismatch(
            f"pixdex brings no reranker {self.name!r} for these tokens of {tokens.fingerprint.encoder}, only for tokens of "
            f"{encoders} as its documentation says they are made: rerank with maxsim, or train one: {self.name}:FOLDER"
        )

    def check(self, tokens: TokenSpec) -> None:
        """Make sure that there is one for these tokens.

        Raises:
            FingerprintMismatch: there is none.
        """
        self.for_tokens(tokens)

    def rerank(self, query: Query, candidates: Sequence[Candidate]) -> NDArray[np.float32]:
        """Not before it is known whose tokens these are.

        Raises:
            ConfigError: always.
        """
        del query, candidates
        names = ", ".join(f"{self.name}:{each}" for each in shipped(self.name)) or f"{self.name}:FOLDER"
        raise ConfigError(
            f"{self.name}: say whose tokens these are: rerank(..., tokens=spec) or for_tokens(spec), or by name: {names}"
        )

    def uncalibrated(self) -> Shipped:
        """See ``Learned.uncalibrated``."""
        return Shipped(self.name, calibrated=False)


def shipped(kind: str) -> dict[str, Path]:
    """The folders that come with pixdex, by the name that follows the kind's colon."""
    return {
        folder.name.removeprefix(f"{kind}-"): folder for folder in sorted(_DATA.glob(f"{kind}-*")) if folder.is_dir()
    }


def load(kind: str, rest: str) -> Learned | Shipped:
    """The reranker of ``kind`` or ``kind:rest``: a folder, or the name of one that comes with pixdex.

    Raises:
        ConfigError: neither.
        MissingDependency: ONNX Runtime is not installed.
    """
    if not rest:
        return Shipped(kind)
    known = shipped(kind)
    folder = known.get(rest, Path(rest).expanduser())
    if not (folder / CONFIG_FILE).is_file():
        raise ConfigError(f"{kind}:{rest}: no such folder of a reranker; pixdex brings {', '.join(known) or 'none'}")
    return _started_once(folder, kind)


def _started_once(folder: Path, kind: str) -> Learned:
    """The one of a folder: every search asks for it anew, and starting costs as much as a search. One that was written anew since is
    started anew.
    """
    written = (folder / CONFIG_FILE).stat()
    return _kept(folder.resolve(), kind, (written.st_ino, written.st_mtime_ns))


@lru_cache(maxsize=8)
def _kept(folder: Path, kind: str, written: tuple[int, int]) -> Learned:
    del written  # told apart by it
    return Learned(folder, kind)


def graphs_digest(folder: Path) -> str:
    """The digest of the two graphs, 32 hexadecimal characters."""
    state = hashlib.blake2b(digest_size=16)
    for name in (SCORES, LOOKS):
        file = folder / name
        if not file.is_file():
            raise ConfigError(f"{folder} is not a reranker: it has no {name}")
        state.update(hashlib.blake2b(file.read_bytes()).digest())
    return state.hexdigest()


def _padded(matrices: Sequence[NDArray[np.float32]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Token lists side by side, ``[1, n, t, d]``, and where there are tokens, ``[1, n, t]``."""
    longest = max(map(len, matrices))
    padded = np.zeros((1, len(matrices), longest, matrices[0].shape[1]), dtype=np.float32)
    there = np.zeros(padded.shape[:3], dtype=np.float32)
    for row, matrix in enumerate(matrices):
        padded[0, row, : len(matrix)] = matrix
        there[0, row, : len(matrix)] = 1
    return padded, there


def _started(file: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependency("onnxruntime", "onnx") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = cores()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others have work for these cores
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own kinds
        raise ConfigError(f"{file} is not a graph that ONNX Runtime runs: {error}") from error
