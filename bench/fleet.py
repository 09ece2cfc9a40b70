"""VMs for an agent to look after, many at once: modelled QEMUs, or real ones of small guests."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.groups import move, other_group
from tests.support.wait import wait_until

from bench.peers import Load, Peer, qemus
from vmferry.client.processes import Scheduled, Thread
from vmferry.client.qmp_client import QmpClient
from vmferry.control.host.cgroup import find_hierarchy
from vmferry.perf.lab import Lab, VmProcess
from vmferry.simulation.qemu.lab import URI
from vmferry.units import MIB

LONG_S = 300.0
"""How long what takes its time may take beside other work."""
SMALL = Load(64, 1, 4)
"""It writes 4 MiB over and over, as fast as it may."""
_LINK_BYTES_PER_S = MIB
_PERIOD_US = 100_000


@dataclass(frozen=True)
class Movable:
    """A VM that is to migrate."""

    monitor: QmpClient
    """Beside the one that is the agent's."""
    uri: str
    """Where it is to go."""
    vcpu: Thread | None = None
    """Of a real one."""

    @property
    def ran_ns(self) -> int:
        """For how long its guest has run; 0 of a modelled one."""
        return Scheduled.of(self.vcpu.id).ran_ns if self.vcpu else 0


Fleet = list[Movable]


def name_of(number: int) -> str:
    """Return the name of a VM; that of its socket is the same."""
    return f"vm-{number:03}"


@contextmanager
def modelled_fleet(sockets: Path, count: int) -> Iterator[Fleet]:
    """Run VMs with their monitors in a directory, which have been told to converge by themselves, the only means by
    which they can be slowed."""
    on = {"capabilities": [{"capability": "auto-converge", "state": True}]}
    with modelled(sockets, count), ExitStack() as stack:
        monitors = [stack.enter_context(QmpClient.connect(f"unix:{path}")) for path in sorted(sockets.iterdir())]
        for monitor in monitors:
            monitor.execute("migrate-set-capabilities", on)
        yield [Movable(monitor, URI) for monitor in monitors]


@contextmanager
def real_fleet(sockets: Path, count: int, held_percent: int) -> Iterator[Fleet]:
    """Run VMs that will not converge by themselves, each with at most that share of a processor once it is up.

    Such a share is what libvirt's `vcpu_quota` sets: a group around the vCPU thread has a quota.
    """
    peer = qemus(None)[0]
    with Lab() as lab, ExitStack() as stack:
        yield [_held_vm(lab, peer, sockets, number, held_percent, stack) for number in range(count)]


def _held_vm(lab: Lab, peer: Peer, sockets: Path, number: int, held_percent: int, stack: ExitStack) -> Movable:
    source, uri = start_pair(lab, peer, SMALL, sockets, number)
    source.wait_for_passes(1, LONG_S)
    limits = {"max-bandwidth": _LINK_BYTES_PER_S, "downtime-limit": 1}
    source.monitor.execute("migrate-set-parameters", limits)
    vcpu = Thread.of(source.monitor.execute("query-cpus-fast")[0]["thread-id"])
    assert vcpu
    group = stack.enter_context(other_group(name_of(number)))
    find_hierarchy().set_quota(group, held_percent * _PERIOD_US // 100, _PERIOD_US)
    move(vcpu, group)
    return Movable(source.monitor, uri, vcpu)


def start_pair(lab: Lab, peer: Peer, load: Load, sockets: Path, number: int) -> tuple[VmProcess, str]:
    """Start two QEMUs, of which the source has a second monitor for the agent."""
    uri = f"unix:{lab.directory}/{number}.sock"
    lab.start([*peer.command(load), "-incoming", uri], f"destination{number}")
    own = ["-name", name_of(number), "-qmp", f"unix:{sockets}/{name_of(number)}.qmp,server=on,wait=off"]
    return lab.start([*peer.command(load), *own], f"source{number}"), uri


@contextmanager
def modelled(sockets: Path, count: int) -> Iterator[int]:
    """Serve modelled monitors, and yield the number of the process that does."""
    command = [sys.executable, "-m", "bench.modelled_monitors", str(sockets), "--vms", str(count)]
    with subprocess.Popen(command) as server:
        try:
            wait_until(lambda: len(list(sockets.iterdir())) == count, 60)
            yield server.pid
        finally:
            server.terminate()
