"""Pairs of VMs that speak TLS with each other, ours and stock QEMU's, with the same certificates."""

from pathlib import Path

from bench.peers import Load, Peer, widen
from vmferry.perf.lab import Lab, VmProcess
from vmferry.transport.lab_ca import LabCa

HOST = "bench.lab"
DAYS = 1


def start_tls_pair(
    peer: Peer, lab: Lab, load: Load, *, channels: int, prealloc: bool
) -> tuple[VmProcess, VmProcess, str]:
    """Start a source with a warm guest and a destination that waits with TLS, with multifd if there are `channels`.

    With `prealloc`, both have got their memory from the kernel before anything moves.
    """
    credentials = LabCa.open(lab.directory / "ca", DAYS).certify(HOST, DAYS)
    command = [*peer.command(load), *(peer.ready_memory(load.memory_mib) if prealloc else [])]
    if peer.binary is None:
        destination = lab.start([*command, "--incoming", "defer"], "destination")
        source = lab.start([*command, "--append", load.append], "source")
    else:
        destination = lab.start([*command, *_object(credentials, "server"), "-incoming", "defer"], "destination")
        source = lab.start([*command, *_object(credentials, "client")], "source")
    name = str(credentials) if peer.binary is None else _ID
    for vm in (source, destination):
        vm.monitor.execute("migrate-set-parameters", {"tls-creds": name, "tls-hostname": HOST})
        widen(vm, channels)
    uri = f"unix:{lab.directory / peer.name}.sock"
    destination.monitor.execute("migrate-incoming", {"uri": uri})
    source.wait_for_passes(2)
    return source, destination, uri


_ID = "tls0"


def _object(directory: Path, endpoint: str) -> list[str]:
    return ["-object", f"tls-creds-x509,id={_ID},dir={directory},endpoint={endpoint},verify-peer=on"]
