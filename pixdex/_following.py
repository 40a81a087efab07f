"""An index goes on with what its alias names now, when that was switched to a collection of another encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from pixdex.errors import FingerprintMismatch

__all__ = ["following_alias"]

P = ParamSpec("P")
R = TypeVar("R")


class _Reopening(Protocol):
    def _reopened(self) -> bool: ...


S = TypeVar("S", bound=_Reopening)


def following_alias(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """A method that is called once more where the collection turns out to be of another encoder by now, and the index could
    open it anew; not where an iterator was given, which may be used up by then.
    """

    @wraps(method)
    def called(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(self, *args, **kwargs)
        except FingerprintMismatch:
            given = (*args, *kwargs.values())
            if any(isinstance(value, Iterator) for value in given) or not self._reopened():
                raise
        return method(self, *args, **kwargs)

    return called
