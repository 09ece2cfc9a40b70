"""The ways to show one migration while it is followed, and what it came to: to people, or to scripts."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import msgspec

from vmferry.cli.live_lines import live_lines
from vmferry.cli.log_option import STDERR
from vmferry.cli.progress import Tell, Watch, screen, show_result
from vmferry.cli.tables import warn
from vmferry.control.asking.result import Result
from vmferry.errors import UsageError
from vmferry.migration.journal import TeeJournal
from vmferry.migration.outcome import Outcome
from vmferry.migration.ports import Clock, Journal
from vmferry.output import Output, open_again
from vmferry.report.ended_line import EndedLine


class MigrationView(Protocol):
    """Shows one migration."""

    @property
    def journal(self) -> Journal:
        """Takes its events as they happen."""

    @property
    def warn(self) -> Callable[[str], None] | None:
        """Gets what is left undone; None if that goes where all else does."""

    def following(
        self, downtime_limit_ms: int, deadline_ms: int | None = None
    ) -> AbstractContextManager[tuple[Watch, Tell]]:
        """Return what shows each poll, and what tells lines, as long as the migration is followed."""

    def end(self, result: Result, outcome: Outcome) -> None:
        """Show what it came to. Raises MigrationError if that is an error, which is then told as such."""


class PeopleView:
    """A live view on stderr, and a table at the end."""

    journal: Journal = TeeJournal(())

    @property
    def warn(self) -> Callable[[str], None] | None:
        """Nothing but lines, unless the log tells how much each matters."""
        return warn if STDERR.is_json else None

    def following(
        self, downtime_limit_ms: int, deadline_ms: int | None = None
    ) -> AbstractContextManager[tuple[Watch, Tell]]:
        """Show it on the terminal."""
        return screen(downtime_limit_ms, deadline_ms, quiet=False)

    def end(self, result: Result, outcome: Outcome) -> None:
        """Print a table. Raises MigrationError, or InterruptionError, if it did not complete."""
        show_result(result, outcome)


class ObjectView:
    """Nothing but one JSON object at the end, whether it completed or not."""

    journal: Journal = TeeJournal(())

    @property
    def warn(self) -> Callable[[str], None]:
        """What is left undone is for people."""
        return warn

    def following(
        self, downtime_limit_ms: int, deadline_ms: int | None = None
    ) -> AbstractContextManager[tuple[Watch, Tell]]:
        """Show nothing."""
        return screen(downtime_limit_ms, deadline_ms, quiet=True)

    def end(self, result: Result, outcome: Outcome) -> None:
        """Print the object; who reads it may be gone, which changes nothing."""
        with Output(open_again(1), "standard output", warn) as output:
            output.write(msgspec.json.encode(EndedLine.of_result(result, outcome)) + b"\n")


def open_view(
    clock: Clock, *, as_object: bool = False, as_lines: bool = False
) -> AbstractContextManager[MigrationView]:
    """Return the view that is asked for: for people, as one JSON object, or as lines. Raises UsageError for both."""
    if as_object and as_lines:
        raise UsageError("--json prints one object at the end, --json-lines a line for all that happens; give one")
    if as_lines:
        return live_lines(clock)
    return nullcontext(ObjectView() if as_object else PeopleView())
