"""What Prometheus is told: gauges of the migrations that run (`gauges.py`), and what outlives those that have ended.

Names are those of libvirt's exporters where there is one, in base units; a figure that is not known has no sample. No
label of what outlives a migration comes from outside, so each has a few values.
"""

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram

from vmferry.agent.failures import Failure
from vmferry.agent.gauges import LiveCollector
from vmferry.agent.live import Live
from vmferry.agent.recording import Foretold, Recording
from vmferry.agent.rules import Mode
from vmferry.migration.outcome import Outcome
from vmferry.migration.status import MigrationStatus
from vmferry.units import MS_PER_S

_UNSEEN = "unseen"
"""Stands for the state of a migration whose end nobody saw."""
_STATES = frozenset(status.value for status in MigrationStatus)
_TIMES_S = (1, 3, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600)
_DOWNTIMES_S = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)
_SHARES = (0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_ERRORS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 2, 5, 10)


class Metrics:
    """What one agent tells Prometheus."""

    def __init__(self, live: Callable[[], Sequence[Live]]) -> None:
        """`live` returns the migrations that run."""
        self.registry = CollectorRegistry()
        self.registry.register(LiveCollector(live))
        self._ended = self._counter("migrations", "migrations that were followed, to their end or not", "status")
        self._failed = self._counter("migration_failures", "migrations that did not complete, by why", "class")
        for mode in (Mode.WATCH, Mode.SHADOW, Mode.STEER):  # from 0 on, or else the first of them would be no increase
            for failure in Failure:
                self._failed.labels(mode.value, failure.value)
        self._not_steered = Counter(
            "vmferry_migrations_not_steered",
            "migrations that were to be steered by a rule, and could not be",
            registry=self.registry,
        )
        self._total = self._histogram("total_time_seconds", "from begin to end", "status", _TIMES_S)
        self._downtime = self._histogram("downtime_seconds", "how long the guest stood still", "status", _DOWNTIMES_S)
        lost = "the share of its work that the throttle took from the guest"
        self._lost = self._histogram("work_lost_ratio", lost, "status", _SHARES)
        error = "by how much the first median of the time left was off, as a share of it, and where the end came"
        self._error = self._histogram("forecast_error_ratio", error, "came", _ERRORS)

    def count(self, recording: Recording) -> None:
        """Count a migration that is followed no more."""
        close, mode = recording.close, recording.facts.mode.value
        if close is None:
            return
        if recording.not_steered:
            self._not_steered.inc()
        if close.failure:
            self._failed.labels(mode, close.failure.value).inc()
        outcome = close.outcome
        status = outcome.status if outcome and outcome.status in _STATES else _UNSEEN
        self._ended.labels(mode, status).inc()
        if outcome:
            self._observe(outcome, (mode, status))
            self._compare(recording.foretold, outcome, mode)

    def _observe(self, outcome: Outcome, labels: tuple[str, str]) -> None:
        if outcome.total_time_ms is not None:
            self._total.labels(*labels).observe(outcome.total_time_ms / MS_PER_S)
        if outcome.downtime_ms is not None:
            self._downtime.labels(*labels).observe(outcome.downtime_ms / MS_PER_S)
        if outcome.work_lost_percent is not None:
            self._lost.labels(*labels).observe(outcome.work_lost_percent / 100)

    def _compare(self, foretold: Foretold | None, outcome: Outcome, mode: str) -> None:
        """Compare the first forecast with what came of it, if there are both."""
        left_ms = foretold.left_ms(outcome) if foretold else None
        if foretold and foretold.median_left_ms and left_ms is not None:
            off_ms = left_ms - foretold.median_left_ms
            came = "later" if off_ms > 0 else "sooner"
            self._error.labels(mode, came).observe(abs(off_ms) / foretold.median_left_ms)

    def _counter(self, name: str, text: str, label: str) -> Counter:
        return Counter(f"vmferry_{name}", text, ("mode", label), registry=self.registry)

    def _histogram(self, name: str, text: str, label: str, buckets: Sequence[float]) -> Histogram:
        labels = ("mode", label)
        return Histogram(f"vmferry_migration_{name}", text, labels, buckets=buckets, registry=self.registry)
