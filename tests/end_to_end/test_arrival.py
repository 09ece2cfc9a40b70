"""What becomes of a guest of real QEMU whose destination refuses it, is no VM, or never answers; and what is told."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from bench.chaos.faults import Cut, Direction, Place
from bench.chaos.proxy import Proxy

from tests.support.qemu import stress_command
from tests.support.wait import wait_until
from vmferry.cancel import CancelToken
from vmferry.client.qmp_client import QmpClient
from vmferry.clock import MonotonicClock
from vmferry.control.migrate import carry_out
from vmferry.control.migration_order import Order
from vmferry.control.ports import Ports
from vmferry.errors import MonitorError
from vmferry.perf.lab import Lab, VmProcess
from vmferry.transport.uri import UnixAddress

pytestmark = [pytest.mark.kvm, pytest.mark.qemu]
AT_ONCE = ("--downtime-limit", "2s")


class Source:
    """A busy QEMU, and the command that migrates it."""

    def __init__(self, lab: Lab, *options: str) -> None:
        self.directory = lab.directory
        self.address = f"unix:{lab.directory / 'drive'}"
        self.vm = lab.start([*stress_command(drive_socket=self.address.removeprefix("unix:")), *options], "source")
        self.vm.wait_for_passes(1)
        self.before = self.settings()

    def settings(self) -> list[object]:
        return [
            self.vm.monitor.execute(question) for question in ("query-migrate-parameters", "query-migrate-capabilities")
        ]

    def driver(self, *words: str, program: Sequence[str] = ("-m", "vmferry")) -> subprocess.Popen[str]:
        command = [sys.executable, *program, "migrate", "--qmp", self.address, "--json", *words]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def migrate(self, *words: str) -> tuple[int, dict[str, object], str]:
        with self.driver(*words) as driver:
            out, errors = driver.communicate()
        return driver.returncode, json.loads(out or "{}"), errors

    def runs_on(self) -> bool:
        return bool(self.vm.monitor.execute("query-status")["running"])


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


def start_destination(lab: Lab, uri: str, *options: str) -> VmProcess:
    return lab.start([*stress_command(), "-incoming", uri, *options], "destination")


def test_a_guest_that_the_destination_refuses_runs_on_and_that_is_told(lab: Lab) -> None:
    source, uri = Source(lab, "-device", "virtio-rng-pci"), f"unix:{lab.directory / 'in'}"
    start_destination(lab, uri)
    code, result, _ = source.migrate(uri, *AT_ONCE)
    assert (code, result["status"], result["arrival"]) == (1, "failed", None)
    assert "destination's stderr or log" in str(result["error"])
    wait_until(source.runs_on)
    assert source.settings() == source.before


def test_a_guest_that_has_arrived_is_verified_without_any_help_of_the_destination(lab: Lab) -> None:
    source, uri = Source(lab), f"unix:{lab.directory / 'in'}"
    destination = start_destination(lab, uri)
    code, result, errors = source.migrate(uri, *AT_ONCE)
    assert (code, result["arrival"], result["arrival_by"]) == (0, "verified", "return-path"), errors
    assert destination.monitor.execute("query-status")["running"]
    assert source.settings() == source.before


def test_a_peer_that_takes_all_and_says_nothing_holds_no_guest(lab: Lab) -> None:
    source = Source(lab)
    with black_hole() as port:
        code, result, _ = source.migrate(f"tcp:127.0.0.1:{port}", *AT_ONCE, "--hand-over-timeout", "1s")
        assert (code, result["status"]) == (1, "cancelled")
        assert "is taken for no VM" in str(result["error"])
        assert "look whether the destination runs too" in str(result["error"])
        wait_until(source.runs_on)
        assert source.settings() == source.before


def test_a_link_that_stands_still_holds_no_guest_and_no_monitor(lab: Lab) -> None:
    """QEMU sends all of the guest in the last stage, if it gets there, where it holds the lock of its monitor."""
    source = Source(lab)
    at_once = {"max-bandwidth": 200 << 20, "downtime-limit": 2000}
    with black_hole(30 << 20) as port, QmpClient.connect(source.address, timeout_s=3) as monitor:
        order = Order(uri=f"tcp:127.0.0.1:{port}", parameters=at_once)
        ports = Ports(monitor, MonotonicClock(), CancelToken(), lambda text: None, lambda text: None)
        result = carry_out(ports, order, lambda progress: None)
    assert result.last.status in ("failed", "cancelled")
    ends = ("its connection was broken", "next to nothing was sent", "is taken for no VM")
    assert any(end in (result.last.error or "") for end in ends), result.last.error
    wait_until(source.runs_on)
    assert source.settings() == source.before


def test_where_nothing_can_come_back_the_arrival_is_not_verified(lab: Lab) -> None:
    code, result, _ = Source(lab).migrate("exec:cat >/dev/null", *AT_ONCE)
    assert (code, result["status"], result["arrival"]) == (3, "completed", "unverified")


def test_the_destination_can_be_asked_itself(lab: Lab) -> None:
    source, fifo = Source(lab), lab.directory / "fifo"
    os.mkfifo(fifo)
    destination = start_destination(lab, f"exec:cat {fifo}")
    asked = by_a_monitor_of_its_own(lab, destination)
    code, result, errors = source.migrate(f"exec:cat >{fifo}", *AT_ONCE, *asked)
    assert (code, result["arrival"], result["arrival_by"]) == (0, "verified", "destination"), errors


LAST_WORD = Place(Direction.BACK, 11)
"""Within the last eight bytes that QEMU's destination sends, by when it has loaded the guest."""


