"""A process that puts back what a VM refuses to change as yet: `python -m vmferry.control.put_back_later`.

QEMU before 10 goes on connecting for two minutes after the migration was cancelled, and until then refuses changes of
capabilities. Nobody wants to wait for that at a terminal.
"""

import signal
import subprocess
import sys
import time
from contextlib import suppress

import msgspec

from vmferry.client.monitor import open_monitor
from vmferry.client.processes import Thread
from vmferry.control.settings import Change, put_back
from vmferry.control.way_in import WayIn
from vmferry.errors import MonitorError

PATIENCE_S = 600
_INTERVAL_S = 1.0
_ANSWER_TIMEOUT_S = 2.0


class _Work(msgspec.Struct):
    address: str
    vm: Thread | None
    """Its process on this host; None if it is not certain."""
    changes: list[Change]


def put_back_later(address: str, vm: Thread | None, changes: list[Change]) -> int:
    """Start the process, which outlives us. Returns its pid."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "vmferry.control.put_back_later"],
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
    """Try once a second until all is put back, the VM has ended, or the patience has."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    work = msgspec.json.decode(sys.stdin.buffer.read(), type=_Work)
    way_in = WayIn(work.address, None, work.vm)
    end_s = time.monotonic() + PATIENCE_S
    while work.changes and not way_in.vm_is_gone and time.monotonic() < end_s:
        time.sleep(_INTERVAL_S)
        with suppress(MonitorError), open_monitor(work.address, _ANSWER_TIMEOUT_S) as monitor:
            work.changes = put_back(monitor, work.changes)


if __name__ == "__main__":
    main()
