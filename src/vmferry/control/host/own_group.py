"""A control group of our own for one thread, below the one that the thread is in, and how it goes away again.

Only threads that are in such a group are ever moved out of it, one floor up. So nothing happens to a thread that its
manager has moved elsewhere meanwhile, nor to one that has got the number of a thread that has ended.
"""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vmferry.client.processes import Thread
from vmferry.control.host.cgroup import Hierarchy, group_of
from vmferry.errors import HostError

PREFIX = "vmferry-"
"""The beginning of the names of our groups, `vmferry-THREAD`."""


@dataclass(frozen=True)
class OwnGroup:
    """The group for a thread below `home`."""

    thread: Thread
    home: Path
    home_inode: int
    """Tells `home` from another group that has got its name."""

    @classmethod
    def below(cls, home: Path, thread: Thread) -> "OwnGroup":
        """Return the group that is to be made. Raises OSError if there is no such home."""
        return cls(thread, home, home.stat().st_ino)

    @property
    def path(self) -> Path:
        """The directory that was made for it."""
        return self.home / f"{PREFIX}{self.thread.id}"

    def find(self, hierarchy: Hierarchy) -> Path | None:
        """Return where it is now, None if it is gone. A group above it may have been renamed (version 1)."""
        with suppress(OSError):
            if self.home.stat().st_ino == self.home_inode:
                return self.path if self.path.exists() else None
        with suppress(HostError):
            group = group_of(self.thread.id, hierarchy)
            return group if group.name == self.path.name and self.thread.alive else None
        return None

    def let_run(self, hierarchy: Hierarchy) -> None:
        """Lift the quota; moving the thread does it as well, but may have to wait for the kernel."""
        group = self.find(hierarchy)
        if group:
            with suppress(OSError):
                hierarchy.remove_quota(group)

    def send_home(self, hierarchy: Hierarchy) -> None:
        """Send the thread, and those that it has started, to the group above. Raises OSError."""
        group = self.find(hierarchy)
        if group:
            _move_up(group, hierarchy)

    def dissolve(self, hierarchy: Hierarchy) -> bool:
        """Send its threads home and remove it. Returns False if that has to be tried again.

        The threads of a QEMU that was killed are in it, and cannot be moved, until its memory is gone.
        """
        group = self.find(hierarchy)
        try:
            if group:
                with suppress(OSError):
                    _move_up(group, hierarchy)
                group.rmdir()
        except FileNotFoundError:
            pass
        except OSError:
            return False
        return True

    def by_hand(self, hierarchy: Hierarchy) -> str:
        """Return the shell command that does what `dissolve` does."""
        file = hierarchy.threads_file
        return f"for t in $(cat {self.path}/{file}); do echo $t > {self.home}/{file}; done; rmdir {self.path}"


def _move_up(group: Path, hierarchy: Hierarchy) -> None:
    for thread_id in (group / hierarchy.threads_file).read_text().split():
        with suppress(ProcessLookupError):
            (group.parent / hierarchy.threads_file).write_text(thread_id)
