"""What bounds the speed of a migration, by what can be measured of it from the source's host. Pure.

A sender that is bounded by its processor leaves the connection idle now and then; one that is bounded by its peer finds
the peer's window closed; else what is on the way waits for the link. All three are shares of time that the kernel
counts. What it does not tell here, such as of another host, is unknown, and then so is the bottleneck.
"""

from dataclasses import dataclass
from enum import StrEnum

from vmferry.units import NS_PER_S, format_rate

_AT_THE_LIMIT = 0.9
_BUSY_THREAD = 0.85
_MUCH = 0.5
_FULL_LINK = 0.8


class Limiting(StrEnum):
    """What may bound the speed of a migration."""

    RATE_LIMIT = "max-bandwidth"
    SYNCS = "dirty syncs"
    TLS_THREAD = "one TLS thread"
    SOURCE_CPU = "source CPU"
    DESTINATION = "destination"
    LINK = "link"


@dataclass(frozen=True, kw_only=True)
class SendingLoad:
    """What was measured of a while in which pages were sent. Shares are of that time; None is not known."""

    duration_ns: int
    sent_bytes: int
    limit_bytes_per_s: int = 0
    """The rate limit; 0 for none."""
    busiest_thread: float | None = None
    """The share for which the thread that worked most had a processor; vCPUs are left out."""
    on_the_way: float | None = None
    """The share for which something was on its way, on average over the connections."""
    window_closed: float | None = None
    """The share for which the destination's kernel had no room for more."""
    syncs: float | None = None
    """The share that dirty syncs took."""
    channels: int = 0
    tls: bool = False

    @property
    def bytes_per_s(self) -> float:
        """How fast pages were sent."""
        return self.sent_bytes * NS_PER_S / max(1, self.duration_ns)


@dataclass(frozen=True)
class Bottleneck:
    """What bounds a migration, and what may help."""

    limiting: Limiting
    evidence: str
    advice: str

    def __str__(self) -> str:
        return f"{self.limiting}: {self.evidence}; {self.advice}"


def find_bottleneck(load: SendingLoad) -> Bottleneck | None:
    """Return what bounds the speed, the surest first; None if what was measured does not tell."""
    rate = format_rate(load.bytes_per_s)
    if load.limit_bytes_per_s and load.bytes_per_s >= _AT_THE_LIMIT * load.limit_bytes_per_s:
        evidence = f"it sends {rate}, and the limit is {format_rate(load.limit_bytes_per_s)}"
        return Bottleneck(Limiting.RATE_LIMIT, evidence, "raise --max-bandwidth")
    if _is_at_least(load.syncs, _MUCH):
        return Bottleneck(Limiting.SYNCS, f"they take {_percent(load.syncs)} of the time", "sync less often")
    if _is_at_least(load.window_closed, _MUCH):
        evidence = f"it had no room for more {_percent(load.window_closed)} of the time"
        return Bottleneck(Limiting.DESTINATION, evidence, "its processor or its memory is too slow at taking pages in")
    if _is_at_least(load.busiest_thread, _BUSY_THREAD):
        return _busy_thread(load)
    if _is_at_least(load.on_the_way, _FULL_LINK):
        return Bottleneck(
            Limiting.LINK, f"it was full {_percent(load.on_the_way)} of the time at {rate}", _for_link(load)
        )
    return None


def _busy_thread(load: SendingLoad) -> Bottleneck:
    evidence = f"a thread was busy {_percent(load.busiest_thread)} of the time"
    more = "more --channels spread that" if load.channels else "--channels N spreads that over threads"
    return Bottleneck(Limiting.TLS_THREAD if load.tls and not load.channels else Limiting.SOURCE_CPU, evidence, more)


def _for_link(load: SendingLoad) -> str:
    return "--compression sends less" if load.channels else "--channels N with --compression sends less"


def _is_at_least(share: float | None, least: float) -> bool:
    return share is not None and share >= least


def _percent(share: float | None) -> str:
    return f"{min(1, share or 0):.0%}"