@pytest.mark.parametrize("destination_is_asked", [True, False])
def test_the_loss_of_the_destinations_last_word_leaves_one_running_copy_or_is_told(
    lab: Lab, destination_is_asked: bool
) -> None:
    source, incoming = Source(lab), lab.directory / "in"
    destination = start_destination(lab, f"unix:{incoming}")
    asked = by_a_monitor_of_its_own(lab, destination) if destination_is_asked else ()
    with Proxy(
        UnixAddress(str(lab.directory / "proxy")), UnixAddress(str(incoming)), Cut(LAST_WORD, half=False), print
    ) as proxy:
        code, result, errors = source.migrate(str(proxy.address), *AT_ONCE, *asked)
        assert proxy.has_fired
    assert (code, result["status"]) == (1, "failed")
    wait_until(source.runs_on)
    there = QmpClient.connect(f"unix:{lab.directory / 'destination.qmp'}") if asked else destination.monitor
    with there:
        if destination_is_asked:
            assert there.execute("query-status")["status"] == "paused"
            assert "the destination was not let run" in str(result["error"])
            assert "keeps it paused" in errors
        else:
            assert there.execute("query-status")["running"], "QEMU has mended it: this may go"
            assert "look whether the destination runs too before anything else" in str(result["error"])
    assert source.settings() == source.before


def by_a_monitor_of_its_own(lab: Lab, destination: VmProcess) -> tuple[str, ...]:
    destination.monitor.close()  # QEMU serves one client
    return ("--destination-qmp", f"unix:{lab.directory / 'destination.qmp'}")


@pytest.mark.parametrize(
    ("options", "pauses_first", "state"), [((), False, "running"), ((), True, "paused"), (("-S",), False, "paused")]
)
def test_a_destination_that_is_held_lets_the_guest_run_as_it_ran_before(
    lab: Lab, options: tuple[str, ...], pauses_first: bool, state: str
) -> None:
    source, uri = Source(lab), f"unix:{lab.directory / 'in'}"
    destination = start_destination(lab, uri, *options)
    if pauses_first:
        source.vm.monitor.execute("stop")
    code, result, errors = source.migrate(uri, *AT_ONCE, *by_a_monitor_of_its_own(lab, destination))
    assert (code, result["arrival"], result["arrival_by"]) == (0, "verified", "destination"), errors
    with QmpClient.connect(f"unix:{lab.directory / 'destination.qmp'}") as there:
        assert there.execute("query-status")["status"] == state
    assert source.settings() == source.before


