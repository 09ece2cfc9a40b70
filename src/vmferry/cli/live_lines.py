"""Prints what happens to one migration as JSON lines, at once; who reads them slowly, or not, holds nothing up."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from vmferry.bounds import one_line
from vmferry.cli.exit_codes import code_of
from vmferry.cli.progress import Tell, Watch
from vmferry.cli.tables import warn
from vmferry.control.asking.progress import Progress
from vmferry.control.asking.result import Result
from vmferry.control.telling.outlook import Outlooks
from vmferry.errors import VmferryError
from vmferry.migration.events import Event, RecordedBy, Started
from vmferry.migration.outcome import Outcome
from vmferry.migration.ports import Clock, Journal
from vmferry.output import Output, open_again, unblocked_stderr
from vmferry.report.ended_line import EndedLine
from vmferry.report.lines import LeftLine, MessageLine, ProgressLine, line_of
from vmferry.units import NS_PER_MS, NS_PER_S

_EVERY_NS = NS_PER_S
"""How often it is told how far a migration is, while its state is the same."""


class LiveLines:
    """A view that prints lines, and the journal from whose events it makes them."""

    def __init__(self, write: Callable[[bytes], object], clock: Clock) -> None:
        self._write = write
        self._clock = clock
        self._outlooks: Outlooks | None = None
        self._deadline_ms: int | None = None
        self._elapsed_ms: int | None = None
        """At the last poll."""
        self._began_ns: int | None = None
        """By the clock of the VM; None if it does not record its migration itself."""
        self._told: tuple[str, int] = ("", 0)
        """The state that was told last, and when."""

    @property
    def journal(self) -> Journal:
        """The view itself is the journal."""
        return self

    @property
    def warn(self) -> Callable[[str], None]:
        """What is left undone is for people."""
        return warn

    @contextmanager
    def following(self, downtime_limit_ms: int, deadline_ms: int | None = None) -> Iterator[tuple[Watch, Tell]]:
        """Yield what tells how far it is, and what passes lines on."""
        self._outlooks, self._deadline_ms = Outlooks(downtime_limit_ms), deadline_ms
        yield self._watch, self._tell

    def record(self, time_ns: int, event: Event) -> None:
        """Tell of an event."""
        if isinstance(event, Started) and event.recorded_by is RecordedBy.VM:
            self._began_ns = time_ns
        elapsed_ms = self._elapsed_ms
        if self._began_ns is not None:
            elapsed_ms = max(0, time_ns - self._began_ns) // NS_PER_MS
        line = line_of(event, elapsed_ms)
        if line:
            self._print(line)

    def end(self, result: Result, outcome: Outcome) -> None:
        """Tell how it ended."""
        self._print(EndedLine.of_result(result, outcome))

    def left(self, why: VmferryError) -> None:
        """Tell why there is no more to tell."""
        self._print(LeftLine(elapsed_ms=self._elapsed_ms, message=one_line(str(why)), exit_code=code_of(why)))

    def _watch(self, progress: Progress) -> None:
        """Tell how far it is, now and then."""
        assert self._outlooks
        self._elapsed_ms = progress.elapsed_ms
        outlook = self._outlooks.update(progress)
        (status, told_ns), now_ns = self._told, self._clock.now_ns()
        if progress.status != status or now_ns - told_ns >= _EVERY_NS:
            self._told = progress.status, now_ns
            self._print(ProgressLine.of(progress, outlook, self._deadline_ms))

    def _tell(self, text: str) -> None:
        self._print(MessageLine(elapsed_ms=self._elapsed_ms, message=one_line(text)))

    def _print(self, line: msgspec.Struct) -> None:
        self._write(msgspec.json.encode(line) + b"\n")


@contextmanager
def live_lines(clock: Clock) -> Iterator[LiveLines]:
    """Yield what prints lines on standard output; the last says why, if an error ends it."""
    with unblocked_stderr(warn), Output(open_again(1), "standard output", warn) as output:
        lines = LiveLines(output.write, clock)
        try:
            yield lines
        except VmferryError as error:
            lines.left(error)
            raise
