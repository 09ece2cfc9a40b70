"""A process that puts back what a VM refuses to change as yet: `python -m vmferry.control.undoing.put_back_later`.

QEMU before 10 goes on connecting for two minutes after the migration was cancelled, and until then refuses changes of
capabilities. Nobody wants to wait for that at a terminal.
"""

import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import msgspec

from vmferry.client.monitor import Monitor, open_monitor
from vmferry.client.processes import Thread
from vmferry.clock import MonotonicClock
from vmferry.control.undoing.changes import Change, put_back
from vmferry.control.undoing.way_in import WayIn
from vmferry.errors import MonitorError
from vmferry.migration.ports import Clock
from vmferry.units import NS_PER_S

PATIENCE_S = 600
_INTERVAL_NS = NS_PER_S
_ANSWER_TIMEOUT_S = 2.0


class _Work(msgspec.Struct):
    address: str
    vm: Thread | None
    """Its process on this host; None if it is not certain."""
    changes: list[Change]


def put_back_later(address: str, vm: Thread | None, changes: list[Change]) -> int:
    """Start the process, which outlives us. Returns its pid."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "vmferry.control.undoing.put_back_later"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.stdin
    with suppress(BrokenPipeError), process.stdin as pipe:
        pipe.write(msgspec.json.encode(_Work(address, vm, changes)))
    return process.pid


def main() -> None:
    """Be deaf to signals, and do the work that is told on stdin."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    work = msgspec.json.decode(sys.stdin.buffer.read(), type=_Work)
    way_in = WayIn(work.address, None, work.vm)
    connect = partial(open_monitor, work.address, _ANSWER_TIMEOUT_S)
    put_back_patiently(work.changes, connect, lambda: way_in.vm_is_gone, MonotonicClock())


def put_back_patiently(
    changes: list[Change], connect: Callable[[], Monitor], is_gone: Callable[[], bool], clock: Clock
) -> list[Change]:
    """Try once a second until all is put back, the VM has ended, or the patience has. Returns what is left."""
    end_ns = clock.now_ns() + PATIENCE_S * NS_PER_S
    while changes and not is_gone() and clock.now_ns() < end_ns:
        clock.sleep_ns(_INTERVAL_NS)
        with suppress(MonitorError), connect() as monitor:
            changes = put_back(monitor, changes)
    return changes


if __name__ == "__main__":
    main()