def test_a_guest_whose_driver_was_killed_is_let_run_by_the_guard(lab: Lab) -> None:
    source, uri = Source(lab), f"unix:{lab.directory / 'in'}"
    destination = start_destination(lab, uri)
    asked = by_a_monitor_of_its_own(lab, destination)
    with source.driver(uri, "--max-bandwidth", "20MiB/s", "--downtime-limit", "1ms", *asked) as driver:
        wait_until(lambda: source.vm.monitor.execute("query-migrate").get("status") == "active")
        driver.kill()
        driver.communicate()
    source.vm.monitor.execute("migrate-set-parameters", {"downtime-limit": 2000, "max-bandwidth": 1 << 30})
    wait_until(lambda: source.vm.monitor.execute("query-migrate")["status"] == "completed")
    address = f"unix:{lab.directory / 'destination.qmp'}"
    wait_until(lambda: state_at(address) == "running")


def state_at(address: str) -> str:
    """The guard may have the monitor as yet."""
    try:
        with QmpClient.connect(address) as there:
            return str(there.execute("query-status")["status"])
    except MonitorError:
        return ""


IMPATIENT = """
from vmferry.cli.main import main
from vmferry.control import following

following.CANCEL_TIMEOUT_NS = 10**9
main()
"""


def test_a_migration_that_is_cancelled_while_it_connects_leaves_all_as_it_was(lab: Lab) -> None:
    """QEMU 7.2 connects on, and refuses to have capabilities put back meanwhile."""
    source = Source(lab)
    source.vm.monitor.execute(
        "migrate-set-capabilities", {"capabilities": [{"capability": "auto-converge", "state": True}]}
    )
    source.vm.monitor.execute("stop")  # whether the guest runs plays no part in it
    before = source.settings()
    with full_backlog(lab.directory / "full") as uri:
        driver = source.driver(uri, "--no-auto-converge", "--max-bandwidth", "64MiB/s", program=("-c", IMPATIENT))
        wait_until(lambda: source.vm.monitor.execute("query-migrate").get("status") == "setup")
        driver.send_signal(signal.SIGINT)
        out, errors = driver.communicate()
        result = json.loads(out)
        assert driver.returncode == 130
        if result["status"] == "cancelling":
            assert any("auto-converge" in command for command in result["not_put_back"])
            assert "auto-converge is not put back" in errors
    wait_until(lambda: source.settings() == before, 90)


@contextmanager
def black_hole(limit_bytes: int = 1 << 62) -> Iterator[int]:
    """Take what comes, as much as that, and hold the connection; yields the port."""
    connections: list[socket.socket] = []

    def take(server: socket.socket) -> None:
        with suppress(OSError):
            connections.append(server.accept()[0])
            taken = 0
            while taken < limit_bytes and (data := connections[0].recv(1 << 16)):
                taken += len(data)

    with socket.create_server(("127.0.0.1", 0)) as server:
        taker = threading.Thread(target=take, args=(server,))
        taker.start()
        try:
            yield server.getsockname()[1]
        finally:
            for end in (server, *connections):  # so that nothing is waited for any more
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            taker.join()
            for connection in connections:
                connection.close()


@contextmanager
def full_backlog(path: Path) -> Iterator[str]:
    """Let nobody connect, nor be refused, as a host that is silent; yields the uri."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(0)
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for one in waiting:
            one.setblocking(False)
            with suppress(BlockingIOError):
                one.connect(str(path))
        try:
            yield f"unix:{path}"
        finally:
            for one in waiting:
                one.close()
