"""A libvirt daemon of a test's own, and a busy domain in it."""

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.support.ports import free_port
from tests.support.wait import wait_until
from vmferry.client.monitor import Monitor, open_monitor
from vmferry.control.host.cgroup import find_hierarchy, group_of
from vmferry.control.host.own_group import PREFIX
from vmferry.errors import GuestError
from vmferry.guests.payload import STRESS_ELF
from vmferry.guests.payload.invariants import PROGRESS_BYTES, PROGRESS_GPA, StressProgress, check_memory, read_progress

_PROBED = tempfile.TemporaryDirectory(prefix="vmferry-libvirt-")
"""What daemons have found out about the QEMUs that are installed, which takes one of them some seconds."""
DOMAIN = "busy"
_XML = """
<domain type='kvm'>
  <name>{name}</name>
  <memory unit='MiB'>{memory}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <loader readonly='yes' type='rom'>/usr/share/qemu/qboot.rom</loader>
    <kernel>{kernel}</kernel>
    <cmdline>ramsize={stress} cpus=1</cmdline>
  </os>
  <features><acpi/></features>
  <devices><emulator>/usr/bin/qemu-system-x86_64</emulator><memballoon model='none'/></devices>
</domain>
"""


class Daemon:
    """A libvirtd of an unprivileged user, which keeps to its directory; several are hosts to one another."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        places = {f"XDG_{name}": str(directory) for name in ("RUNTIME_DIR", "CONFIG_HOME", "CACHE_HOME", "DATA_HOME")}
        (directory / "libvirt").mkdir()
        (directory / "libvirt" / "libvirtd.conf").write_text(f'host_uuid = "{uuid.uuid4()}"\n')
        port = free_port()
        ports = f"migration_port_min = {port}\nmigration_port_max = {port + 9}\n"
        (directory / "libvirt" / "qemu.conf").write_text(ports)
        shutil.copy(STRESS_ELF, directory)
        (directory / "libvirt" / "qemu").mkdir()
        (directory / "libvirt" / "qemu" / "cache").symlink_to(_PROBED.name)
        self._errors = (directory / "errors").open("wb")
        self._environment = os.environ | places | {"HOME": str(directory)}
        self.start()

    def start(self) -> None:
        """Start it. Domains of one that was killed have run on, and are found again."""
        self.process = subprocess.Popen(
            ["libvirtd", "--timeout", "300"],
            env=self._environment,
            stderr=self._errors,
            **_unprivileged(self.directory),
        )
        wait_until(lambda: subprocess.run(self.virsh("version"), capture_output=True, check=False).returncode == 0)

    def kill(self) -> None:
        """Let it die; `start` starts it again."""
        self.process.kill()
        self.process.wait()

    @property
    def uri(self) -> str:
        return f"qemu+unix:///session?socket={self.directory}/libvirt/libvirt-sock"

    def run(self, *words: str) -> str:
        """Return what virsh prints. Raises CalledProcessError."""
        return subprocess.run(self.virsh(*words), check=True, capture_output=True, text=True).stdout

    def virsh(self, *words: str) -> list[str]:
        return ["virsh", "--quiet", "--connect", self.uri, *words]

    def start_domain(self, memory_mib: int = 192, stress_mib: int = 96) -> "Domain":
        """Return a domain that has written its stressed memory twice; the one that runs, if it does."""
        if DOMAIN in self.run("list", "--name"):
            return self.domain()
        xml = self.directory / "domain.xml"
        kernel = self.directory / STRESS_ELF.name
        xml.write_text(_XML.format(name=DOMAIN, memory=memory_mib, stress=stress_mib, kernel=kernel))
        self.run("create", str(xml))
        domain = self.domain()
        wait_until(lambda: domain.passes() >= 2, 300)
        return domain

    def domain(self) -> "Domain":
        return Domain(open_monitor(f"libvirt:{self.uri}#{DOMAIN}"), self.directory / "memory")

    def close(self) -> None:
        subprocess.run(self.virsh("destroy", DOMAIN), capture_output=True, check=False)
        self.process.terminate()
        self.process.wait()
        self._errors.close()


class Domain:
    """The busy domain, seen through libvirt."""

    def __init__(self, monitor: Monitor, image: Path) -> None:
        self.monitor = monitor
        self._image = image

    def passes(self) -> int:
        with suppress(GuestError):
            return read_progress(self._memory(PROGRESS_GPA, PROGRESS_BYTES)).passes
        return 0

    def check_memory(self) -> StressProgress:
        """Stop it, and check that its memory is one consistent moment."""
        self.monitor.execute("stop")
        total_bytes = int(self.monitor.execute("query-memory-size-summary")["base-memory"])
        return check_memory(self._memory(0, total_bytes))

    def _memory(self, gpa: int, size_bytes: int) -> memoryview:
        self.monitor.execute("pmemsave", {"val": gpa, "size": size_bytes, "filename": str(self._image)})
        return memoryview(self._image.read_bytes())


@contextmanager
def daemon() -> Iterator[Daemon]:
    """A libvirt daemon with a short-lived directory of its own."""
    with tempfile.TemporaryDirectory(prefix="vmferry-") as name:
        if os.geteuid() == 0:
            shutil.chown(name, "nobody")
        running = Daemon(Path(name))
        try:
            yield running
        finally:
            running.close()


@contextmanager
def migration(source: Daemon, destination: Daemon, *words: str, mib_per_s: int = 48) -> Iterator[subprocess.Popen[str]]:
    """A migration by virsh, which does not end by itself at the default bandwidth; it is aborted at the end."""
    target = ("migrate", "--live", DOMAIN, destination.uri, "tcp:127.0.0.1", "--bandwidth", f"{mib_per_s}")
    with subprocess.Popen(source.virsh(*target, *words), stderr=subprocess.PIPE, text=True) as virsh:
        try:
            yield virsh
        finally:
            if virsh.poll() is None:
                subprocess.run(source.virsh("domjobabort", DOMAIN), check=False)


def slowed(threads: list[int]) -> bool:
    """Return whether one of the threads is in a control group of ours."""
    return any(group_of(thread, find_hierarchy()).name.startswith(PREFIX) for thread in threads)


def _unprivileged(directory: Path) -> dict[str, Any]:
    """Return how to start a process as a user who may use KVM and that directory, and nothing else."""
    if os.geteuid() != 0:
        return {}
    for path in (directory, *directory.rglob("*"), Path(_PROBED.name)):
        shutil.chown(path, "nobody")
    return {"user": "nobody", "group": "nogroup", "extra_groups": [os.stat("/dev/kvm").st_gid]}
