"""The gauges of migrations that run: what each is called, and how it follows from what is seen of a migration.

The label `domain` is there only while its VM migrates. Who wants to know the time left finds three quantiles of it, as
gauges of their own: the label `quantile` belongs to summaries, which have seen what they tell.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vmferry.agent.live import Live
from vmferry.bounds import one_line
from vmferry.control.asking.progress import Progress
from vmferry.control.telling.outlook import Outlook
from vmferry.units import MS_PER_S

_Value = Callable[[Live], float | None]
_LABELS = ("domain", "uuid")


def _seen(value_of: Callable[[Progress], float | None], scale: float = 1.0) -> _Value:
    """Return how to find a figure that the monitor tells."""

    def find(live: Live) -> float | None:
        value = value_of(live.progress)
        return None if value is None else value / scale

    return find


def _expected(value_of: Callable[[Outlook], float | None]) -> _Value:
    """Return how to find what the look-ahead tells."""
    return lambda live: value_of(live.outlook)


_GAUGES: dict[str, tuple[str, _Value]] = {
    "libvirt_domain_job_time_elapsed_seconds": (
        "how long it has run",
        _seen(lambda seen: seen.elapsed_ms, MS_PER_S),
    ),
    "libvirt_domain_job_mem_total_bytes": ("memory of the guest", _seen(lambda seen: seen.total_bytes)),
    "libvirt_domain_job_mem_remaining_bytes": ("what is left to send", _seen(lambda seen: seen.remaining_bytes)),
    "libvirt_domain_job_mem_processed_bytes": ("what was sent", _seen(lambda seen: seen.sent_bytes)),
    "vmferry_migration_dirty_bytes_per_second": (
        "how fast the guest dirties memory",
        _seen(lambda seen: seen.dirty_bytes_per_s),
    ),
    "vmferry_migration_bandwidth_bytes_per_second": (
        "how fast memory is sent",
        _seen(lambda seen: seen.bandwidth_bytes_per_s),
    ),
    "vmferry_migration_throttle_ratio": (
        "the share of their time that is taken from the vCPUs; from the slowest, if they are slowed one by one",
        _seen(lambda seen: seen.throttle_percent, 100),
    ),
    "vmferry_migration_iteration": ("the number of the pass over memory", _seen(lambda seen: seen.iteration_count)),
    "vmferry_migration_least_left_seconds": (
        "time still needed if the guest dirtied nothing more",
        _expected(lambda outlook: outlook.least_s),
    ),
    "vmferry_migration_left_p10_seconds": (
        "time within which one such migration of ten would be over",
        _expected(lambda outlook: outlook.soon_s),
    ),
    "vmferry_migration_left_p50_seconds": (
        "time within which half of such migrations would be over",
        _expected(lambda outlook: outlook.median_s),
    ),
    "vmferry_migration_left_p90_seconds": (
        "time within which nine such migrations of ten would be over",
        _expected(lambda outlook: outlook.most_s),
    ),
    "vmferry_migration_deadline_left_seconds": (
        "time until the deadline of the rule that holds, below 0 once it is over",
        lambda live: live.deadline_left_s,
    ),
    "vmferry_migration_work_lost_vcpu_seconds": (
        "what the throttle has taken from the vCPUs so far",
        lambda live: live.lost_vcpu_s,
    ),
}


class LiveCollector(Collector):
    """Collects them whenever somebody asks."""

    def __init__(self, live: Callable[[], Sequence[Live]]) -> None:
        """`live` returns the migrations that run."""
        self._live = live

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges of all migrations that run; of two with the same name and UUID, those of one."""
        live = self._live()
        running = GaugeMetricFamily("vmferry_migrations_running", "migrations that are followed now", labels=["mode"])
        for mode, count in sorted(Counter(one.recording.facts.mode.value for one in live).items()):
            running.add_metric([mode], count)
        yield running
        each = {_labels_of(one): one for one in live}
        for name, (text, value_of) in _GAUGES.items():
            family = GaugeMetricFamily(name, text, labels=_LABELS)
            for labels, one in each.items():
                if (value := value_of(one)) is not None:
                    family.add_metric(labels, value)
            yield family
        yield _of_each_vcpu(each)


def _of_each_vcpu(each: dict[tuple[str, str], Live]) -> Metric:
    text = "the share of its time that is taken from a vCPU"
    family = GaugeMetricFamily("vmferry_migration_vcpu_throttle_ratio", text, labels=[*_LABELS, "vcpu"])
    for labels, one in each.items():
        for number, percent in enumerate(one.vcpu_throttle_percents):
            family.add_metric([*labels, str(number)], percent / 100)
    return family


def _labels_of(live: Live) -> tuple[str, str]:
    vm = live.recording.facts.vm
    return one_line(vm.name), one_line(vm.uuid)
