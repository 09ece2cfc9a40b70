"""VMs for an agent to look after, many at once: modelled QEMUs, or real ones of small guests."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support.wait import wait_until

from bench.peers import Load, Peer, qemus
from vmferry.client.qmp_client import QmpClient
from vmferry.perf.lab import Lab, VmProcess
from vmferry.simulation.qemu.lab import URI
from vmferry.units import MIB

LONG_S = 300.0
"""How long what takes its time may take beside other work."""
SMALL = Load(64, 1, 4, "pace=1000")
"""It writes 4 MiB over and over, once per second."""
_LINK_BYTES_PER_S = MIB
Fleet = list[tuple[QmpClient, str]]
"""The monitors of VMs, beside those that are the agent's, and where each is to go."""


def name_of(number: int) -> str:
    """Return the name of a VM; that of its socket is the same."""
    return f"vm-{number:03}"


@contextmanager
def fleet(sockets: Path, count: int, *, real: bool) -> Iterator[Fleet]:
    """Run VMs that will not converge by themselves, with their monitors in a directory."""
    with _real_vms(sockets, count) if real else _modelled_vms(sockets, count) as vms:
        yield vms


@contextmanager
def _real_vms(sockets: Path, count: int) -> Iterator[Fleet]:
    peer = qemus(None)[0]
    with Lab() as lab:
        pairs = [start_pair(lab, peer, SMALL, sockets, number) for number in range(count)]
        for source, _ in pairs:
            source.wait_for_passes(1, LONG_S)
            limits = {"max-bandwidth": _LINK_BYTES_PER_S, "downtime-limit": 1}
            source.monitor.execute("migrate-set-parameters", limits)
        yield [(source.monitor, uri) for source, uri in pairs]


def start_pair(lab: Lab, peer: Peer, load: Load, sockets: Path, number: int) -> tuple[VmProcess, str]:
    """Start two QEMUs, of which the source has a second monitor for the agent."""
    uri = f"unix:{lab.directory}/{number}.sock"
    lab.start([*peer.command(load), "-incoming", uri], f"destination{number}")
    own = ["-name", name_of(number), "-qmp", f"unix:{sockets}/{name_of(number)}.qmp,server=on,wait=off"]
    return lab.start([*peer.command(load), *own], f"source{number}"), uri


@contextmanager
def _modelled_vms(sockets: Path, count: int) -> Iterator[Fleet]:
    """They have been told to converge by themselves, the only means by which they can be slowed."""
    on = {"capabilities": [{"capability": "auto-converge", "state": True}]}
    with modelled(sockets, count), ExitStack() as stack:
        monitors = [stack.enter_context(QmpClient.connect(f"unix:{path}")) for path in sorted(sockets.iterdir())]
        for monitor in monitors:
            monitor.execute("migrate-set-capabilities", on)
        yield [(monitor, URI) for monitor in monitors]


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
