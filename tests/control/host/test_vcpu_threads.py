"""Whose threads they are is made sure of before any is slowed."""

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from vmferry.control.host.vcpu_threads import vcpu_threads
from vmferry.errors import HostError


class Monitor:
    """Claims to be of a process and to have these vCPU threads."""

    def __init__(self, pid: int, *thread_ids: int) -> None:
        self._pid = pid
        self._thread_ids = thread_ids

    @property
    def peer_pid(self) -> int:
        return self._pid

    def execute(self, command: str) -> list[dict[str, int]]:
        return [{"cpu-index": index, "thread-id": thread_id} for index, thread_id in enumerate(self._thread_ids)]


@pytest.fixture
def thread_ids() -> Iterator[list[int]]:
    """Two threads of this process."""
    end = threading.Event()
    threads = [threading.Thread(target=end.wait) for _ in range(2)]
    for thread in threads:
        thread.start()
    yield [thread.native_id or 0 for thread in threads]
    end.set()
    for thread in threads:
        thread.join()


def threads(*claims: Any) -> list[int]:
    return [thread.id for thread in vcpu_threads(Monitor(*claims))]  # type: ignore[arg-type]


def test_threads_of_the_process_behind_the_monitor_are_found(thread_ids: list[int]) -> None:
    assert threads(os.getpid(), *thread_ids) == thread_ids
    assert threads(os.getpid(), *reversed(thread_ids)) == [*reversed(thread_ids)], "by the number of the vCPU"


def test_vcpus_that_share_a_thread_are_slowed_once(thread_ids: list[int]) -> None:
    assert threads(os.getpid(), thread_ids[0], thread_ids[0]) == [thread_ids[0]]


def test_threads_of_another_program_are_left_alone(thread_ids: list[int]) -> None:
    """The same numbers as those of a QEMU in another pid namespace, or a lie."""
    with pytest.raises(
        HostError, match="process 1, which serves the monitor, is not the one that has the vCPU threads"
    ):
        threads(1, *thread_ids)


def test_a_vm_without_threads_is_refused() -> None:
    with pytest.raises(HostError, match="no vCPU threads"):
        threads(os.getpid())
