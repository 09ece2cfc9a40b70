"""What Prometheus is told: gauges of the migrations that run, and of those that have ended what outlives them.

Names are those of libvirt's exporters where there is one, in base units; a figure that is not known has no sample. The
label `domain` is there only while its VM migrates, and all others have a few values each.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vmferry.agent.config import loopback_port
from vmferry.agent.live import Live
from vmferry.agent.recording import Recording
from vmferry.bounds import one_line
from vmferry.errors import HostError
from vmferry.migration.status import MigrationStatus

_MS_PER_S = 1000
_UNSEEN = "unseen"
"""Stands for the state of a migration whose end nobody saw."""
_STATES = frozenset(status.value for status in MigrationStatus)
_TIMES_S = (1, 3, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600)
_DOWNTIMES_S = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)
_SHARES = (0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_GAUGES: dict[str, tuple[str, Callable[[Live], float | None]]] = {
    "libvirt_domain_job_time_elapsed_seconds": ("how long it has run", lambda live: _seconds(live, "elapsed_ms")),
    "libvirt_domain_job_mem_total_bytes": ("memory of the guest", lambda live: _told(live, "total_bytes")),
    "libvirt_domain_job_mem_remaining_bytes": ("what is left to send", lambda live: _told(live, "remaining_bytes")),
    "libvirt_domain_job_mem_processed_bytes": ("what was sent", lambda live: _told(live, "sent_bytes")),
    "vmferry_migration_dirty_bytes_per_second": (
        "how fast the guest dirties memory",
        lambda live: _told(live, "dirty_bytes_per_s"),
    ),
    "vmferry_migration_bandwidth_bytes_per_second": (
        "how fast memory is sent",
        lambda live: _told(live, "bandwidth_bytes_per_s"),
    ),
    "vmferry_migration_throttle_ratio": (
        "the share of their time that is taken from the vCPUs",
        lambda live: _share(_told(live, "throttle_percent")),
    ),
    "vmferry_migration_iteration": ("the number of the pass over memory", lambda live: _told(live, "iteration_count")),
    "vmferry_migration_least_left_seconds": (
        "time still needed if the guest dirtied nothing more",
        lambda live: live.outlook.least_s if live.outlook else None,
    ),
    "vmferry_migration_most_left_seconds": (
        "time still needed if all goes on as it does",
        lambda live: live.outlook.most_s if live.outlook else None,
    ),
}


class Metrics:
    """Of one agent."""

    def __init__(self, live: Callable[[], Sequence[Live]]) -> None:
        """`live` returns the migrations that run."""
        self.registry = CollectorRegistry()
        self.registry.register(_LiveCollector(live))
        labels = ("mode", "status")
        self._ended = Counter(
            "vmferry_migrations", "migrations that were followed, to their end or not", labels, registry=self.registry
        )
        self._total = Histogram(
            "vmferry_migration_total_time_seconds",
            "from begin to end",
            labels,
            buckets=_TIMES_S,
            registry=self.registry,
        )
        self._downtime = Histogram(
            "vmferry_migration_downtime_seconds",
            "how long the guest stood still",
            labels,
            buckets=_DOWNTIMES_S,
            registry=self.registry,
        )
        self._lost = Histogram(
            "vmferry_migration_work_lost_ratio",
            "the share of its work that the throttle took from the guest",
            labels,
            buckets=_SHARES,
            registry=self.registry,
        )

    def count(self, recording: Recording) -> None:
        """Count a migration that is followed no more."""
        close, mode = recording.close, recording.facts.mode.value
        if close is None:
            return
        if close.outcome is None:
            self._ended.labels(mode, _UNSEEN).inc()
            return
        outcome = close.outcome
        labels = mode, outcome.status if outcome.status in _STATES else _UNSEEN
        self._ended.labels(*labels).inc()
        if outcome.total_time_ms is not None:
            self._total.labels(*labels).observe(outcome.total_time_ms / _MS_PER_S)
        if outcome.downtime_ms is not None:
            self._downtime.labels(*labels).observe(outcome.downtime_ms / _MS_PER_S)
        if outcome.work_lost_percent is not None:
            self._lost.labels(*labels).observe(outcome.work_lost_percent / 100)


@contextmanager
def served(metrics: Metrics, address: str) -> Iterator[None]:
    """Serve `/metrics` at `HOST:PORT`. Raises HostError if that cannot be."""
    host, port = loopback_port(address)
    try:
        server, thread = start_http_server(port, host, metrics.registry)
    except OSError as error:
        raise HostError(f"cannot serve metrics at {address}: {error.strerror}", error.errno) from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _LiveCollector(Collector):
    def __init__(self, live: Callable[[], Sequence[Live]]) -> None:
        self._live = live

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges of all migrations that run."""
        running = GaugeMetricFamily("vmferry_migrations_running", "migrations that are followed now", labels=["mode"])
        live = self._live()
        modes = [one.recording.facts.mode.value for one in live]
        for mode in sorted(set(modes)):
            running.add_metric([mode], modes.count(mode))
        yield running
        for name, (text, value_of) in _GAUGES.items():
            family = GaugeMetricFamily(name, text, labels=["domain", "uuid"])
            values = {_labels_of(one): value_of(one) for one in live}
            for labels, value in values.items():
                if value is not None:
                    family.add_metric(labels, value)
            yield family


def _labels_of(live: Live) -> tuple[str, str]:
    vm = live.recording.facts.vm
    return one_line(vm.name), one_line(vm.uuid)


def _told(live: Live, figure: str) -> float | None:
    value: float | None = getattr(live.progress, figure) if live.progress else None
    return value


def _seconds(live: Live, figure: str) -> float | None:
    value_ms = _told(live, figure)
    return None if value_ms is None else value_ms / _MS_PER_S


def _share(percent: float | None) -> float | None:
    return None if percent is None else percent / 100
