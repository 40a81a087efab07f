"""What a copy and a reindexing do alike while the collection that they read is written to: passes, and telling of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pixdex._copy_moving import Follow, Moving
from pixdex.collection import Collection
from pixdex.errors import NotFound

if TYPE_CHECKING:
    from pixdex.connectors.port import Connector
    from pixdex.policy import Policy

__all__ = ["PASSES", "existing", "silent", "teller", "until_few"]

_FEW = 100
"""Records written during a pass, so few that the next one is the last."""
PASSES = 8


def until_few(catch_up: Callable[[], int]) -> int:
    """Catch up until a pass finds few, ``PASSES`` times at most; how many records that were."""
    total = 0
    for _ in range(PASSES):
        news = catch_up()
        total += news
        if news <= _FEW:
            break
    return total


def existing(connector: Connector, name: str, policy: Policy | None) -> Collection | None:
    """The collection of that name, if there is one."""
    try:
        return Collection.open(connector, name, policy=policy)
    except NotFound:
        return None


def teller(follow: Follow) -> Callable[[str, int, int], None]:
    """Tells ``follow`` of a phase that has no rate."""
    return lambda phase, done, total: follow(
        Moving(phase=phase, done=done, total=max(done, total), rate=0.0, left=None)
    )


def silent(moving: Moving) -> None:
    """Follow nothing."""
