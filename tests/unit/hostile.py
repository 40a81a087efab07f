"""A decoder that does what decoders do on bad days. Processes import it: so it imports little."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from contextlib import suppress
from typing import Any

from pixdex.pictures import load_picture


def load(picture: Any, decoding: Any = None, *, min_side: int | None = None) -> Any:
    """As ``load_picture``, and which process it was; pictures that are words are orders."""
    del decoding, min_side
    match picture:
        case b"segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case b"out of memory":
            os.kill(os.getpid(), signal.SIGKILL)
        case b"leave":
            sys.exit(3)
        case b"sleep":
            time.sleep(60)
        case b"spin":  # in native code, which lets no Python run beside it
            re.match(r"(a+)+$", "a" * 60 + "b")
        case b"stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case b"no memory":
            raise MemoryError
        case b"bug":
            raise KeyError("bug")
        case b"chatter":
            sys.stdout.write("this is no answer\n")
            sys.stdout.flush()
            os.write(1, b"nor is this\n")
        case b"lie":  # as one that was taken over might
            for fd in range(3, 20):
                with suppress(OSError):
                    os.write(fd, b'\x80\x04\x95 {"shape"\n')
        case b"modules":
            return load_picture(_DOT)[0], {"heavy": sorted({"torch", "transformers", "faiss"} & sys.modules.keys())}
    pixels, fields = load_picture(_DOT if picture in (b"chatter", b"lie", b"pid") else picture)
    return pixels, {**fields, "pid": os.getpid()}


_DOT = b"P6 1 1 255 abc"
