"""How far a migration is, by its source's monitor: one answer to `query-migrate`, reduced to what people watch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from vmferry.client.monitor import Executes
from vmferry.units import NS_PER_MS, PAGE_SIZE_BYTES

POLL_INTERVAL_NS = 100 * NS_PER_MS
_END_STATES = frozenset({"completed", "failed", "cancelled", "in-doubt"})
_SMALLER = 0.9
"""Pages count as smaller on the wire below this share; what is counted before it is sent makes some difference, too."""
_FADING = 0.9
"""With ten answers a second, what was sent a second ago weighs a third of what is sent now."""


@dataclass(frozen=True)
class Progress:
    """One answer to `query-migrate`."""

    status: str
    elapsed_ms: int | None
    iteration_count: int | None
    dirty_sync_count: int | None
    remaining_bytes: int | None
    total_bytes: int | None
    sent_bytes: int | None
    sent_pages: int | None
    """How many pages were sent. None also if some went as differences or compressed, which are counted otherwise."""
    zero_pages: int | None
    """How many of those were zero."""
    bandwidth_bytes_per_s: float | None
    dirty_bytes_per_s: float | None
    """None also until the end of the first pass, in which QEMU tells 0 whatever the guest writes."""
    throttle_percent: int | None
    page_size: int
    downtime_ms: int | None
    downtime_parts_ms: dict[str, float] | None
    error: str | None
    vcpu_throttle_percents: tuple[int, ...] | None = None
    """The throttle of each vCPU where they are slowed one by one; else `throttle_percent` is that of all."""
    throttle_takes_time: bool = True
    """False if the throttle limits what vCPUs dirty; what that takes of their time is unknown."""
    sync_ms: float | None = None
    """How long dirty syncs have taken."""
    moved_bytes: int | None = None
    """Size in memory of all pages that were sent and are not zero."""
    recent: tuple[float, float] = (0.0, 0.0)
    """Bytes that were sent and moved of late, weighed by their age, by this answer and those before."""
    saved_bytes: int = 0
    """By how much pages were smaller on the wire than in memory, by this answer and those before. It gets less again
    where a slow link sends only later what is counted already."""

    @classmethod
    def from_qmp(cls, answer: Mapping[str, Any]) -> "Progress":
        """Reduce an answer of our own or of QEMU's monitor; what it does not tell is None."""
        ram = answer.get("ram", {})
        dirty_sync_count = ram.get("dirty-sync-count")
        page_size = ram.get("page-size", PAGE_SIZE_BYTES)
        counted_otherwise = {"xbzrle-cache", "compression"} & answer.keys()
        return cls(
            status=answer.get("status", "none"),
            elapsed_ms=answer.get("total-time"),
            iteration_count=ram.get("iteration-count", dirty_sync_count),
            dirty_sync_count=dirty_sync_count,
            remaining_bytes=ram.get("remaining"),
            total_bytes=ram.get("total"),
            sent_bytes=ram.get("transferred"),
            sent_pages=None if counted_otherwise or "normal" not in ram else ram["normal"] + ram.get("duplicate", 0),
            zero_pages=ram.get("duplicate"),
            bandwidth_bytes_per_s=ram["mbps"] * 1e6 / 8 if "mbps" in ram else None,
            dirty_bytes_per_s=_dirty_bytes_per_s(ram, page_size),
            throttle_percent=answer.get("cpu-throttle-percentage", 0) if ram else None,  # left out where there is none
            page_size=page_size,
            downtime_ms=answer.get("downtime"),
            downtime_parts_ms=answer.get("downtime-parts"),
            error=answer.get("error-desc"),
            vcpu_throttle_percents=tuple(answer.get("cpu-throttle-vcpus", ())) or None,
            sync_ms=ram.get("dirty-sync-time"),
            moved_bytes=_moved_bytes(answer, page_size),
        )

    def after(self, earlier: "Progress") -> "Progress":
        """Return this with what only several answers tell, and what it leaves out, as of a cancelled migration."""
        seen = {name: getattr(earlier, name) for name, value in vars(self).items() if value is None}
        sent, moved = (_more(getattr(earlier, name), getattr(self, name)) for name in ("sent_bytes", "moved_bytes"))
        recent = _FADING * earlier.recent[0] + sent, _FADING * earlier.recent[1] + moved
        saved = max(0, earlier.saved_bytes + moved - sent)
        if _share(*recent) == 1:
            saved = min(saved, earlier.saved_bytes)
        return replace(self, **seen, recent=recent, saved_bytes=saved)

    @property
    def wire_share(self) -> float:
        """What of a byte of guest memory was on the wire of late: less than 1 where pages are compressed."""
        return _share(*self.recent)

    @property
    def memory_bytes_per_s(self) -> float | None:
        """How fast guest memory moves, of which `remaining_bytes` and what is dirtied are sizes."""
        return None if self.bandwidth_bytes_per_s is None else self.bandwidth_bytes_per_s / self.wire_share

    @property
    def ended(self) -> bool:
        """True if this is the last state."""
        return self.status in _END_STATES

    @property
    def in_postcopy(self) -> bool:
        """True if the guest runs on the destination while memory is still here."""
        return self.status.startswith("postcopy")

    @property
    def running(self) -> bool:
        """True from the acceptance of a migration until its end."""
        return self.status != "none" and not self.ended


def _dirty_bytes_per_s(ram: Mapping[str, Any], page_size: int) -> float | None:
    pages_per_s = ram.get("dirty-pages-rate")
    is_told = pages_per_s or ram.get("dirty-sync-count", 0) > 1
    return pages_per_s * page_size if pages_per_s is not None and is_told else None


def _moved_bytes(answer: Mapping[str, Any], page_size: int) -> int | None:
    normal_bytes = answer.get("ram", {}).get("normal-bytes")
    delta_pages = answer.get("xbzrle-cache", {}).get("pages", 0)
    return None if normal_bytes is None else normal_bytes + delta_pages * page_size


def _share(sent: float, moved: float) -> float:
    return sent / moved if 0 < sent < _SMALLER * moved else 1.0


def _more(last: int | None, now: int | None) -> int:
    return max(0, (now or 0) - (last or 0))


NOTHING_SEEN = Progress.from_qmp({})
"""What is known before the first answer."""


def ask(monitor: Executes) -> Progress:
    """Return how far the migration is."""
    return Progress.from_qmp(monitor.execute("query-migrate"))
