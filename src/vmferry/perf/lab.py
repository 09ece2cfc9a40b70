"""VM processes for experiments: started, watched through their monitors, and gone at the end."""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from vmferry.client.processes import Scheduled
from vmferry.client.qmp_client import QmpClient
from vmferry.errors import GuestError, HostError, MonitorError
from vmferry.guests.payload.invariants import PROGRESS_BYTES, PROGRESS_GPA, StressProgress, check_memory, read_progress

MONITOR_SOCKET = "@MONITOR_SOCKET@"
"""Stands for the path of the monitor's socket in a command that starts a VM."""

VM_COMMAND = (sys.executable, "-m", "vmferry", "vm", "--qmp", f"unix:{MONITOR_SOCKET}")

_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 10.0
_POLL_INTERVAL_S = 0.02
_LAST_WORDS_S = 2.0


def _ending_with_us() -> tuple[str, ...]:
    """Return what to put before a command so that its process gets SIGTERM when ours ends, even by SIGKILL.

    Where util-linux is missing there is no such thing, and nothing is returned.
    """
    setpriv = shutil.which("setpriv")
    return (setpriv, "--pdeathsig", "TERM", "--") if setpriv else ()


class VmProcess:
    """A VM in a process of its own, with a monitor; ours or QEMU's.

    `command` starts it, with MONITOR_SOCKET for the path of its QMP socket. What the process says on stderr is in
    the error if it does not start.
    """

    def __init__(self, command: Sequence[str], directory: Path, name: str) -> None:
        self.name = name
        self._socket = directory / f"{name}.qmp"
        self._memory_image = directory / f"{name}.memory"
        self._errors = directory / f"{name}.err"
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [*_ending_with_us(), *(word.replace(MONITOR_SOCKET, str(self._socket)) for word in command)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                process_group=0,  # Ctrl-C is for us, who end it
            )
        try:
            self.monitor = self._connect()
        except BaseException:
            self._end()
            raise

    def _connect(self) -> QmpClient:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                return QmpClient.connect(f"unix:{self._socket}")
            except MonitorError as error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise HostError(f"the VM '{self.name}' did not start: {self.errors() or error}") from error
            time.sleep(_POLL_INTERVAL_S)

    def errors(self) -> str:
        """Return what the process has said on stderr."""
        return self._errors.read_text(errors="replace").strip()

    def progress(self) -> StressProgress:
        """Return how far the stress payload has come; the guest may run."""
        return read_progress(self._read_memory(PROGRESS_GPA, PROGRESS_BYTES))

    def check_memory(self) -> StressProgress:
        """Check that guest memory is one consistent moment, with the guest stopped for a while.

        Raises GuestError that names the first wrong page.
        """
        self.monitor.execute("stop")
        total_bytes = int(self.monitor.execute("query-memory-size-summary")["base-memory"])
        progress = check_memory(self._read_memory(0, total_bytes))
        self.monitor.execute("cont")
        return progress

    def wait_for_passes(self, passes: int, timeout_s: float = 60.0) -> None:
        """Wait until every vCPU has begun, and gone over its share that often.

        Raises GuestError if the guest crashes or takes too long.
        """
        deadline = time.monotonic() + timeout_s
        while not self._is_busy(passes):
            if self.monitor.execute("query-status")["status"] in ("guest-panicked", "internal-error"):
                raise GuestError(f"the guest of '{self.name}' crashed: {self._last_words()}")
            if time.monotonic() > deadline:
                raise GuestError(f"the guest of '{self.name}' did not finish {passes} passes in {timeout_s} s")
            time.sleep(_POLL_INTERVAL_S)

    def _last_words(self) -> str:
        """Return what the process has said, once it had time to say why its guest has crashed."""
        said, deadline = self.errors(), time.monotonic() + _LAST_WORDS_S
        while self.errors() == said and time.monotonic() < deadline:
            time.sleep(_POLL_INTERVAL_S)
        return self.errors()

    def pages_per_s(self, duration_s: float = 1.0) -> float:
        """Measure how many pages the guest writes per second, from outside, by its own counters."""
        start, start_s = self.progress().written_pages, time.monotonic()
        time.sleep(duration_s)
        end, end_s = self.progress().written_pages, time.monotonic()
        return (end - start) / (end_s - start_s)

    def scheduled_vcpus(self) -> list[Scheduled]:
        """Return what the scheduler has given each vCPU's thread."""
        return [Scheduled.of(vcpu["thread-id"]) for vcpu in self.monitor.execute("query-cpus-fast")]

    def close(self) -> None:
        """Close the monitor and end the process, gently if it can."""
        self.monitor.close()
        self._end()

    def _end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def _is_busy(self, passes: int) -> bool:
        try:
            progress = self.progress()
        except GuestError:
            return False  # the payload has not started yet
        return progress.ready and progress.passes >= passes

    def _read_memory(self, gpa: int, size_bytes: int) -> memoryview:
        arguments = {"val": gpa, "size": size_bytes, "filename": str(self._memory_image)}
        self.monitor.execute("pmemsave", arguments)
        data = self._memory_image.read_bytes()
        self._memory_image.unlink()
        return memoryview(data)


class VmPair(NamedTuple):
    """A VM, and one that waits for its guest."""

    source: VmProcess
    destination: VmProcess
    uri: str
    """Where the destination waits."""


class Lab:
    """A temporary directory with VM processes in it; a context manager that ends them all."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="vmferry-")))

    def start(self, command: Sequence[str], name: str) -> VmProcess:
        """Start a VM process. Raises HostError with its own words if it does not come up."""
        vm = VmProcess(command, self.directory, name)
        self._stack.callback(vm.close)
        return vm

    def start_pair(self, vm_options: Sequence[str], boot_options: Sequence[str]) -> VmPair:
        """Start a source that boots and a destination that waits."""
        command = [*VM_COMMAND, *vm_options]
        destination = self.start([*command, "--incoming", "tcp:127.0.0.1:0"], "destination")
        source = self.start([*command, *boot_options], "source")
        [address] = destination.monitor.execute("query-migrate")["socket-address"]
        return VmPair(source, destination, f"tcp:{address['host']}:{address['port']}")

    def __enter__(self) -> "Lab":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
