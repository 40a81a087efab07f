"""What watchers are told: log records, metrics and spans of every try, and what became of pictures."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import toys

import pixdex
from pixdex.errors import StoreUnavailable
from pixdex.jobs import Job
from pixdex.observing import JsonLines, Telemetry, logged, several
from pixdex.policy import Attempt, Call, Policy
from pixdex.report import Report

metrics = pytest.importorskip("opentelemetry.sdk.metrics")
trace = pytest.importorskip("opentelemetry.sdk.trace")


class Watched:
    """Providers that keep what they are told."""

    def __init__(self) -> None:
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        self._reader, self._exporter = InMemoryMetricReader(), InMemorySpanExporter()
        tracers = trace.TracerProvider()
        tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meters = metrics.MeterProvider(metric_readers=[self._reader])
        self.telemetry = Telemetry("toys", tracer_provider=tracers, meter_provider=self.meters)

    @property
    def spans(self) -> list[Any]:
        return list(self._exporter.get_finished_spans())

    def points(self, name: str) -> list[Any]:
        data = self._reader.get_metrics_data()
        found = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics if m.name == name]
        return [point for metric in found for point in metric.data.data_points]


@pytest.fixture
def watched() -> Iterator[Watched]:
    watched = Watched()
    yield watched
    watched.meters.shutdown()


def policy(*observers: Any) -> Policy:
    return Policy(base=0.0, observe=several(*observers))


def failing_once() -> Any:
    answers = iter([StoreUnavailable("connection refused"), "answer"])

    def attempt(_: float) -> Any:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return attempt


def test_every_try_is_measured_and_traced(watched: Watched) -> None:
    assert policy(watched.telemetry.observe).run(Call("upsert", "photos", size=7), failing_once()) == "answer"
    failed, done = watched.spans
    assert failed.name == done.name == "upsert photos"
    assert failed.attributes["error.type"] == "StoreUnavailable"
    assert not failed.status.is_ok
    assert done.attributes["db.system.name"] == "toys"
    assert (done.attributes["db.operation.batch.size"], done.attributes["pixdex.attempt"]) == (7, 2)
    assert done.end_time >= done.start_time
    assert sum(point.count for point in watched.points("db.client.operation.duration")) == 2
    assert [point.value for point in watched.points("pixdex.retries")] == [1]


def test_pictures_are_counted_by_what_became_of_them(watched: Watched, tmp_path: Path) -> None:
    folder = toys.folder(tmp_path / "pics", 5)
    (folder / "broken.png").write_bytes(b"\x89PNG")
    with pixdex.open("memory://", encoder=toys.ToyEncoder(), policy=policy(watched.telemetry.observe)) as index:
        for _ in range(2):
            index.add(folder, progress=watched.telemetry.added)
    counted = {point.attributes["status"]: point.value for point in watched.points("pixdex.pictures")}
    assert counted == {"added": 5, "unchanged": 5, "failed": 2}
    verbs = {point.attributes["db.operation.name"] for point in watched.points("db.client.operation.duration")}
    assert {"create", "upsert", "fetch", "flush"} <= verbs


def test_a_later_job_that_is_longer_is_counted_from_its_begin(watched: Watched) -> None:
    watched.telemetry.added(Report(added=100, seconds=0.001))
    time.sleep(0.1)
    watched.telemetry.added(Report(added=130, seconds=0.05))  # the first that is told of another job
    watched.telemetry.added(Report(added=140, seconds=0.05))
    (point,) = watched.points("pixdex.pictures")
    assert point.value == 100 + 140


def test_what_a_sync_removed_is_told_too(watched: Watched, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    folder = toys.folder(tmp_path / "pics", 3)
    with pixdex.open(f"pq://{tmp_path / 'photos.pix'}", encoder=toys.ToyEncoder()) as index:
        index.add(folder, job=Job())
        (folder / "00.png").unlink()
        index.add(folder, job=Job(sync=True), progress=watched.telemetry.added)
    counted = {point.attributes["status"]: point.value for point in watched.points("pixdex.pictures")}
    assert counted == {"unchanged": 2, "removed": 1}


def test_durations_fall_into_buckets_of_milliseconds(watched: Watched) -> None:
    watched.telemetry.observe(Attempt(Call("search", "photos"), 1, 0.004, None))
    (point,) = watched.points("db.client.operation.duration")
    assert point.explicit_bounds[0] == 0.001
    assert point.bucket_counts[1] == 1


def test_a_probe_of_an_index_is_a_gauge(watched: Watched, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    from pixdex.doctor import diagnose

    url = f"pq://{tmp_path / 'photos.pix'}"
    with pixdex.open(url, encoder="classic") as index:
        index.add(toys.folder(tmp_path / "pics", 3))
    watched.telemetry.probed(diagnose(url))
    (point,) = watched.points("pixdex.recall")
    assert point.value == 1.0


def test_log_records_are_lines_of_json_with_values(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "pixdex.calls"):
        Policy(base=0.0).run(Call("search", "photos"), failing_once())
    failed, done = (json.loads(JsonLines().format(record)) for record in caplog.records)
    assert (failed["level"], failed["error"], failed["attempt"]) == ("info", "StoreUnavailable", 1)
    assert "connection refused" in failed["message"]
    assert (done["level"], done["verb"], done["collection"], done["error"]) == ("debug", "search", "photos", None)
    assert done["time"].endswith("Z")


def test_nothing_is_logged_unless_somebody_listens(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "pixdex.calls"):
        Policy(base=0.0).run(Call("search", "photos"), failing_once())
    assert not caplog.records


def test_an_exception_has_its_trace(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("pixdex.somewhere")
    with caplog.at_level(logging.ERROR, "pixdex.somewhere"):
        try:
            int("no")
        except ValueError:
            log.exception("failed")
    assert "ValueError: invalid literal" in json.loads(JsonLines().format(caplog.records[0]))["trace"]


def test_several_observers_all_hear(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Attempt] = []
    with caplog.at_level(logging.DEBUG, "pixdex.calls"):
        policy(logged, heard.append).run(Call("count", "photos"), lambda _: 1)
    assert len(heard) == len(caplog.records) == 1


def test_by_the_shell(tmp_path: Path) -> None:
    log = tmp_path / "calls.jsonl"
    command = [sys.executable, toys.__file__, "--log", str(log), "info", f"pq://{tmp_path / 'none.pix'}"]
    assert subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 1
    (line,) = map(json.loads, log.read_text().splitlines())
    assert (line["verb"], line["error"]) == ("describe", "NotFound")
    command[3] = str(tmp_path / "no" / "such" / "folder")
    refused = subprocess.run(command, capture_output=True, check=False, timeout=60, text=True)
    assert (refused.returncode, "cannot be written" in refused.stderr) == (1, True)
