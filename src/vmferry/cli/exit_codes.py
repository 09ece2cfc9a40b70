"""What the exit codes of every command mean; docs/exit-codes.md tells users, and `--help` those of its command."""

from enum import IntEnum

from vmferry.errors import InterruptionError, UsageError, VmferryError

_SIGNAL_BASE = 128
PAGE = "docs/exit-codes.md"


class ExitCode(IntEnum):
    """How a command ended."""

    DONE = 0
    FAILED = 1
    """The message says why, and what is true now."""
    USAGE = 2
    UNVERIFIED = 3
    """A migration completed as far as the source tells, but nobody knows whether the guest has arrived."""
    LIMIT_NOT_KEPT = 4
    """A migration completed, but something that was limited went over its limit."""
    MAY_CONVERGE = 5
    """A forecast: some runs converge, and some do not."""
    WILL_NOT_CONVERGE = 6
    """A forecast: no strategy makes the guest converge."""


_EVERYWHERE = {ExitCode.DONE: "done", ExitCode.FAILED: "failed", ExitCode.USAGE: "cannot be as asked"}
_UNVERIFIED = {ExitCode.UNVERIFIED: "completed, but nobody knows whether the guest has arrived"}
_BROKEN = {ExitCode.FAILED: "failed, or a policy is broken"}
_IN_PART = {ExitCode.FAILED: "failed, or a run did not complete"}
_OF_COMMANDS: dict[str, dict[ExitCode, str]] = {
    "agent": {ExitCode.DONE: "ended by SIGTERM or Ctrl-C, and all is undone"},
    "demo": {ExitCode.FAILED: "failed, or the guest was damaged"},
    "forecast": {
        ExitCode.DONE: "it will converge by the best strategy",
        ExitCode.MAY_CONVERGE: "it may",
        ExitCode.WILL_NOT_CONVERGE: "it will not",
    },
    "migrate": {
        ExitCode.DONE: "completed",
        ExitCode.FAILED: "failed, and the guest runs on where it was unless told otherwise",
        **_UNVERIFIED,
        ExitCode.LIMIT_NOT_KEPT: "completed, but a limit was not kept",
    },
    "monitor": {ExitCode.FAILED: "failed, or a line was refused"},
    "perf batch": _IN_PART,
    "perf run": _IN_PART,
    "replay": _BROKEN,
    "simulate": _BROKEN,
    "sweep": {ExitCode.FAILED: "failed, or a case could not be simulated"},
    "vm": {ExitCode.DONE: "ended by its monitor"},
    "qemu": {ExitCode.DONE: "ended by its monitor"},
    "watch": {ExitCode.DONE: "completed", ExitCode.FAILED: "failed, or cancelled", **_UNVERIFIED},
}


def meanings(command: str) -> dict[str, str]:
    """Return what each exit code of a command means, such as of `perf run`; the codes as they are told to people."""
    told = {f"{code:d}": text for code, text in sorted((_EVERYWHERE | _OF_COMMANDS.get(command, {})).items())}
    return {**told, f"{_SIGNAL_BASE}+n": "interrupted by signal n"}


def help_text(command: str) -> str:
    """Return what the help of a command says of its exit codes."""
    told = "; ".join(f"{code} {text}" for code, text in meanings(command).items())
    return f"Exit codes ({PAGE}): {told}."


def interrupted_by(signal_number: int) -> int:
    """Return the exit code of a command that was interrupted: 130 for Ctrl-C, as shells have it."""
    return _SIGNAL_BASE + signal_number


def code_of(error: VmferryError) -> int:
    """Return the exit code of a command that has ended with an error."""
    if isinstance(error, InterruptionError):
        return interrupted_by(error.signal_number)
    return ExitCode.USAGE if isinstance(error, UsageError) else ExitCode.FAILED
