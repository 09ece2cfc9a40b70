"""Steps that undo what was done to a VM: groups, a controller, commands, parameters. Each can be tried repeatedly."""

import json
import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from vmferry.control.cgroup import Hierarchy
from vmferry.control.own_group import PREFIX, OwnGroup
from vmferry.control.way_in import WayIn
from vmferry.errors import CommandError, MonitorError


class Undo(Protocol):
    """Something to be undone."""

    def attempt(self) -> bool:
        """Try it; False if it has to be tried again. Raises CommandError if the VM refuses it."""
        ...

    def by_hand(self) -> str:
        """Return how a person does it."""
        ...


@dataclass(frozen=True)
class DissolveGroup:
    """Send the threads home from a group of ours, and remove it."""

    group: OwnGroup
    hierarchy: Hierarchy

    def attempt(self) -> bool:
        """Try it."""
        return self.group.dissolve(self.hierarchy)

    def by_hand(self) -> str:
        """Return a shell command."""
        return self.group.by_hand(self.hierarchy)


@dataclass(frozen=True)
class TakeCpuBack:
    """Take the cpu controller from the groups below a group, if it is the same still and has none (cgroup v2)."""

    group: Path
    inode: int

    def attempt(self) -> bool:
        """Wait for groups of ours to go; others need the controller."""
        with suppress(OSError):
            children = [path.name for path in self.group.iterdir() if path.is_dir()]
            if any(name.startswith(PREFIX) for name in children):
                return False
            if not children and self.group.stat().st_ino == self.inode:
                (self.group / "cgroup.subtree_control").write_text("-cpu")
        return True

    def by_hand(self) -> str:
        """Return a shell command."""
        return f"echo -cpu > {self.group}/cgroup.subtree_control"


@dataclass(frozen=True)
class SendCommand:
    """Send a QMP command."""

    way_in: WayIn
    command: str
    arguments: Mapping[str, Any]

    def attempt(self) -> bool:
        """Try it; of a VM that is gone nothing is left to undo."""
        try:
            self.way_in.execute(self.command, self.arguments)
        except CommandError:
            raise
        except MonitorError:
            return self.way_in.vm_is_gone
        return True

    def by_hand(self) -> str:
        """Return the command and where to send it."""
        text = json.dumps({"execute": self.command, "arguments": self.arguments})
        return self.way_in.as_shell(shlex.quote(text))


@dataclass(frozen=True)
class SetBack:
    """Set migration parameters back, those that somebody else has not changed since we did."""

    way_in: WayIn
    before: Mapping[str, Any]
    ours: Mapping[str, Any]
    """The values that we have given to the same parameters."""

    def attempt(self) -> bool:
        """Ask for them, and set them."""
        try:
            now = self.way_in.execute("query-migrate-parameters", {})
            left = {name: value for name, value in self.before.items() if now.get(name) == self.ours[name]}
            if left:
                self.way_in.execute("migrate-set-parameters", left)
        except CommandError:
            raise
        except MonitorError:
            return self.way_in.vm_is_gone
        return True

    def by_hand(self) -> str:
        """Return the command and where to send it."""
        return SendCommand(self.way_in, "migrate-set-parameters", self.before).by_hand()
