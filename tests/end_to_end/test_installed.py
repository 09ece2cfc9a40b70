"""docs/agent.md is followed on a machine of its own, with systemd and libvirtd: its commands, as they stand there.

No index is asked: the packages that the agent needs are copied from the environment of the tests, and no others are
there when it runs.
"""

import json
import os
import re
import shlex
import sys
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import httpx
import pytest
from packaging.requirements import Requirement

from tests.support.machine import Machine, machine
from tests.support.qemu import stress_command
from tests.support.wait import wait_until
from vmferry.client.qmp_client import QmpClient
from vmferry.control.host.own_group import PREFIX
from vmferry.errors import GuestError
from vmferry.guests.payload.invariants import PROGRESS_BYTES, PROGRESS_GPA, read_progress
from vmferry.perf.lab import MONITOR_SOCKET

pytestmark = [pytest.mark.machine, pytest.mark.libvirt, pytest.mark.kvm, pytest.mark.qemu, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PACKAGES, BUILDING = Path("/opt/packages"), Path("/opt/building")
LIBVIRTD = "[Service]\nType=notify\nExecStart=/usr/sbin/libvirtd\n"
GROUPS = "cat /proc/$(systemctl show --property MainPID --value source)/task/*/cgroup"
LIBVIRT_HOST = """
echo libvirt-qemu:x:64055:64055::/:/usr/sbin/nologin >>/etc/passwd
echo libvirt-qemu:x:64055: >>/etc/group
systemctl start libvirtd
"""
LOAD: dict[str, Any] = {"memory_mib": 160, "stress_mib": 96}


def steps() -> list[str]:
    """Return the blocks of commands by which the agent is installed."""
    section = (ROOT / "docs" / "agent.md").read_text().split("\n## ")[1]
    assert section.startswith("Install it in five minutes\n")
    return BLOCK.findall(section)


def needed(requirements: Iterable[str], extras: Iterable[str], seen: set[str]) -> Iterator[str]:
    """Yield the names of the packages that are required, and of those that they require with these extras."""
    for requirement in map(Requirement, requirements):
        marker = requirement.marker
        wanted = marker is None or any(marker.evaluate({"extra": extra}) for extra in (*extras, ""))
        if wanted and requirement.name not in seen:
            seen.add(requirement.name)
            yield requirement.name
            yield from needed(distribution(requirement.name).requires or (), requirement.extras, seen)


def copied(names: Iterable[str], directory: Path) -> str:
    """Return the commands that copy packages of this environment into a directory, which the agent may see."""
    places = [
        distribution(name).locate_file(top)
        for name in names
        for top in {file.parts[0] for file in distribution(name).files or ()} - {"..", "__pycache__"}
    ]
    return f"mkdir {directory}\ncp -r {' '.join(map(str, places))} {directory}"


class Follower:
    """Who follows the page, at a machine that has the packages which the agent and its building need."""

    def __init__(self, one: Machine) -> None:
        self._machine = one
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())
        optional = project["project"]["optional-dependencies"]
        required = [*project["project"]["dependencies"], *optional["agent"], *optional["libvirt"]]
        self.does(copied(needed(required, (), set()), PACKAGES))
        self.does(copied(needed(project["build-system"]["requires"], (), set()), BUILDING))

    def does(self, script: str) -> str:
        """Return what the commands print."""
        environment = {
            "PATH": f"{sys.base_prefix}/bin:{os.environ['PATH']}",
            "PYTHONPATH": f"{PACKAGES}:{BUILDING}",
            "PIP_NO_INDEX": "1",
            "PIP_NO_BUILD_ISOLATION": "0",  # which means that there is none
            "PIP_NO_COMPILE": "1",
        }
        done = self._machine.run(script, ROOT, environment)
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def said(self) -> str:
        """Return what the agent has said."""
        return self.does("journalctl --quiet --unit vmferry-agent")


@pytest.fixture
def follower(tmp_path: Path) -> Iterator[tuple[Machine, Follower]]:
    with machine(tmp_path, {"libvirtd.service": LIBVIRTD}, f"PYTHONPATH={PACKAGES}") as one:
        who = Follower(one)
        who.does(LIBVIRT_HOST)
        yield one, who


def test_who_follows_the_page_has_an_agent_that_steers_and_is_started_again(follower: tuple[Machine, Follower]) -> None:
    one, who = follower
    install, check, start, see = steps()
    who.does(install)
    assert "vmferry-agent.1" in who.does("ls /usr/local/share/man/man1")
    assert "/etc/vmferry/agent.toml: 2 rules" in who.does(check)
    who.does(start)
    wait_until(lambda: "is listened to" in who.said())
    assert "no such migration is remembered" in who.does(see)
    who.does(
        """mkdir /run/vms
        sed -i '1i sockets = ["/run/vms"]\\npage = "/run/vmferry/agent.sock"' /etc/vmferry/agent.toml
        printf '[[rule]]\\nmode = "steer"\\n' >>/etc/vmferry/agent.toml
        systemctl restart vmferry-agent"""
    )
    commands = {
        "source": stress_command(**LOAD, drive_socket="/run/vms/busy.qmp"),
        "destination": [*stress_command(**LOAD), "-incoming", "unix:/run/incoming"],
    }
    for name, command in commands.items():
        words = [word.replace(MONITOR_SOCKET, f"/run/{name}.qmp") for word in command]
        who.does(f"systemd-run --quiet --unit={name} {shlex.join(words)}")
    wait_until(lambda: "attended to at" in who.said())
    inside = Path(f"/proc/{one.init}/root")
    page = httpx.HTTPTransport(uds=f"{inside}/run/vmferry/agent.sock")
    with httpx.Client(transport=page, base_url="http://agent") as client:
        assert [client.get(path).status_code for path in ("/", "/page.js")] == [200, 200]
    with QmpClient.connect(f"unix:{inside}/run/source.qmp") as source:
        wait_until(lambda: is_busy(source, inside))
        source.execute("migrate-set-parameters", {"max-bandwidth": 8 << 20, "downtime-limit": 1})
        source.execute("migrate", {"uri": "unix:/run/incoming"})
        wait_until(lambda: " 0 -> " in who.said())
        assert PREFIX in who.does(GROUPS)
        who.does("systemctl kill --kill-whom=main --signal=KILL vmferry-agent")
        wait_until(lambda: PREFIX not in who.does(GROUPS))
        wait_until(lambda: who.said().count("a migration runs") == 2)
        source.execute("migrate-set-parameters", {"max-bandwidth": 1 << 30, "downtime-limit": 2000})
    wait_until(lambda: "ended: completed" in who.said())
    mounts = who.does("cat /proc/$(systemctl show --property MainPID --value vmferry-agent)/mountinfo")
    assert " / / ro," in mounts, "ProtectSystem is in force"
    assert re.search(r"/systemd-private-\S+/tmp /tmp ", mounts), "and so is PrivateTmp"
    who.does("systemctl stop vmferry-agent")
    row = json.loads(who.does("vmferry history --json"))
    assert (row["vm_name"], row["mode"], row["status"]) == ("busy", "steer", "completed")
    assert row["remark"] in ("", "not steered: no migration is running (the last is 'completed'); --wait waits for one")
    assert row["work_lost_percent"] is None, "as nobody saw all of it"


def is_busy(source: QmpClient, inside: Path) -> bool:
    """Tell whether the guest has gone over its memory once."""
    source.execute("pmemsave", {"val": PROGRESS_GPA, "size": PROGRESS_BYTES, "filename": "/run/progress"})
    with suppress(GuestError):
        return read_progress(memoryview((inside / "run/progress").read_bytes())).passes > 0
    return False
