"""Pictures decoded in processes of their own, so that a decoder that crashes or hangs takes one picture and no more.

A decoder of this process is as fast, but a segmentation fault in it is the end of the job, and a thread that hangs
cannot be stopped. What processes cost, measured on two cores: 0.2 ms of CPU time a picture of 300 x 200, beside 0.3 ms to
decode it and 4 ms or more to encode it; 0.3 ms for the pixels of 640 x 480; 10 ms for 3000 x 2000 at full size; and
0.25 s to start one. So a handful of plain pictures is decoded here.

A decoder is a Python started with ``-c``: ``multiprocessing`` would run the user's script again in each, unless it has
a guard, and unpickle what they say. A request is pickled, as its reader trusts this process; an answer is a line of JSON
and the bytes of the pixels, as nobody trusts a process that has read pictures of strangers.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import numpy as np

from pixdex.encoders.decoding import PATIENCE
from pixdex.errors import InvalidImage

if TYPE_CHECKING:
    from pixdex.encoders.port import Pixels

__all__ = ["Decoders", "Load", "Loaded", "serve"]

Loaded: TypeAlias = "tuple[Pixels, dict[str, Any]]"
"""Pixels, and the fields that come with them: JSON values, and times."""
Load: TypeAlias = Callable[[Any], Loaded]
"""Path or bytes to pixels; a function that can be pickled."""

_FEW = 32
"""So many plain pictures are decoded in this process before others are started."""
_PLAIN = b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM"
"""How JPEG, PNG, GIF, WebP and BMP start. The decoders of other formats, such as TIFF, AVIF and HEIC, have met less of
the world, and run apart from the first picture on.
"""
_MAX_LINE = 1 << 20
_READY = b"ready\n"
_TIME = "$time"
_GOODBYE = 5.0
"""Seconds that a process which closed its end has to go: writing a core file may take some."""
_START = "import sys; sys.path[:] = {path!r}; from pixdex._decoding import serve; serve({patience!r})"


class Decoders:
    """``load`` for any number of threads, each of which keeps one process busy at most."""

    def __init__(self, load: Load, *, patience: float = PATIENCE, few: int = _FEW) -> None:
        self._load = load
        self._patience = patience
        self._few = few
        self._lock = threading.Lock()
        self._idle: list[_Decoder] = []
        self._all: set[_Decoder] = set()
        self._closed = False
        self._alone = not sys.executable or getattr(sys, "frozen", False)  # there is no Python to start

    def load(self, picture: Any) -> Loaded:
        """Pixels and fields of a path or bytes.

        Raises:
            InvalidImage: it cannot be decoded, its decoder died of it, or was stopped after ``patience`` seconds.
        """
        decoder = None if self._is_for_here(picture) else self._take()
        if decoder is None:
            return _loaded(self._load, picture)
        try:
            answer = decoder.ask(self._load, picture)
        except _GoneError:
            raise InvalidImage(_obituary(self._drop(decoder), self._patience)) from None
        except BaseException:
            decoder.kill()
            self._drop(decoder)
            raise
        self._give_back(decoder)
        if isinstance(answer, InvalidImage):
            raise answer
        return answer

    def close(self) -> None:
        """Stop every process, busy or not."""
        with self._lock:
            self._closed = True
            decoders, idle, self._idle = list(self._all), self._idle, []
        for decoder in decoders:
            decoder.kill()
        for decoder in idle:  # the others are ended by who waits for them
            self._drop(decoder)

    def _is_for_here(self, picture: Any) -> bool:
        if self._few <= 0 or not _head(picture).startswith(_PLAIN):
            return False
        self._few -= 1
        return True

    def _take(self) -> _Decoder | None:
        """A decoder that nobody uses, started when there is none; None where none can be started."""
        with self._lock:
            if self._closed:
                raise InvalidImage("cancelled")
            if self._idle:
                return self._idle.pop()
            if self._alone:
                return None
            try:
                decoder = _Decoder(self._patience)
            except OSError:
                self._alone = True
                return None
            self._all.add(decoder)
        if decoder.is_ready():
            return decoder
        self._drop(decoder)  # it ended before it saw a picture, so that no picture is to blame
        self._alone = True
        return None

    def _give_back(self, decoder: _Decoder) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(decoder)
                return
        self._drop(decoder)

    def _drop(self, decoder: _Decoder) -> int:
        with self._lock:
            self._all.discard(decoder)
        return decoder.end()


class _GoneError(Exception):
    """The process is gone, or what it says makes no sense."""


class _Decoder:
    """One process. It has one user at a time, who also ends it; only ``kill`` may come from elsewhere."""

    def __init__(self, patience: float) -> None:
        start = _START.format(path=[part for part in sys.path if isinstance(part, str)], patience=patience)
        one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self._process = subprocess.Popen(  # noqa: S603 - this Python, and our own line
            [sys.executable, "-c", start],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **one_thread},
            start_new_session=True,  # Ctrl-C is for the job, which stops its decoders
        )
        self._questions: IO[bytes] = self._process.stdin  # type: ignore[assignment]  # pipes, as asked for
        self._answers: IO[bytes] = self._process.stdout  # type: ignore[assignment]

    def is_ready(self) -> bool:
        """Whether it has come up, waited for."""
        return self._answers.readline(_MAX_LINE) == _READY

    def ask(self, load: Load, picture: Any) -> Loaded | InvalidImage:
        """What ``load(picture)`` gives or raises there.

        Raises:
            _GoneError: the process did not answer.
        """
        request = pickle.dumps((load, picture), protocol=pickle.HIGHEST_PROTOCOL)
        try:
            self._questions.write(request)
            self._questions.flush()
            head = json.loads(self._answers.readline(_MAX_LINE), object_hook=_from_json)
            if "error" in head:
                return InvalidImage(str(head["error"]))
            return _read_pixels(self._answers, head["shape"]), head["fields"]
        except (OSError, EOFError, ValueError, TypeError, KeyError) as error:
            raise _GoneError from error

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> int:
        """Its exit code, once it is gone; killed when it does not go by itself."""
        with suppress(OSError):  # what it did not read
            self._questions.close()
        try:
            code = self._process.wait(_GOODBYE)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._process.wait()
        self._answers.close()
        return code


# --- both sides ----------------------------------------------------------------------------------------------------


def _head(picture: Any) -> bytes:
    """The first bytes of a picture file; nothing for what is none."""
    if isinstance(picture, bytes):
        return picture[:4]
    try:
        if not picture.is_file():  # a pipe would keep who opens it
            return b""
        with picture.open("rb") as file:
            return bytes(file.read(4))
    except (OSError, ValueError):
        return b""


def _loaded(load: Load, picture: Any) -> Loaded:
    try:
        return load(picture)
    except InvalidImage:
        raise
    except MemoryError as error:
        raise InvalidImage("not enough memory to decode it") from error
    except Exception as error:  # decoders raise anything, and one picture stops nothing
        raise InvalidImage(f"cannot be decoded: {error!r}") from error


def _obituary(code: int, patience: float) -> str:
    """Why a decoder with that exit code died."""
    if code >= 0:
        return f"its decoder ended, exit code {code}"
    if code == -getattr(signal, "SIGALRM", 0):
        return f"not decoded after {patience:g} seconds"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"its decoder died of {name}" + (", perhaps for want of memory" if name == "SIGKILL" else "")


def _read_pixels(answers: IO[bytes], shape: Sequence[int]) -> Pixels:
    pixels = np.empty(shape, np.uint8)
    left = pixels.reshape(-1).data
    while left:
        count = answers.readinto(left)  # type: ignore[attr-defined]  # a buffered reader
        if not count:
            raise EOFError
        left = left[count:]
    return pixels


def _to_json(value: Any) -> Any:
    if isinstance(value, datetime):
        return {_TIME: value.isoformat()}
    raise TypeError(f"a decoder gave a field of type {type(value).__name__}")


def _from_json(value: dict[str, Any]) -> Any:
    return datetime.fromisoformat(value[_TIME]) if _TIME in value else value


# --- in the process ------------------------------------------------------------------------------------------------


def serve(patience: float) -> None:
    """Answer requests on stdin until it ends. A picture that takes longer than ``patience`` ends the process: the
    system's alarm stops native code too.
    """
    with suppress(OSError):  # when memory runs out, this process is the one to go, and not the job
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    questions, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # decoders may print
    timed = hasattr(signal, "setitimer")
    if timed:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    answers.write(_READY)
    answers.flush()
    while True:
        try:
            load, picture = pickle.load(questions)  # noqa: S301 - written by the process that started this one
        except EOFError:
            return
        if timed:
            signal.setitimer(signal.ITIMER_REAL, patience)
        head, pixels = _answer(load, picture)
        if timed:
            signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(head + b"\n")
        answers.write(pixels)
        answers.flush()
        del load, picture, pixels


def _answer(load: Load, picture: Any) -> tuple[bytes, bytes | memoryview]:
    try:
        pixels, fields = _loaded(load, picture)
    except InvalidImage as error:
        return json.dumps({"error": str(error)}).encode(), b""
    head = json.dumps({"shape": pixels.shape, "fields": fields}, default=_to_json)
    return head.encode(), np.ascontiguousarray(pixels, np.uint8).reshape(-1).data
