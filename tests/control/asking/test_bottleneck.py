"""What bounds a migration: the rule, and what the kernel tells of real connections and threads."""

import contextlib
import os
import socket
import threading
from typing import Any

import pytest

from tests.support.fake_qemu import FakeQemu, answer
from tests.support.wait import wait_until
from vmferry.control import load_meter
from vmferry.control.asking.bottleneck import Bottleneck, Limiting, SendingLoad, find_bottleneck
from vmferry.control.asking.progress import Progress
from vmferry.control.host.return_path import Connections, connections
from vmferry.control.load_meter import LoadMeter
from vmferry.simulation.clock import VirtualClock

S = 10**9
MIB = 1 << 20


@pytest.mark.parametrize(
    ("load", "limiting", "advice"),
    [
        ({"limit_bytes_per_s": 100 * MIB, "on_the_way": 1.0}, Limiting.RATE_LIMIT, "raise --max-bandwidth"),
        ({"limit_bytes_per_s": 120 * MIB, "on_the_way": 0.95}, Limiting.LINK, "--channels N with --compression"),
        ({"on_the_way": 0.9, "channels": 2}, Limiting.LINK, "--compression sends less"),
        ({"on_the_way": 0.99, "window_closed": 0.7, "busiest_thread": 0.3}, Limiting.DESTINATION, "taking pages in"),
        ({"busiest_thread": 0.97, "on_the_way": 0.5}, Limiting.SOURCE_CPU, "--channels N spreads"),
        ({"busiest_thread": 0.97, "tls": True}, Limiting.TLS_THREAD, "--channels N spreads"),
        ({"busiest_thread": 0.97, "tls": True, "channels": 4}, Limiting.SOURCE_CPU, "more --channels"),
        ({"syncs": 0.6, "busiest_thread": 1.0}, Limiting.SYNCS, "sync less often"),
    ],
)
def test_what_was_measured_is_named_with_what_helps(load: dict[str, Any], limiting: Limiting, advice: str) -> None:
    bottleneck = find_bottleneck(SendingLoad(duration_ns=S, sent_bytes=100 * MIB, **load))
    assert bottleneck
    assert bottleneck.limiting is limiting
    assert advice in bottleneck.advice


@pytest.mark.parametrize(
    "load", [{}, {"on_the_way": 0.4, "window_closed": 0.1, "busiest_thread": 0.5}, {"limit_bytes_per_s": 10**12}]
)
def test_what_does_not_tell_is_unknown(load: dict[str, Any]) -> None:
    assert find_bottleneck(SendingLoad(duration_ns=S, sent_bytes=100 * MIB, **load)) is None
    assert find_bottleneck(SendingLoad(duration_ns=0, sent_bytes=0, **load)) is None


def test_a_receiver_that_does_not_read_is_seen_as_a_closed_window() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        with socket.create_connection((host, port)) as source, listener.accept()[0]:
            source.setblocking(False)
            before = connections(os.getpid(), f"tcp:{host}:{port}")
            assert before
            assert (before.count, before.window_closed_us) == (1, 0)

            def window_closed() -> bool:
                with contextlib.suppress(BlockingIOError):
                    source.send(bytes(1 << 20))
                now = connections(os.getpid(), f"tcp:{host}:{port}")
                return now is not None and now.window_closed_us > 0 and now.busy_us >= now.window_closed_us

            wait_until(window_closed)


def test_what_a_thread_has_used_grows_while_it_works_and_vcpus_are_left_out() -> None:
    here = threading.get_native_id()
    before = load_meter._cpu_ns(os.getpid(), set())[here]
    wait_until(lambda: load_meter._cpu_ns(os.getpid(), set())[here] > before)
    assert here not in load_meter._cpu_ns(os.getpid(), {here})


def metered(samples: list[Connections | None], monkeypatch: pytest.MonkeyPatch) -> tuple[LoadMeter, list[Bottleneck]]:
    """Look once a second at connections that come to this."""
    told: list[Bottleneck] = []
    clock = VirtualClock()
    qemu = FakeQemu([], max_bandwidth=0)
    monkeypatch.setattr(FakeQemu, "peer_pid", os.getpid())
    monkeypatch.setattr(load_meter, "connections", lambda pid, uri: samples.pop(0))
    monkeypatch.setattr(load_meter, "_cpu_ns", lambda pid, vcpus: {})
    meter = LoadMeter(qemu, "tcp:there:4444", clock, {"max-bandwidth": 0}, told.append)
    while samples:
        meter.look(Progress.from_qmp(answer(transferred=clock.now_ns())))
        clock.sleep_ns(S)
    return meter, told


def test_a_bottleneck_that_lasts_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[Connections | None] = [Connections(1, 0, second * 950_000, 0) for second in range(9)]
    meter, told = metered(counted, monkeypatch)
    assert [bottleneck.limiting for bottleneck in told] == [Limiting.LINK]
    bottleneck = meter.bottleneck()
    assert bottleneck
    assert "95% of the time" in str(bottleneck)


def test_what_syncs_take_is_known_of_a_vm_that_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Bottleneck] = []
    clock = VirtualClock()
    monkeypatch.setattr(load_meter, "_cpu_ns", lambda pid, vcpus: {})
    meter = LoadMeter(FakeQemu([], max_bandwidth=0), "tcp:there:4444", clock, {}, told.append)
    for _ in range(9):
        meter.look(Progress.from_qmp(answer(dirty_sync_time=clock.now_ns() * 0.6 / 1e6)))
        clock.sleep_ns(S)
    assert meter.sync_share() == pytest.approx(0.6)
    assert [str(bottleneck) for bottleneck in told] == ["dirty syncs: they take 60% of the time; sync less often"]


def test_a_limit_that_somebody_raises_is_the_one_that_counts_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, qemu = VirtualClock(), FakeQemu([], max_bandwidth=20 * MIB)
    told: list[Bottleneck] = []
    monkeypatch.setattr(load_meter, "_cpu_ns", lambda pid, vcpus: {})
    meter = LoadMeter(qemu, "tcp:there:4444", clock, {"max-bandwidth": 20 * MIB}, told.append)
    for sent_mib in (0, 20, 40, 60, 80, 100, 240, 380):
        if sent_mib == 100:
            qemu.parameters["max-bandwidth"] = 200 * MIB
        meter.look(Progress.from_qmp(answer(transferred=sent_mib * MIB)))
        clock.sleep_ns(S)
    assert [bottleneck.evidence for bottleneck in told] == ["it sends 20 MiB/s, and the limit is 20 MiB/s"]
    assert meter.bottleneck() is None, "140 MiB/s are not the limit any more, nor was 20 in the mean of all"


@pytest.mark.parametrize("counted", [[None] * 9, [Connections(1 + second % 2, 0, 0, 0) for second in range(8)]])
def test_what_the_kernel_does_not_tell_is_unknown(
    counted: list[Connections | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    meter, told = metered(counted, monkeypatch)
    assert (meter.bottleneck(), told) == (None, [])


def test_a_vm_of_another_host_has_no_bottleneck_that_is_known() -> None:
    clock = VirtualClock()
    meter = LoadMeter(FakeQemu([], max_bandwidth=0), "tcp:there:4444", clock, {}, print)
    for _ in range(9):
        meter.look(Progress.from_qmp(answer(transferred=clock.now_ns())))
        clock.sleep_ns(S)
    assert meter.bottleneck() is None
