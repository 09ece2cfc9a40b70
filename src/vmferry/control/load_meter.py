"""Measures what bounds the speed of a migration while it goes on, where the source is a process of this host."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from vmferry.bounds import LARGEST
from vmferry.client.monitor import Monitor
from vmferry.client.processes import PROC, Scheduled
from vmferry.control.asking.bottleneck import Bottleneck, SendingLoad, find_bottleneck
from vmferry.control.asking.progress import Progress
from vmferry.control.host.return_path import Connections, connections
from vmferry.control.host.vcpu_threads import vcpu_threads
from vmferry.control.transfer import CHANNELS, CREDENTIALS, MULTIFD
from vmferry.errors import HostError, MonitorError
from vmferry.migration.ports import Clock
from vmferry.units import NS_PER_MS, NS_PER_S

_INTERVAL_NS = NS_PER_S
_LEAST_NS = 500 * NS_PER_MS
"""Shorter measurements tell nothing."""
_SURE_NS = 3 * NS_PER_S
_NS_PER_US = 1000
_LIMIT = "max-bandwidth"


@dataclass(frozen=True)
class _Sample:
    time_ns: int
    sent_bytes: int
    cpu_ns: dict[int, int]
    """What each thread but the vCPUs' has used so far."""
    connections: Connections | None
    sync_ms: float | None


class LoadMeter:
    """Looks on while pages are sent; `tell` is told once of each bottleneck that lasts."""

    def __init__(
        self,
        monitor: Monitor,
        uri: str | None,
        clock: Clock,
        settings: Mapping[str, object],
        tell: Callable[[Bottleneck], None],
    ) -> None:
        """`settings` are the parameters in force, of which max-bandwidth may change, and the state of `multifd`."""
        self._monitor = monitor
        self._uri = uri or ""
        self._clock = clock
        self._settings = settings
        self._tell = tell
        self._told: set[str] = set()
        self._first: _Sample | None = None
        self._last: _Sample | None = None
        self._pid = self._vcpus = None
        with suppress(HostError, MonitorError):
            self._pid = monitor.peer_pid
            self._vcpus = {thread.id for thread in vcpu_threads(monitor)}

    def look(self, progress: Progress) -> None:
        """Measure, if it is time."""
        now_ns = self._clock.now_ns()
        if progress.status != "active" or (self._last and now_ns - self._last.time_ns < _INTERVAL_NS):
            return
        self._last = self._sample(now_ns, progress)
        if self._limit_has_changed() or not self._first:
            self._first = self._last
        bottleneck = self.bottleneck()
        lasts = self._last.time_ns - self._first.time_ns >= _SURE_NS
        if bottleneck and lasts and bottleneck.limiting not in self._told:
            self._told.add(bottleneck.limiting)
            self._tell(bottleneck)

    def _limit_has_changed(self) -> bool:
        """Ask for the rate limit, which anybody may change at any time: what went before has had another."""
        before = self._number(_LIMIT)
        limit = self._monitor.execute("query-migrate-parameters").get(_LIMIT)
        self._settings = {**self._settings, _LIMIT: limit}
        return self._number(_LIMIT) != before

    def sync_share(self) -> float | None:
        """Return the share of the time that dirty syncs have taken so far; None if that is not known."""
        return self._measured.syncs if self._measured else None

    def bottleneck(self) -> Bottleneck | None:
        """Return what has bounded the speed so far; None if that is not known."""
        return find_bottleneck(self._measured) if self._measured else None

    @property
    def _measured(self) -> SendingLoad | None:
        if not (self._first and self._last and self._last.time_ns - self._first.time_ns >= _LEAST_NS):
            return None
        return self._load(self._first, self._last)

    def _sample(self, now_ns: int, progress: Progress) -> _Sample:
        here = connections(self._pid, self._uri) if self._pid else None
        used = _cpu_ns(self._pid, self._vcpus or set()) if self._pid else {}
        return _Sample(now_ns, progress.sent_bytes or 0, used, here, progress.sync_ms)

    def _load(self, first: _Sample, last: _Sample) -> SendingLoad:
        duration_ns = last.time_ns - first.time_ns
        used = [ns - first.cpu_ns[thread] for thread, ns in last.cpu_ns.items() if thread in first.cpu_ns]
        on_the_way, window_closed = self._waits(first, last)
        return SendingLoad(
            duration_ns=duration_ns,
            sent_bytes=last.sent_bytes - first.sent_bytes,
            limit_bytes_per_s=self._number(_LIMIT),
            busiest_thread=max(used) / duration_ns if used and self._vcpus else None,
            on_the_way=on_the_way,
            window_closed=window_closed,
            syncs=_sync_share(first, last),
            channels=self._channels,
            tls=bool(self._settings.get(CREDENTIALS)),
        )

    def _waits(self, first: _Sample, last: _Sample) -> tuple[float | None, float | None]:
        """Return the shares of time for which something was on its way, and the other side had no room for more."""
        before, after = first.connections, last.connections
        if not (before and after and before.count == after.count):
            return None, None
        connected_us = (last.time_ns - first.time_ns) / _NS_PER_US * (self._channels or after.count)
        busy_us, closed_us = after.busy_us - before.busy_us, after.window_closed_us - before.window_closed_us
        return busy_us / connected_us, closed_us / connected_us

    @property
    def _channels(self) -> int:
        return self._number(CHANNELS) if self._settings.get(MULTIFD) else 0

    def _number(self, name: str) -> int:
        value = self._settings.get(name)
        return min(value, LARGEST) if isinstance(value, int) else 0  # a VM may tell numbers beyond 64 bits


def _sync_share(first: _Sample, last: _Sample) -> float | None:
    if first.sync_ms is None or last.sync_ms is None:
        return None
    return (last.sync_ms - first.sync_ms) * NS_PER_MS / (last.time_ns - first.time_ns)


def _cpu_ns(pid: int, left_out: set[int]) -> dict[int, int]:
    """Return how long each thread of a process has run, but those."""
    used: dict[int, int] = {}
    with suppress(OSError, ValueError):
        for task in (PROC / str(pid) / "task").iterdir():
            if int(task.name) not in left_out:
                used[int(task.name)] = Scheduled.of(int(task.name)).ran_ns
    return used
