"""A VM process: makes the guest, serves its monitors, and ends when told to."""

import asyncio
import io
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from vmferry.errors import GuestError, InterruptionError, UsageError
from vmferry.guests.kvm.guest import KvmGuest
from vmferry.migration.journal import FileJournal, TeeJournal
from vmferry.migration.ports import Journal
from vmferry.migration.trace import Tracer
from vmferry.monitor.server import MonitorEndpoint, MonitorServer, open_monitor
from vmferry.output import Output, open_again, open_unblocked, unblocked_stderr
from vmferry.settings.parameters import MigrationParameters
from vmferry.transport.tls_credentials import Endpoint, load_credentials
from vmferry.units import NS_PER_S
from vmferry.vm.machine import VirtualMachine
from vmferry.vm.token_file import read_token

_SWITCH_INTERVAL_S = 0.001
"""A vCPU's thread that comes out of the guest should not wait long for a busy migration thread."""

_MIGRATION_END_TIMEOUT_S = 5.0


def _say(text: str) -> None:
    """Tell the operator, on stderr."""
    sys.stderr.write(f"vmferry: {text}\n")


def _print_trace(text: str) -> None:
    """Print a trace event as QEMU's log does, with the process and the time in front."""
    seconds, rest_ns = divmod(time.time_ns(), NS_PER_S)
    sys.stderr.write(f"{os.getpid()}@{seconds}.{rest_ns // 1000:06}:{text}\n")


@dataclass(frozen=True)
class VmConfig:
    """What `vmferry vm` is told."""

    memory_bytes: int
    vcpu_count: int
    kernel: Path | None
    """The ELF image to boot; None for a guest that comes by migration."""
    command_line: str
    monitors: tuple[MonitorEndpoint, ...]
    serial: str
    """`null`, `stdio` or `file:PATH`."""
    incoming: str | None
    """Where to wait for the guest: an address, `defer` to be told later, or None to boot."""
    parameters: Mapping[str, object]
    """What migration parameters begin with that are not left at their defaults."""
    require_tls: bool
    """Whether migrations in clear are refused."""
    journal: Path | None
    trace: tuple[str, ...]
    """Names of the trace events to print to stderr, in QEMU's form."""
    name: str
    uuid: str
    start_paused: bool
    prealloc: bool = False
    """Whether all of the guest's memory is to be present before the guest runs or comes."""
    dumps_core: bool = True
    """Whether a crash of this process may leave a core file, which has the guest's memory in it."""
    log: Callable[[str], None] = _say
    """Tells the operator."""
    write_trace: Callable[[str], None] = _print_trace
    """Takes each trace event that is wanted."""


def run_vm(config: VmConfig) -> int:
    """Run a VM until it is told to end, and return the exit code. Raises VmferryError if it cannot start."""
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    if not config.dumps_core:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with ExitStack() as resources:
        resources.enter_context(unblocked_stderr(config.log))
        return asyncio.run(_serve(config, _make_vm(config, resources)))


def _make_vm(config: VmConfig, resources: ExitStack) -> VirtualMachine:
    serial = _open_serial(config, resources)
    kernel = _read_kernel(config.kernel) if config.kernel else None
    guest = KvmGuest(config.memory_bytes, config.vcpu_count, serial, prealloc=config.prealloc)
    resources.callback(guest.close)
    if kernel is not None:
        try:
            guest.boot(kernel, config.command_line)
        except GuestError as error:
            raise GuestError(f"{config.kernel}: {error}") from error
    return VirtualMachine(
        guest,
        config.name,
        config.uuid,
        _open_journal(config, resources),
        config.log,
        Tracer(config.write_trace, config.trace),
        awaits_guest=config.incoming is not None,
        start_paused=config.start_paused,
    )


async def _serve(config: VmConfig, vm: VirtualMachine) -> int:
    loop = asyncio.get_running_loop()
    ended: asyncio.Queue[int] = asyncio.Queue()
    vm.on_end = lambda exit_code: loop.call_soon_threadsafe(ended.put_nowait, exit_code)  # type: ignore[assignment]
    vm.migrations.require_tls = config.require_tls
    vm.migrations.set_parameters(_checked(vm.migrations.parameters.changed(config.parameters), config.incoming))
    if config.incoming and config.incoming != "defer":
        vm.migrations.listen(config.incoming)
    elif config.incoming:
        config.log("waits to be told by migrate-incoming where a guest will come")
    monitors = [open_monitor(vm, endpoint, config.log) for endpoint in config.monitors]
    signals: list[signal.Signals] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, _note_and_quit, number, signals, vm)
    for monitor in monitors:
        if isinstance(monitor, MonitorServer) and monitor.is_open_to_others:
            config.log(_open_monitor_warning(monitor.where, refused=config.require_tls))
        await monitor.start()
        config.log(f"serves QMP at {monitor.where}")
    if config.kernel and not config.start_paused:
        vm.run_control.cont()
    exit_code = await ended.get()
    vm.end_threads(_MIGRATION_END_TIMEOUT_S)
    for monitor in monitors:
        await monitor.close()
    if signals:
        raise InterruptionError(f"the VM was ended by {signals[0].name}", signals[0])
    if exit_code == 0:
        config.log("the VM was ended by its monitor")
    return exit_code


def _open_monitor_warning(where: str, *, refused: bool) -> str:
    """Return what it means that other hosts reach a monitor. Raises UsageError if that is not to be."""
    if refused:
        raise UsageError(
            f"the monitor at {where} is open to other hosts; --require-tls wants {where},tls-creds=DIRECTORY"
        )
    return f"{where} is open to other hosts without TLS: whoever reaches it controls the VM (docs/tls.md)"


def _checked(parameters: MigrationParameters, incoming: str | None) -> MigrationParameters:
    """Return the parameters. What is wrong with their files is told now, not when the first migration fails."""
    read_token(parameters.token_file)
    if parameters.tls_creds:
        load_credentials(parameters.tls_creds, Endpoint.SERVER if incoming else Endpoint.CLIENT)
    return parameters


def _note_and_quit(number: signal.Signals, noted: list[signal.Signals], vm: VirtualMachine) -> None:
    noted.append(number)
    vm.quit()


def _read_kernel(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the kernel '{path}': {error.strerror}") from error


def _open_serial(config: VmConfig, resources: ExitStack) -> Callable[[bytes], object]:
    serial = config.serial
    if serial == "null":
        return lambda data: None
    kind, _, path = serial.partition(":")
    if serial != "stdio" and (kind != "file" or not path):
        raise UsageError(f"'{serial}' is no place for serial output; write null, stdio or file:PATH")
    file = _open(path) if path else open_again(1)
    return resources.enter_context(Output(file, "the serial output", config.log)).write


def _open_journal(config: VmConfig, resources: ExitStack) -> Journal:
    if not config.journal:
        return TeeJournal([])
    return resources.enter_context(FileJournal(config.journal, config.log))


def _open(path: str) -> io.FileIO:
    try:
        return io.FileIO(path, "w", opener=open_unblocked)
    except OSError as error:
        raise UsageError(f"cannot write '{path}': {error.strerror}") from error
