"""Long work awaited: it runs in a thread, and is stopped where it says how far it is when its caller is cancelled."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from pixdex._limiter import Calls

if TYPE_CHECKING:
    from pixdex.aio import AsyncCollection, AsyncImageIndex
    from pixdex.collection import Collection
    from pixdex.index import ImageIndex

__all__ = ["Target", "awaited", "calls_of", "sync_of"]

R = TypeVar("R")

Target: TypeAlias = "str | AsyncImageIndex | AsyncCollection"
"""What is evaluated, or labelled: an address, or what is open already."""


def sync_of(target: Target) -> str | ImageIndex | Collection:
    """What the sync call takes."""
    return target if isinstance(target, str) else target._sync  # noqa: SLF001 - the two are one


def calls_of(target: Target) -> Calls:
    """The calls that a target's own count among; others for an address."""
    return Calls(None) if isinstance(target, str) else target._calls  # noqa: SLF001 - the two are one


async def awaited(
    calls: Calls, work: Callable[[Callable[..., None]], R], hearing: AbstractContextManager[Callable[..., None] | None]
) -> R:
    """``work``, which calls what it is given to say how far it is; when cancelled, it is stopped there. ``hearing`` gives, while it
    runs, who hears of it.
    """
    stop = threading.Event()

    def run() -> R:
        with hearing as follow:
            return work(partial(_stop_or_tell, stop, follow))

    return await calls.run_to_rest(run, stop.set)


class _Stopped(Exception):
    """The call was cancelled."""


def _stop_or_tell(stop: threading.Event, follow: Callable[..., None] | None, *said: Any) -> None:
    if stop.is_set():
        raise _Stopped
    if follow is not None:
        follow(*said)
