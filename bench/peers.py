"""The VMs that migrations are compared on: ours and stock QEMU, all running the same stress payload."""

import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vmferry.cancel import CancelToken
from vmferry.clock import MonotonicClock
from vmferry.control.asking.progress import Progress
from vmferry.control.asking.result import Result, require_completed
from vmferry.control.drive import drive, set_up
from vmferry.convergence.variants import VARIANTS
from vmferry.guests.payload import STRESS_ELF
from vmferry.migration.journal import read_migration
from vmferry.migration.outcome import Outcome
from vmferry.perf.lab import MONITOR_SOCKET, VM_COMMAND, Lab, VmProcess

RESPONSIVE = "background-sync+responsive-throttle"
REST_S = 1.0
"""How long the machine is left to itself after each run."""
_WARM_S = 300.0
"""How long a guest may take until it is warm; filling its pages is slow."""


@dataclass(frozen=True)
class Load:
    """A guest and what it does."""

    memory_mib: int
    vcpu_count: int
    stress_mib: int
    more: str = ""
    """What else the payload is told, such as `mode=xor`."""

    @property
    def append(self) -> str:
        """The payload's command line."""
        return f"ramsize={self.stress_mib} {self.more}".strip()


@dataclass(frozen=True)
class Peer:
    """A way to run and migrate a VM. `variant` is None for QEMU, which has its own auto-converge."""

    name: str
    variant: str | None = None
    binary: str | None = None
    channels: int = 0
    """How many page channels there are; 0: no multifd."""
    prealloc: bool = False
    """Whether both sides have got their memory from the kernel before anything moves."""
    accel: str = "kvm"
    """By what QEMU runs its guest, such as `kvm,dirty-ring-size=4096`."""

    def command(self, load: Load) -> list[str]:
        """Return the command that starts a VM without saying where its guest comes from."""
        if self.binary is None:
            return [*VM_COMMAND, "--memory", f"{load.memory_mib}M", "--cpus", str(load.vcpu_count)]
        data = Path(self.binary).parents[1] / "share"
        return [
            *(self.binary, "-L", str(data / "qemu"), "-L", "/usr/share/qemu", "-L", "/usr/share/seabios"),
            *("-accel", self.accel, "-m", str(load.memory_mib), "-smp", str(load.vcpu_count)),
            *("-bios", "qboot.rom"),  # which boots in a fifth of SeaBIOS's time
            *("-object", f"memory-backend-ram,id=pc.ram,size={load.memory_mib}M,reserve=off"),  # more than the host has
            *("-machine", "memory-backend=pc.ram"),
            *("-nodefaults", "-display", "none", "-kernel", str(STRESS_ELF)),
            *("-append", f"{load.append} cpus={load.vcpu_count}"),
            *("-qmp", f"unix:{MONITOR_SOCKET},server=on,wait=off"),
        ]

    def start_pair(self, lab: Lab, load: Load, options: Sequence[str] = ()) -> tuple[VmProcess, VmProcess, str]:
        """Start a source with a warm guest, and a destination; return both and the destination's uri.

        `options` are more of the source.
        """
        uri = f"unix:{lab.directory / self.name}.sock"
        command = [*self.command(load), *(self.ready_memory(load.memory_mib) if self.prealloc else [])]
        dash = "--" if self.binary is None else "-"
        boot = ["--append", load.append] if self.binary is None else []
        destination = lab.start([*command, f"{dash}incoming", "defer"], "destination")
        source = lab.start([*command, *boot, *options], "source")
        for vm in (source, destination):
            widen(vm, self.channels)
        destination.monitor.execute("migrate-incoming", {"uri": uri})
        source.wait_for_passes(2, _WARM_S)
        return source, destination, uri

    def ready_memory(self, size_mib: int) -> list[str]:
        """Return the options of a VM that gets its memory from the kernel before it starts."""
        if self.binary is None:
            return ["--prealloc"]
        return [
            *("-object", f"memory-backend-ram,id=ram0,size={size_mib}M,prealloc=on"),
            *("-machine", "memory-backend=ram0"),
        ]

    def migrate(
        self,
        source: VmProcess,
        uri: str,
        parameters: Mapping[str, object],
        *,
        auto_converge: bool = True,
        watch: Callable[[Progress], None] = lambda progress: None,
        cancel: CancelToken | None = None,
    ) -> Result:
        """Migrate with these parameters and the variant's, until somebody sets `cancel`."""
        settings = VARIANTS[self.variant].settings if self.variant else {}
        set_up(source.monitor, {**parameters, **settings}, auto_converge=auto_converge)
        return drive(source.monitor, uri, watch, MonotonicClock(), cancel)


def ours(variant: str) -> Peer:
    """Return vmferry with one of its variants."""
    return Peer(f"vmferry-{variant.replace('+', '-')}", variant=variant)


def qemus(qemu10: str | None) -> list[Peer]:
    """Return the QEMU that is installed, and QEMU 10 if it was unpacked somewhere."""
    installed = shutil.which("qemu-system-x86_64")
    assert installed, "install qemu-system-x86"
    peers = [Peer("qemu-installed", binary=installed)]
    return peers + ([Peer("qemu-10", binary=qemu10)] if qemu10 else [])


def widen(vm: VmProcess, channels: int) -> None:
    """Let a VM migrate over that many page channels; 0: over one connection."""
    if channels:
        vm.monitor.execute("migrate-set-parameters", {"multifd-channels": channels})
        multifd = {"capability": "multifd", "state": True}
        vm.monitor.execute("migrate-set-capabilities", {"capabilities": [multifd]})


def moved(
    peer: Peer,
    load: Load,
    parameters: Mapping[str, object],
    *,
    auto_converge: bool = True,
    capabilities: Mapping[str, bool] = {},
) -> Outcome:
    """Let a VM of ours migrate with these settings, check what has arrived, and return what its journal tells."""
    wanted = [{"capability": name, "state": state} for name, state in capabilities.items()]
    with Lab() as lab:
        journal = lab.directory / "journal"
        source, destination, uri = peer.start_pair(lab, load, ["--journal", str(journal)])
        source.monitor.execute("migrate-set-capabilities", {"capabilities": wanted})
        require_completed(peer.migrate(source, uri, parameters, auto_converge=auto_converge))
        destination.check_memory()
        return Outcome.of(read_migration(journal).entries)


def warm_memory(size_mib: int) -> None:
    """Touch memory and give it back, so that the next to use it does not wait for this machine's own host.

    On a virtual machine, memory that was not used for two or three seconds may have gone back to the host; getting it
    again costs more than anything that is measured here. Guests get huge pages, and so this takes such.
    """
    subprocess.run([sys.executable, "-m", "bench.memory_copy", str(size_mib)], check=True)


def cool_down() -> None:
    """Let the machine finish what the last run left behind."""
    time.sleep(REST_S)


def rounds(peers: list[Peer], runs: int) -> Iterator[tuple[int, Peer]]:
    """Yield every peer once a round, in an order that changes from round to round."""
    order = random.Random(1)
    for number in range(runs):
        for peer in order.sample(peers, len(peers)):
            yield number, peer
            cool_down()
