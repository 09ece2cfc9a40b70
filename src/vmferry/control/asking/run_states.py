"""Whether a guest runs, by the run state of its VM: before a hand-over, while it is stopped for it, and after it."""

from typing import TYPE_CHECKING

from vmferry.errors import UsageError

if TYPE_CHECKING:
    from vmferry.client.monitor import Monitor

FINISHING = "finish-migrate"
"""The run state of a guest that is stopped for the hand-over."""
_WITHOUT_GUEST = {"inmigrate": "the VM waits for a guest itself", "postmigrate": "the guest has left this VM"}
_HANDED_OVER = frozenset({FINISHING, "postmigrate"})
_LIVE = frozenset({"running", "suspended"})
"""The run states in which a guest runs: QEMU's `runstate_is_live`."""


def run_state(monitor: "Monitor") -> str:
    """Ask a VM for its run state. Raises MonitorError."""
    return str(monitor.execute("query-status")["status"])


def require_guest(monitor: "Monitor") -> None:
    """Raise UsageError if a VM has no guest to migrate: it waits for one, or its own has left."""
    state = run_state(monitor)
    if state in _WITHOUT_GUEST:
        raise UsageError(f"{_WITHOUT_GUEST[state]} ('{state}'); give the monitor of the VM that has it")


def ran(state: str, before: bool) -> bool:
    """Tell whether the guest ran before its hand-over; `before` is what was known so far."""
    return before if state in _HANDED_OVER else state in _LIVE
