"""How long a copy keeps up with a source that is written to."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from pixdex.errors import ConfigError

__all__ = ["Until"]

_LOOK = 0.1
"""Seconds after which one who waits looks again whether it is over."""


class Until:
    """Keep up with the source until a time, or until ``stop`` is called: from another thread, or by a signal's handler."""

    def __init__(self, at: datetime | None = None, *, every: float = 2.0, ids_every: float = 300.0) -> None:
        """``at`` is an aware time; None: until ``stop``. A pass begins ``every`` so many seconds. What the source has lost is
        looked for every ``ids_every`` seconds, since it takes reading the ids of both sides; where that takes long, less often.

        Raises:
            ConfigError: a time without a zone, or a number below 0.
        """
        if at is not None and at.tzinfo is None:
            raise ConfigError(f"until {at.isoformat()}: say of which time zone it is")
        if every < 0 or ids_every < 0:
            raise ConfigError(f"every {every}, ids_every {ids_every}: they are in seconds, from 0")
        self.at = at
        self.every = every
        self.ids_every = ids_every
        # No events: one that is set by a signal's handler waits for ever for the lock that its wait, interrupted by it, holds.
        self._stopped = False
        self._begun = False

    def stop(self) -> None:
        """Let the pass under way be the last but one: what is written until then is brought, and all of it compared."""
        self._stopped = True

    @property
    def begun(self) -> bool:
        """Whether everything was copied once, so that it only keeps up."""
        return self._begun

    def begin(self) -> None:
        """Everything was copied once."""
        self._begun = True

    @property
    def over(self) -> bool:
        """Whether the time has come."""
        return self._stopped or (self.at is not None and datetime.now(UTC) >= self.at)

    def wait(self, seconds: float) -> None:
        """So long, or until it is over."""
        ends = time.monotonic() + seconds
        while not self.over and (left := ends - time.monotonic()) > 0:
            time.sleep(min(left, _LOOK))
