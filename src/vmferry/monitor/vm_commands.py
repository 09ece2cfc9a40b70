"""The commands about the VM as a whole (QEMU `qapi/control.json`, `run-state.json`, `machine.json`)."""

from enum import StrEnum

from msgspec import UNSET, UnsetType, field

import vmferry
from vmferry.errors import UsageError
from vmferry.monitor.hmp_commands import run_hmp
from vmferry.monitor.qapi import QapiStruct
from vmferry.monitor.vm_port import MonitoredVm, RunState

SPOKEN_QEMU_VERSION = (10, 1, 0)
"""The release of QEMU whose interface this is."""


class VersionTriple(QapiStruct, frozen=True):
    """A release of QEMU."""

    major: int
    minor: int
    micro: int


class VersionInfo(QapiStruct, frozen=True):
    """Whose interface this is, and who answers."""

    qemu: VersionTriple
    package: str


class QmpCapability(StrEnum):
    """What a client may negotiate in QEMU."""

    OOB = "oob"


class QmpCapabilities(QapiStruct, frozen=True):
    """What the client wants to enable; nothing can be."""

    enable: list[QmpCapability] | UnsetType = UNSET


class StatusInfo(QapiStruct, frozen=True):
    """What the VM is doing."""

    running: bool
    status: RunState


class NameInfo(QapiStruct, frozen=True):
    """The VM's name, if it has one."""

    name: str | UnsetType = UNSET


class UuidInfo(QapiStruct, frozen=True):
    """The VM's UUID."""

    uuid: str = field(name="UUID")


class SysEmuTarget(StrEnum):
    """The kind of machine; there is one."""

    X86_64 = "x86_64"


class CpuInfoFast(QapiStruct, frozen=True):
    """A vCPU and the thread of the host that runs it."""

    cpu_index: int
    qom_path: str
    thread_id: int
    target: SysEmuTarget


class Cont(QapiStruct, frozen=True):
    """`force`, not in QEMU: also if the hand-over is in doubt, once somebody has seen that the destination lacks it."""

    force: bool | UnsetType = UNSET


class HumanMonitorCommand(QapiStruct, frozen=True):
    """A line for the human monitor; `cpu-index` must be that of a vCPU, and changes nothing here."""

    command_line: str
    cpu_index: int | UnsetType = UNSET


def qmp_capabilities(vm: MonitoredVm, arguments: QmpCapabilities) -> None:
    """End the negotiation that every connection begins with."""
    for capability in arguments.enable or ():
        raise UsageError(f"Capability {capability} not available")


def query_version(vm: MonitoredVm) -> VersionInfo:
    """Return the release of QEMU whose interface this is, and the version of vmferry."""
    major, minor, micro = SPOKEN_QEMU_VERSION
    qemu = VersionTriple(major=major, minor=minor, micro=micro)
    return VersionInfo(qemu=qemu, package=f"vmferry {vmferry.__version__}")


def query_status(vm: MonitoredVm) -> StatusInfo:
    """Return what the VM is doing."""
    state = vm.run_control.state()
    # A guest that is being handed over is stopped, and so is one that has crashed.
    return StatusInfo(running=state is RunState.RUNNING, status=state)


def query_name(vm: MonitoredVm) -> NameInfo:
    """Return the VM's name."""
    return NameInfo(name=vm.name or UNSET)


def query_uuid(vm: MonitoredVm) -> UuidInfo:
    """Return the VM's UUID."""
    return UuidInfo(uuid=vm.uuid)


def query_cpus_fast(vm: MonitoredVm) -> list[CpuInfoFast]:
    """Return the vCPUs with the ids of their threads, without disturbing them."""
    return [
        CpuInfoFast(
            cpu_index=index,
            qom_path=f"/machine/unattached/device[{index}]",
            thread_id=thread_id,
            target=SysEmuTarget.X86_64,
        )
        for index, thread_id in enumerate(vm.vcpu_thread_ids())
    ]


def stop(vm: MonitoredVm) -> None:
    """Pause the guest; harmless if it is paused."""
    vm.run_control.stop()


def cont(vm: MonitoredVm, arguments: Cont) -> None:
    """Let the guest run."""
    vm.run_control.cont(force=arguments.force is True)


def system_powerdown(vm: MonitoredVm) -> None:
    """Ask the guest to power down. Here it has no ACPI to hear that with, so only the event tells of it."""
    vm.system_powerdown()


def quit_vm(vm: MonitoredVm) -> None:
    """End the VM process; a running migration is cancelled."""
    vm.quit()


def human_monitor_command(vm: MonitoredVm, arguments: HumanMonitorCommand) -> str:
    """Carry out a line of the human monitor and return what it prints, errors included."""
    if arguments.cpu_index is not UNSET and arguments.cpu_index not in range(len(vm.vcpu_thread_ids())):
        raise UsageError("Parameter 'cpu-index' expects a CPU number")
    return run_hmp(vm, arguments.command_line).replace("\n", "\r\n")
