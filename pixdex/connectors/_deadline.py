"""When a call of several steps has to stop."""

from __future__ import annotations

import time
from dataclasses import dataclass

from pixdex.errors import StoreTimeout

__all__ = ["Deadline"]


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the monotonic clock, None for never."""

    at: float | None

    @classmethod
    def after(cls, timeout: float | None) -> Deadline:
        """The deadline ``timeout`` seconds from now."""
        return cls(None if timeout is None else time.monotonic() + timeout)

    def left(self, most: float) -> float:
        """Seconds left, at most ``most``."""
        return most if self.at is None else max(0.0, min(most, self.at - time.monotonic()))

    def check(self) -> None:
        """Called between steps, never after a commit.

        Raises:
            StoreTimeout: it has passed.
        """
        if self.at is not None and time.monotonic() > self.at:
            raise StoreTimeout("the store ran out of time: allow more, or ask for less")
