"""How a call to a store is tried: attempts, per-attempt time, an overall deadline, full jitter.

The call is a value, so that logging, metrics and chaos are observers and no class is wrapped. Clock,
sleep and random are injected, so that tests take no time. Client libraries' own retries are off.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pixdex.errors import PixdexError, RateLimited, StoreError, StoreTimeout

__all__ = ["Attempt", "Call", "Policy", "logged"]

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Call:
    """What is being tried: the verb, on which collection, how many records, safe to repeat or not."""

    verb: str
    collection: str
    size: int = 0
    idempotent: bool = True


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try as an observer sees it: its number from 1, the seconds it took, the error it met."""

    call: Call
    number: int
    seconds: float
    error: PixdexError | None


_log = logging.getLogger("pixdex.calls")


def logged(attempt: Attempt) -> None:
    """The usual observer: a record on the logger ``pixdex.calls``, DEBUG, and INFO for a try that failed.
    ``record.pixdex`` holds what it was about as values, for formatters such as ``pixdex.observing.JsonLines``.
    """
    level = logging.DEBUG if attempt.error is None else logging.INFO
    if not _log.isEnabledFor(level):
        return
    call, error = attempt.call, attempt.error
    values = {
        "verb": call.verb,
        "collection": call.collection,
        "size": call.size,
        "attempt": attempt.number,
        "seconds": attempt.seconds,
        "error": None if error is None else type(error).__name__,
    }
    what = f"{call.verb} on {call.collection!r}, attempt {attempt.number}: {attempt.seconds * 1e3:.1f} ms"
    _log.log(level, what if error is None else f"{what}, {error}", extra={"pixdex": values})


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Repeats what may succeed when repeated, within a deadline.

    Waits follow full jitter: uniform in [0, min(cap, base * 2^n)] (Brooker, AWS Architecture Blog,
    2015), or at least what a RateLimited error asks for.

    Attributes:
        attempts: tries in all.
        attempt_timeout: seconds a try may take.
        deadline: seconds all tries and waits may take.
        base: upper bound of the first wait, seconds.
        cap: upper bound of any wait, seconds.
        observe: called after every try; see ``pixdex.observing``.
    """

    attempts: int = 4
    attempt_timeout: float = 60.0
    deadline: float = 180.0
    base: float = 0.05
    cap: float = 5.0
    observe: Callable[[Attempt], None] = logged
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    uniform: Callable[[float, float], float] = random.uniform

    def run(self, call: Call, attempt: Callable[[float], R]) -> R:
        """The result of ``attempt(timeout)``, tried as often as the policy allows.

        Raises:
            StoreTimeout: the deadline passed before a try could start.
            PixdexError: the last error, when it is not retryable or tries ran out.
        """
        end = self.clock() + self.deadline
        met: PixdexError | None = None
        for number in range(1, self.attempts + 1):
            left = end - self.clock()
            if left <= 0:
                break
            started = self.clock()
            try:
                result = attempt(min(self.attempt_timeout, left))
            except PixdexError as error:
                met = error
                self.observe(Attempt(call, number, self.clock() - started, error))
                wait = self._wait(number, error)
                if not self._again(call, number, error) or self.clock() + wait >= end:
                    raise
                self.sleep(wait)
            else:
                if self.observe is not logged or _log.isEnabledFor(logging.DEBUG):  # else there is nobody to tell
                    self.observe(Attempt(call, number, self.clock() - started, None))
                return result
        raise StoreTimeout(f"{call.verb} on {call.collection!r} did not finish within {self.deadline:g} s") from met

    def _again(self, call: Call, number: int, error: PixdexError) -> bool:
        return isinstance(error, StoreError) and error.retryable and call.idempotent and number < self.attempts

    def _wait(self, number: int, error: PixdexError) -> float:
        wait = self.uniform(0.0, min(self.cap, self.base * 2.0 ** (number - 1)))
        asked = error.retry_after if isinstance(error, RateLimited) else None
        return max(wait, asked or 0.0)
