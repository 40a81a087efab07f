"""What goes on, told to whoever watches: log records as JSON lines, and OpenTelemetry metrics and spans.

Every call to a store is an ``Attempt`` that a ``Policy`` shows its observer. The usual one, ``policy.logged``, writes log records;
``Telemetry.observe`` counts and traces; ``several`` is both::

    telemetry = Telemetry("qdrant")
    index = pixdex.open(url, policy=Policy(observe=several(logged, telemetry.observe)))
    index.add(folder, progress=telemetry.added)

Names follow OpenTelemetry's semantic conventions for databases, where these have one.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixdex.errors import ConfigError, MissingDependency
from pixdex.policy import Attempt, logged

if TYPE_CHECKING:
    from pixdex.doctor import Diagnosis
    from pixdex.report import Report

__all__ = ["JsonLines", "Telemetry", "log_to", "logged", "several"]

_BOUNDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
"""Seconds: the buckets that the conventions advise; those that are usual begin at 5."""
_STATUSES = ("added", "reused", "unchanged", "duplicate", "removed")


class JsonLines(logging.Formatter):
    """One JSON object a record: ``time`` (ISO 8601, UTC), ``level``, ``logger``, ``message``, what pixdex says in values (``verb``,
    ``collection``, ``size``, ``attempt``, ``seconds``, ``error``), and ``trace`` of an exception.
    """

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        values: dict[str, Any] = {
            "time": f"{stamp}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "pixdex", {}),
        }
        if record.exc_info:
            values["trace"] = self.formatException(record.exc_info)
        return json.dumps(values, default=str)


def log_to(file: Path) -> None:
    """Append all that pixdex logs to a file, a line of JSON each.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        handler = logging.FileHandler(file, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}") from error
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("pixdex")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)


def several(*observers: Callable[[Attempt], None]) -> Callable[[Attempt], None]:
    """One observer that tells all."""

    def observe(attempt: Attempt) -> None:
        for observer in observers:
            observer(attempt)

    return observe


class Telemetry:
    """OpenTelemetry metrics and spans of one store, by the providers that the program has set up.

    Metrics: ``db.client.operation.duration`` (histogram, seconds, a verb), ``pixdex.retries`` (counter), ``pixdex.pictures`` (counter, by
    ``status``: added, reused, unchanged, duplicate, removed, failed), ``pixdex.recall`` (gauge: what a doctor's probe found). A span a try.

    Raises:
        MissingDependency: opentelemetry-api is not installed.
    """

    def __init__(self, system: str, *, tracer_provider: Any = None, meter_provider: Any = None) -> None:
        """``system`` names the store, such as ``qdrant``; providers are those of the program where none are given."""
        try:
            from opentelemetry import metrics, trace
        except ImportError as error:
            raise MissingDependency("opentelemetry-api", "otel") from error
        self._system = system
        self._kind, self._failed = trace.SpanKind.CLIENT, trace.StatusCode.ERROR
        self._tracer = trace.get_tracer("pixdex", tracer_provider=tracer_provider)
        meter = metrics.get_meter("pixdex", meter_provider=meter_provider)
        self._duration = meter.create_histogram(
            "db.client.operation.duration",
            unit="s",
            description="How long a call to the store took.",
            explicit_bucket_boundaries_advisory=_BOUNDS,
        )
        self._retries = meter.create_counter("pixdex.retries", description="Calls to the store that were tried again.")
        self._pictures = meter.create_counter("pixdex.pictures", description="Pictures, by what became of them.")
        self._recall = meter.create_gauge("pixdex.recall", description="The share of exact hits that an index finds.")
        self._told: dict[str, int] = {}
        self._heard = 0.0
        self._seconds = -1.0

    def observe(self, attempt: Attempt) -> None:
        """The observer of a ``Policy``."""
        call, error = attempt.call, attempt.error
        about: dict[str, Any] = {
            "db.system.name": self._system,
            "db.operation.name": call.verb,
            "db.collection.name": call.collection,
        }
        if error is not None:
            about["error.type"] = type(error).__name__
        self._duration.record(attempt.seconds, about)
        if attempt.number > 1:
            self._retries.add(1, about)
        ended = time.time_ns()
        size = {"db.operation.batch.size": call.size} if call.size > 1 else {}
        span = self._tracer.start_span(
            f"{call.verb} {call.collection}",
            kind=self._kind,
            attributes={**about, **size, "pixdex.attempt": attempt.number},
            start_time=ended - int(attempt.seconds * 1e9),
        )
        if error is not None:
            span.set_status(self._failed, str(error))
        span.end(ended)

    def added(self, report: Report) -> None:
        """A ``progress`` of ``add``, ``attach`` and the like: counts what has come since the last call. One job at a time: two
        that run at once need a ``Telemetry`` each.
        """
        heard = time.monotonic()
        now = {status: getattr(report, status) for status in _STATUSES} | {"failed": len(report.quarantined)}
        if (
            report.seconds != self._seconds and heard - report.seconds > self._heard
        ):  # it began after the last call: another job
            self._told = {}
        self._heard, self._seconds = heard, report.seconds
        for status, count in now.items():
            more = count - self._told.get(status, 0)
            if more > 0:
                self._pictures.add(more, {"status": status})
        self._told = now

    def probed(self, found: Diagnosis) -> None:
        """What ``pixdex.doctor.diagnose`` found of an index."""
        if found.recall is not None:
            self._recall.set(found.recall, {"db.system.name": self._system, "db.collection.name": found.collection})
