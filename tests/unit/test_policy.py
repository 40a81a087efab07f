"""How calls to a store are repeated: on a clock that tests turn."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pixdex.errors import (
    AccessDenied,
    InvalidRecord,
    PartialWrite,
    PixdexError,
    RateLimited,
    StoreError,
    StoreTimeout,
    StoreUnavailable,
)
from pixdex.policy import Attempt, Call, Policy

READ = Call("fetch", "photos", size=3)


class Clock:
    """Time that passes only by sleeping and by what a try is said to take."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        self.bounds: list[tuple[float, float]] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def longest(self, low: float, high: float) -> float:
        self.bounds.append((low, high))
        return high


def policy(clock: Clock, **options: object) -> Policy:
    return Policy(**{"clock": clock, "sleep": clock.sleep, "uniform": clock.longest, **options})


def failing(*errors: BaseException, clock: Clock | None = None, seconds: float = 0.0) -> Callable[[float], str]:
    """A call that raises these errors, one a try, and then answers; ``timeouts`` are what it was allowed."""
    left = list(errors)

    def attempt(timeout: float) -> str:
        attempt.timeouts.append(timeout)
        if clock is not None:
            clock.now += seconds
        if left:
            raise left.pop(0)
        return "answer"

    attempt.timeouts = []
    return attempt


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_what_succeeds_is_tried_once(clock):
    assert policy(clock).run(READ, failing()) == "answer"
    assert clock.slept == []


@pytest.mark.parametrize("error", [StoreTimeout("late"), StoreUnavailable("gone"), RateLimited("slow down")])
def test_what_may_pass_is_tried_again(clock, error):
    assert policy(clock).run(READ, failing(error, error)) == "answer"
    assert len(clock.slept) == 2


@pytest.mark.parametrize(
    "error",
    [StoreError("broken"), AccessDenied("who?"), PartialWrite("half", done=["a"]), InvalidRecord("no"), KeyError("x")],
)
def test_what_will_not_pass_is_raised_at_once(clock, error):
    call = failing(error)
    with pytest.raises(type(error)) as caught:
        policy(clock).run(READ, call)
    assert caught.value is error
    assert len(call.timeouts) == 1
    assert clock.slept == []


def test_what_must_not_happen_twice_is_not_tried_again(clock):
    with pytest.raises(StoreUnavailable):
        policy(clock).run(Call("create", "photos", idempotent=False), failing(StoreUnavailable("gone")))
    assert clock.slept == []


def test_the_last_error_stands_when_tries_run_out(clock):
    errors = [StoreUnavailable(str(number)) for number in range(9)]
    call = failing(*errors)
    with pytest.raises(StoreUnavailable, match="2"):
        policy(clock, attempts=3).run(READ, call)
    assert len(call.timeouts) == 3
    assert len(clock.slept) == 2, "no wait behind the last try"


def test_waits_are_drawn_from_zero_to_a_bound_that_doubles_up_to_the_cap(clock):
    with pytest.raises(StoreUnavailable):
        policy(clock, attempts=6, base=0.1, cap=0.5).run(READ, failing(*[StoreUnavailable("x")] * 6))
    assert clock.bounds[:5] == [(0.0, 0.1), (0.0, 0.2), (0.0, 0.4), (0.0, 0.5), (0.0, 0.5)]
    assert clock.slept == [0.1, 0.2, 0.4, 0.5, 0.5]


def test_the_shipped_jitter_stays_within_its_bounds():
    for seed in range(50):
        clock = Clock()
        import random

        policy(clock, uniform=random.Random(seed).uniform, base=1.0).run(READ, failing(*[StoreUnavailable("x")] * 3))
        assert all(0 <= wait <= bound for wait, bound in zip(clock.slept, [1, 2, 4], strict=True))


def test_a_store_that_says_when_is_heard(clock):
    assert policy(clock).run(READ, failing(RateLimited("busy", retry_after=7.5))) == "answer"
    assert clock.slept == [7.5]


def test_a_store_that_says_soon_still_gets_the_jitter(clock):
    policy(clock, base=2.0).run(READ, failing(RateLimited("busy", retry_after=0.1)))
    assert clock.slept == [2.0]


def test_no_wait_reaches_beyond_the_deadline(clock):
    call = failing(RateLimited("busy", retry_after=60))
    with pytest.raises(RateLimited):
        policy(clock, deadline=30).run(READ, call)
    assert clock.slept == []


def test_each_try_may_take_what_is_left(clock):
    call = failing(StoreTimeout("late"), StoreTimeout("late"), clock=clock, seconds=20)
    policy(clock, attempt_timeout=25, deadline=60, base=0).run(READ, call)
    assert call.timeouts == [25, 25, 20]


def test_a_deadline_that_has_passed_is_a_timeout_that_names_the_call(clock):
    def oversleep(seconds: float) -> None:
        clock.now += 100

    with pytest.raises(StoreTimeout, match=r"fetch on 'photos' did not finish within 60 s"):
        policy(clock, deadline=60, sleep=oversleep).run(READ, failing(StoreUnavailable("x")))
    with pytest.raises(StoreTimeout, match="within 0 s"):
        policy(clock, deadline=0).run(READ, failing())


def test_every_try_is_observed(clock):
    seen: list[Attempt] = []
    error = StoreUnavailable("gone")
    policy(clock, observe=seen.append).run(READ, failing(error, clock=clock, seconds=0.5))
    assert seen == [Attempt(READ, 1, 0.5, error), Attempt(READ, 2, 0.5, None)]


def test_the_error_that_is_raised_was_observed_too(clock):
    seen: list[Attempt] = []
    with pytest.raises(PixdexError):
        policy(clock, observe=seen.append).run(READ, failing(AccessDenied("who?")))
    assert [type(a.error) for a in seen] == [AccessDenied]


def test_the_default_needs_nothing():
    assert Policy().run(READ, lambda timeout: timeout) == pytest.approx(60, abs=1)
