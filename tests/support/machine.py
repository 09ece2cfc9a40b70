"""A machine of a test's own, in namespaces: systemd is its first process, and sees no other of this machine.

Its files are this machine's, and what is written to them is gone at the end, as is everything that was started there.
"""

import os
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.wait import wait_until

_GROUPS = Path("/sys/fs/cgroup")
_HIERARCHIES = ("devices", "pids", "systemd", "unified")
"""Those of control groups v1 in which systemd makes groups."""
_SCRIPT = Path(__file__).with_suffix(".sh")
_CONFIG = """[Manager]
DefaultMemoryAccounting=no
DefaultTasksAccounting=no
DefaultTimeoutStartSec=60
DefaultEnvironment={environment}
"""


class Machine:
    """It runs; `init` is the number of its systemd."""

    def __init__(self, directory: Path, init: int) -> None:
        self.directory = directory
        self.init = init

    def run(self, script: str, cwd: Path, environment: Mapping[str, str] = {}) -> subprocess.CompletedProcess[str]:
        """Carry out what bash is told, up to the first command that fails."""
        return subprocess.run(
            [*self._enter, f"--wdns={cwd}", "bash", "-euo", "pipefail", "-c", script],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | environment,
        )

    @property
    def _enter(self) -> list[str]:
        return ["nsenter", "--target", str(self.init), "--mount", "--uts", "--ipc", "--pid", "--cgroup"]


@contextmanager
def machine(directory: Path, units: Mapping[str, str] = {}, environment: str = "") -> Iterator[Machine]:
    """Start one with these units beside systemd's own, and environment variables for all of its services."""
    group = f"vmferry-machine-{uuid.uuid4()}"
    (directory / "units").mkdir()
    for name, text in units.items():
        (directory / "units" / name).write_text(text)
    (directory / "system.conf").write_text(_CONFIG.format(environment=environment))
    groups = [_GROUPS / hierarchy / group for hierarchy in _HIERARCHIES]
    for path in groups:
        path.mkdir()
    move = "".join(f"echo $$ >{path}/cgroup.procs; " for path in groups)
    unshared = f"unshare --mount --uts --ipc --pid --cgroup --fork --kill-child {_SCRIPT} {directory} {group}"
    with (directory / "console").open("wb") as console:
        shell = subprocess.Popen(["bash", "-euc", move + f"exec {unshared}"], stdout=console, stderr=console)
    try:
        wait_until(lambda: shell.poll() is not None or _child(shell.pid))
        one = Machine(directory, _child(shell.pid) or 0)
        wait_until(lambda: shell.poll() is not None or _is_up(one))
        assert shell.poll() is None, (directory / "console").read_text()
        yield one
    finally:
        shell.kill()  # which kills the first process, and with it all others
        shell.wait()
        wait_until(lambda: all(_removed(path) for path in groups))


def _child(pid: int) -> int | None:
    """Return the number of the process that another one has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else None


def _is_up(one: Machine) -> bool:
    return one.run("systemctl --quiet is-active multi-user.target", Path("/")).returncode == 0


def _removed(group: Path) -> bool:
    """Remove a control group and those below it; False if there are processes in one of them still."""
    for path in sorted([group, *(path for path in group.rglob("*") if path.is_dir())], reverse=True):
        with suppress(OSError):
            path.rmdir()
    return not group.exists()
