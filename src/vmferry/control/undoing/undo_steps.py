"""Steps that undo what was done to a VM: groups, a controller, commands, parameters. Each can be tried repeatedly."""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vmferry.control.host.cgroup import Hierarchy
from vmferry.control.host.own_group import PREFIX, OwnGroup
from vmferry.control.undoing.way_in import WayIn
from vmferry.errors import CommandError, MonitorError, VmLeftError

if TYPE_CHECKING:
    from vmferry.control.undoing.changes import Change


class Undo(Protocol):
    """A step that undoes something."""

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
        """Try it."""
        return _is_done(self.way_in, lambda: self.way_in.execute(self.command, self.arguments))

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
        """Set those back that still have our value."""
        return _is_done(self.way_in, self._set_back)

    def _set_back(self) -> None:
        now = self.way_in.execute("query-migrate-parameters", {})
        left = {name: value for name, value in self.before.items() if now.get(name) == self.ours[name]}
        if left:
            self.way_in.execute("migrate-set-parameters", left)

    def by_hand(self) -> str:
        """Return the command and where to send it."""
        return SendCommand(self.way_in, "migrate-set-parameters", self.before).by_hand()


def _is_done(way_in: WayIn, send: Callable[[], object]) -> bool:
    """Send commands, and tell whether that is done; of a VM that is gone nothing is left to undo."""
    try:
        send()
    except CommandError:
        raise
    except MonitorError:
        return way_in.vm_is_gone
    return True


@dataclass
class PutBack:
    """Put back what was changed on a VM, once no migration runs there, as it is in use until then."""

    way_in: WayIn
    changes: Sequence[Mapping[str, Any]]
    """The fields of a `Change` each."""

    def attempt(self) -> bool:
        """Look whether a migration runs, and put back what is not refused."""
        from vmferry.control.asking.progress import ask
        from vmferry.control.undoing.changes import put_back

        try:
            if ask(self.way_in).running:
                return False
            self.changes = [asdict(change) for change in put_back(self.way_in, self._as_changes())]
        except VmLeftError:
            return True
        except MonitorError:
            return self.way_in.vm_is_gone
        return not self.changes

    def by_hand(self) -> str:
        """Return the commands, and when they are to be sent."""
        commands = [SendCommand(self.way_in, *change.command()).by_hand() for change in self._as_changes()]
        return f"once no migration runs, {' and '.join(commands)}"

    def _as_changes(self) -> "list[Change]":
        from vmferry.control.undoing.changes import Change

        return [Change(**change) for change in self.changes]
