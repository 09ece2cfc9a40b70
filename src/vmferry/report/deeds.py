"""What a journal tells beside samples and decisions on the throttle, in words."""

from collections.abc import Iterable, Iterator

from vmferry.bounds import clean_text
from vmferry.migration.events import (
    UNBOUNDED_BYTES,
    Acted,
    CompressionChosen,
    Ended,
    Event,
    LinkStalled,
    Lost,
    SwitchoverBegan,
    SwitchoverFailed,
)
from vmferry.report.series import Deed
from vmferry.units import format_duration, format_size, told

_WHAT = {
    "SetDowntimeLimit": "allow more",
    "SwitchOver": "switch over",
    "StartPostcopy": "post-copy",
    "Cancel": "cancel",
    "Tell": "note",
}


def deeds(timed: Iterable[tuple[float, Event]]) -> Iterator[Deed]:
    """Yield what was done and what happened, of events with their times."""
    for time_s, event in timed:
        if words := _words(event):
            yield Deed(time_s, *map(clean_text, words))


def _words(event: Event) -> tuple[str, str] | None:
    """Return what happened and why; None for events that do not matter here."""
    match event:
        case Acted(what=what, reason=reason):
            return _WHAT.get(what, what), reason
        case SwitchoverBegan():
            return "guest stops", _left(event)
        case SwitchoverFailed(stopped_ns=stopped_ns):
            return "guest stays", f"it was stopped for {format_duration(stopped_ns)}, and runs on as before"
        case LinkStalled(duration_ns=duration_ns, over=over):
            how = "moves again after" if over else "has stood still for"
            return "link", f"it {how} {format_duration(duration_ns)}"
        case CompressionChosen(on=on, ratio=ratio):
            smaller = told(ratio, lambda times: f"{times:.1f}")
            return "compression", f"{'on' if on else 'off'}; pages became {smaller} times smaller"
        case Lost(count=count):
            return "gap", f"{told(count, str)} events are missing up to here"
        case Ended(status=status, error=error):
            return status.value, error
    return None


def _left(event: SwitchoverBegan) -> str:
    left = f"{format_size(event.remaining_bytes)} left to send"
    if event.threshold_bytes >= UNBOUNDED_BYTES:
        return left
    return f"{left}, {format_size(event.threshold_bytes)} fit the downtime limit"
