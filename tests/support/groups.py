"""Real threads in real control groups."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.wait import wait_until
from vmferry.client.processes import Thread
from vmferry.control.host.cgroup import find_hierarchy, group_of


@contextmanager
def busy_thread() -> Iterator[Thread]:
    """A thread that never rests, of a process of its own."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            thread = Thread.of(process.pid)
            assert thread
            yield thread
        finally:
            process.kill()


@contextmanager
def other_group(name: str) -> Iterator[Path]:
    """A group beside the one that this process is in; whatever is in it leaves it in the end."""
    hierarchy = find_hierarchy()
    parent = group_of(os.getpid(), hierarchy)
    group = parent / f"test-{name}-{os.getpid()}"
    group.mkdir()
    try:
        yield group
    finally:
        for thread_id in (group / hierarchy.threads_file).read_text().split():
            with suppress(ProcessLookupError):
                (parent / hierarchy.threads_file).write_text(thread_id)
        wait_until(lambda: _removed(group))


def move(thread: Thread, group: Path) -> None:
    """Move a thread to a group."""
    (group / find_hierarchy().threads_file).write_text(str(thread.id))


def quota_of(thread: Thread) -> tuple[int, int] | None:
    """Return how long the group of a thread may run in each period, and how long that is."""
    hierarchy = find_hierarchy()
    return hierarchy.quota_us(group_of(thread.id, hierarchy))


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except OSError:
        return False
    return True
