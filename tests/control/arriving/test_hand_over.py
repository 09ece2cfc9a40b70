"""How long the other side may hold a stopped guest, and when it may not be taken back."""

import os
import socket

import pytest

from tests.support.fake_qemu import FakeQemu, answer
from vmferry.control.arriving import hand_over as module
from vmferry.control.arriving.destination import Destination
from vmferry.control.arriving.hand_over import HandOver
from vmferry.control.asking.progress import Progress
from vmferry.control.host.return_path import returned_bytes
from vmferry.errors import MigrationError
from vmferry.simulation.clock import VirtualClock

S = 1_000_000_000
ALL_SENT = Progress.from_qmp(answer("device", remaining=0, transferred=1 << 30))


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def returned(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    counts: list[int | None] = [None]
    monkeypatch.setattr(module, "returned_bytes", lambda pid, uri: counts[-1])
    monkeypatch.setattr(FakeQemu, "peer_pid", 1)
    return counts


def stopped(*, downtime_limit: int = 300) -> FakeQemu:
    qemu = FakeQemu([], downtime_limit=downtime_limit)
    qemu.run_state = "finish-migrate"
    return qemu


@pytest.mark.parametrize(("limit_s", "downtime_limit", "allowed_s"), [(3, 300, 3), (None, 500, 11), (None, 20_000, 50)])
def test_it_is_bounded_by_what_is_asked_for_or_the_downtime_limit(
    clock: VirtualClock, limit_s: int | None, downtime_limit: int, allowed_s: int
) -> None:
    bounded = HandOver(stopped(downtime_limit=downtime_limit), clock, "unix:/x", limit_s and limit_s * S, None)
    some_left = Progress.from_qmp(answer("active", remaining=1))
    assert bounded.observe(some_left) is None
    clock.sleep_ns(allowed_s * S)
    assert bounded.observe(some_left) is None
    clock.sleep_ns(1)
    assert "not all of its memory was taken" in (bounded.observe(some_left) or "")


def test_a_guest_that_runs_or_waits_for_somebody_else_is_not_counted(clock: VirtualClock) -> None:
    qemu = stopped()
    bounded = HandOver(qemu, clock, "unix:/x", S, None)
    for status, run_state in [
        ("device", "finish-migrate"),
        ("pre-switchover", "finish-migrate"),
        ("active", "running"),
        ("device", "finish-migrate"),
        ("postcopy-active", "finish-migrate"),
    ]:
        qemu.run_state = run_state
        assert bounded.observe(Progress.from_qmp(answer(status))) is None
        clock.sleep_ns(2 * S)


def test_a_peer_that_never_said_a_word_has_no_guest(clock: VirtualClock, returned: list[int | None]) -> None:
    returned.append(0)
    bounded = HandOver(stopped(), clock, "tcp:h:1", S, None)
    assert "is taken for no VM" in (overdue(clock, bounded) or "")
    assert not bounded.is_certain


def test_a_destination_that_still_waits_has_no_guest(clock: VirtualClock, returned: list[int | None]) -> None:
    other = FakeQemu([])
    other.run_state = "inmigrate"
    assert "still waits" in (overdue(clock, HandOver(stopped(), clock, "unix:/x", S, Destination(other, clock))) or "")


@pytest.mark.parametrize(("count", "sent_bytes"), [(None, 1 << 30), (8, 1 << 30), (0, 16 << 20)])
def test_where_the_destination_may_run_the_guest_stays_stopped(
    clock: VirtualClock, returned: list[int | None], count: int | None, sent_bytes: int
) -> None:
    """Also a destination that stands still with all of a small guest in its buffers may run it later."""
    returned.append(count)
    progress = Progress.from_qmp(answer("active", remaining=0, transferred=sent_bytes))
    with pytest.raises(MigrationError, match="stays stopped here"):
        overdue(clock, HandOver(stopped(), clock, "tcp:h:1", S, None), progress)


def overdue(clock: VirtualClock, bounded: HandOver, progress: Progress = ALL_SENT) -> str | None:
    assert bounded.observe(progress) is None
    clock.sleep_ns(2 * S)
    return bounded.observe(progress)


def test_a_vm_whose_process_is_not_seen_here_is_in_doubt(clock: VirtualClock) -> None:
    with pytest.raises(MigrationError, match="stays stopped here"):
        overdue(clock, HandOver(stopped(), clock, "tcp:h:1", S, None))


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_the_kernel_counts_what_has_come_back(family: socket.AddressFamily, host: str) -> None:
    with socket.create_server((host, 0), family=family) as server:
        port = server.getsockname()[1]
        uri = f"tcp:[{host}]:{port}" if family == socket.AF_INET6 else f"tcp:{host}:{port}"
        with socket.create_connection((host, port)) as ours, server.accept()[0] as theirs:
            assert returned_bytes(os.getpid(), uri) == 0
            theirs.sendall(b"pong" * 3)
            assert ours.recv(12, socket.MSG_WAITALL) == b"pong" * 3
            assert returned_bytes(os.getpid(), uri) == 12
            assert returned_bytes(os.getpid(), f"tcp:{host}:{port ^ 1}") is None


@pytest.mark.parametrize(("pid", "uri"), [(1 << 22, "tcp:h:1"), (1, "unix:/x"), (1, "tcp:h")])
def test_what_the_kernel_cannot_tell_is_unknown(pid: int, uri: str) -> None:
    assert returned_bytes(pid, uri) is None
