"""Threads with an eye on the clock."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from pixdex._crew import Crew
from pixdex.errors import InvalidImage


def threads(name: str) -> int:
    return sum(thread.name == name for thread in threading.enumerate())


@pytest.fixture
def stuck() -> Iterator[threading.Event]:
    """What a job can wait for, in vain; set when the test is over, so that its thread ends."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def crew(request: pytest.FixtureRequest) -> Iterator[Crew]:
    made = Crew(request.node.name, 2)
    yield made
    made.close()


def test_results_and_errors_come_to_who_asks(crew):
    jobs = [crew.submit(lambda n=n: n * n) for n in range(100)]
    assert [job.result(9) for job in jobs] == [n * n for n in range(100)]

    def fail() -> None:
        raise TimeoutError("of its own")

    with pytest.raises(TimeoutError, match="of its own"):
        crew.submit(fail).result(9)


def test_no_more_threads_than_allowed_and_none_before_they_are_needed(crew, request):
    assert threads(request.node.name) == 0
    crew.submit(int).result(9)
    assert threads(request.node.name) == 1
    for job in [crew.submit(int) for _ in range(20)]:
        job.result(9)
    assert threads(request.node.name) == 2


def test_jobs_begin_in_order():
    begun: list[int] = []
    crew = Crew("order", 1)
    for job in [crew.submit(lambda n=n: begun.append(n)) for n in range(50)]:
        job.result(9)
    crew.close()
    assert begun == list(range(50))


def test_a_job_that_does_not_end_is_given_up_and_the_others_are_done(stuck):
    crew = Crew("given up", 1)
    hangs = [crew.submit(stuck.wait) for _ in range(2)]
    after = crew.submit(lambda: "done")
    for job in hangs:
        with pytest.raises(InvalidImage, match=r"^not done after 0.2 seconds$"):
            job.result(0.2)
    assert after.result(9) == "done"
    started = time.monotonic()
    crew.close()
    assert time.monotonic() - started < 1, "who was left behind is not waited for"


def test_a_thread_that_was_given_up_ends_when_it_comes_back(stuck):
    crew = Crew("comes back", 1)
    with pytest.raises(InvalidImage):
        crew.submit(stuck.wait).result(0.1)
    crew.submit(int).result(9)
    assert threads("comes back") == 2
    stuck.set()
    end = time.monotonic() + 9
    while threads("comes back") > 1 and time.monotonic() < end:
        time.sleep(0.01)
    assert threads("comes back") == 1
    assert crew.submit(lambda: "still there").result(9) == "still there"
    crew.close()


def test_the_clock_runs_from_the_beginning_of_the_job():
    crew = Crew("clock", 1)
    jobs = [crew.submit(lambda: time.sleep(0.5)) for _ in range(5)]
    for job in reversed(jobs):  # the last waits longest for its turn
        job.result(2.0)
    crew.close()


def test_closing_drops_what_was_not_begun(stuck):
    crew = Crew("closed", 1)
    running = crew.submit(lambda: time.sleep(0.2) or "done")
    while not running._begun.is_set():
        time.sleep(0.01)
    waiting = crew.submit(lambda: "never")
    crew.close()
    assert running.result(9) == "done"
    for job in (waiting, crew.submit(lambda: "never")):
        with pytest.raises(InvalidImage, match="cancelled"):
            job.result(9)
    assert threads("closed") == 0


def test_closing_lets_go_who_waits_for_a_job_that_hangs(stuck):
    crew = Crew("let go", 1)
    job = crew.submit(stuck.wait)
    outcome: list[BaseException] = []

    def wait() -> None:
        try:
            job.result(60)
        except InvalidImage as error:
            outcome.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    started = time.monotonic()
    crew.close()
    waiter.join(9)
    assert [str(error) for error in outcome] == ["cancelled"]
    assert time.monotonic() - started < 5


def test_jobs_begin_when_they_are_admitted():
    room = 1
    crew = Crew("admitted", 2, admits=lambda: room > 0)

    def work() -> int:
        nonlocal room
        room -= 1
        return room

    first, second = crew.submit(work), crew.submit(work)
    assert first.result(9) == 0
    assert not second.done.wait(0.2)
    room = 1
    crew.look_again()
    assert second.result(9) == 0
    crew.close()


def test_ctrl_c_while_a_thread_is_started_lets_the_crew_close(monkeypatch):
    def interrupted(_: threading.Thread) -> None:
        raise KeyboardInterrupt

    crew = Crew("interrupted", 1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            crew.submit(lambda: None)
    crew.close()
