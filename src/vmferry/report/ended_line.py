"""The last word on a migration that was followed to its end, for scripts: its figures, and what was seen of it last."""

import msgspec

from vmferry.control.asking.bottleneck import Bottleneck
from vmferry.control.asking.result import Result
from vmferry.convergence.limit_watch import Verdict
from vmferry.migration.outcome import Outcome


class EndedLine(Outcome, tag_field="event", tag="ended", frozen=True, kw_only=True):
    """The last line: the migration has ended. These are its figures, and what was seen of it last."""

    elapsed_ms: int | None
    """The same as `total_time_ms`."""
    remaining_bytes: int | None
    total_bytes: int | None
    sent_pages: int | None
    zero_pages: int | None
    bandwidth_bytes_per_s: float | None
    dirty_bytes_per_s: float | None
    throttle_percent: int | None
    page_size: int
    bottleneck: Bottleneck | None
    """What has bounded the speed; null if that is not known."""
    throttle_by: str | None
    """The means by which the guest was to be slowed from outside; null if that was not for us."""
    throttle_reasons: list[str]
    """Why not by a means that comes before it."""
    arrival: str | None
    """Whether the guest has arrived: `verified` or `unverified`; null if it did not complete."""
    arrival_by: str | None
    """Who says so: `protocol`, `return-path`, `libvirt`, `destination` or `nobody`."""
    not_put_back: list[str]
    """QMP commands that put back what the VM refused to have put back."""
    limits: list[Verdict]

    @classmethod
    def of_result(cls, result: Result, outcome: Outcome) -> "EndedLine":
        """Return what a migration came to; `outcome` is that of its journal."""
        last, arrival = result.last, result.arrival
        return cls(
            **msgspec.structs.asdict(outcome) | {"status": last.status, "error": last.error or ""},
            elapsed_ms=outcome.total_time_ms,
            remaining_bytes=last.remaining_bytes,
            total_bytes=last.total_bytes,
            sent_pages=last.sent_pages,
            zero_pages=last.zero_pages,
            bandwidth_bytes_per_s=last.bandwidth_bytes_per_s,
            dirty_bytes_per_s=last.dirty_bytes_per_s,
            throttle_percent=last.throttle_percent,
            page_size=last.page_size,
            bottleneck=result.bottleneck,
            throttle_by=result.throttle_by,
            throttle_reasons=list(result.throttle_reasons),
            arrival=arrival.state if arrival else None,
            arrival_by=arrival.by if arrival else None,
            not_put_back=list(result.not_put_back),
            limits=list(result.verdicts),
        )
