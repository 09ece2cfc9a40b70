"""Real VMs in real processes: they move, and when they cannot, the source runs on."""

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from bench.chaos.faults import Cut, Direction, Place
from bench.chaos.proxy import Proxy
from bench.page_path import resident_mib

from tests.support.wait import wait_until
from vmferry.cancel import CancelToken
from vmferry.clock import MonotonicClock
from vmferry.control.asking.progress import Progress
from vmferry.control.asking.result import Result
from vmferry.control.drive import drive, set_up
from vmferry.convergence.variants import VARIANTS
from vmferry.errors import CommandError, HostError
from vmferry.memory.layout import GuestLayout, RamBlock
from vmferry.memory.ranges import EMPTY, PageRuns
from vmferry.perf.lab import VM_COMMAND, Lab, VmProcess
from vmferry.transport.sockets import connect
from vmferry.transport.uri import parse_uri
from vmferry.wire.encoder import Encoder
from vmferry.wire.format import FrameType
from vmferry.wire.messages import Hello, Pages

pytestmark = pytest.mark.kvm

VM = ["--memory", "64M", "--cpus", "2"]
BOOT = ["--append", "ramsize=16"]
FAST = {
    "max-bandwidth": 32 << 20,
    "downtime-limit": 50,
    "x-evaluation-period": 50,
    "x-watch-interval": 50,
    "x-background-sync-interval": 250,
    "verify": True,
}


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


def start_pair(lab: Lab) -> tuple[VmProcess, VmProcess, str]:
    source, destination, uri = lab.start_pair(VM, BOOT)
    source.wait_for_passes(1)
    return source, destination, uri


def widen(vm: VmProcess, channels: int) -> None:
    """Let it migrate over that many page channels; 0: over one connection."""
    if channels:
        vm.monitor.execute("migrate-set-parameters", {"multifd-channels": channels})
        multifd = {"capability": "multifd", "state": True}
        vm.monitor.execute("migrate-set-capabilities", {"capabilities": [multifd]})


def ignore(progress: Progress) -> None:
    pass


def migrate(
    source: VmProcess, uri: str, variant: str = "background-sync+responsive-throttle", **changes: object
) -> Result:
    settings = {**VARIANTS[variant].settings, **FAST, **{name.replace("_", "-"): v for name, v in changes.items()}}
    set_up(source.monitor, settings, auto_converge=True)
    return drive(source.monitor, uri, ignore, MonotonicClock())


def wait_until_unthrottled(vm: VmProcess) -> None:
    """Wait until every vCPU runs, or waits for one of the host's processors, whoever else wants those."""

    def wants_all_of_its_time() -> bool:
        start_ns, start = time.monotonic_ns(), vm.scheduled_vcpus()
        time.sleep(0.5)
        end, passed_ns = vm.scheduled_vcpus(), time.monotonic_ns() - start_ns
        return all(b.wanted_ns - a.wanted_ns > 0.7 * passed_ns for a, b in zip(start, end, strict=True))

    wait_until(wants_all_of_its_time)


def assert_runs_on_unthrottled(source: VmProcess) -> None:
    assert source.monitor.execute("query-status") == {"running": True, "status": "running"}
    assert "cpu-throttle-percentage" not in source.monitor.execute("query-migrate")
    wait_until_unthrottled(source)
    source.check_memory()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_busy_guest_arrives_intact_and_goes_on_at_full_speed(lab: Lab, variant: str) -> None:
    source, destination, uri = start_pair(lab)
    written_before = source.progress().written_pages
    result = migrate(source, uri, variant)
    assert result.completed, result
    assert source.monitor.execute("query-status") == {"running": False, "status": "postmigrate"}
    assert destination.monitor.execute("query-status") == {"running": True, "status": "running"}
    assert destination.check_memory().written_pages > written_before
    wait_until_unthrottled(destination)
    assert set(result.last.downtime_parts_ms or {}) == {"stop", "last-sync", "ram", "state", "hand-over"}
    with pytest.raises(CommandError, match="handed over"):
        source.monitor.execute("cont")
    with pytest.raises(CommandError, match="paused due to previous migration"):
        source.monitor.execute("migrate", {"uri": uri})


def test_a_guest_that_changes_a_word_of_each_page_moves_by_these_words(lab: Lab) -> None:
    source, destination, uri = start_pair(lab)
    xbzrle = {"capability": "xbzrle", "state": True}
    source.monitor.execute("migrate-set-capabilities", {"capabilities": [xbzrle]})
    written_before = source.progress().written_pages
    assert migrate(source, uri).completed
    assert destination.check_memory().written_pages > written_before
    answer = source.monitor.execute("query-migrate")
    assert answer["verified"]
    cache, ram = answer["xbzrle-cache"], answer["ram"]
    assert cache["pages"] > 2048, "half of the pages at least went as what had changed"
    assert cache["bytes"] < 64 * cache["pages"]
    assert cache["overflow"] == 0
    as_whole_pages = ram["normal-bytes"] + cache["pages"] * ram["page-size"]
    assert ram["transferred"] < as_whole_pages - 2048 * 4000
    described = source.monitor.execute("human-monitor-command", {"command-line": "info migrate -a"})
    assert f"XBZRLE: size={64 << 20}, transferred={cache['bytes']}, pages={cache['pages']}" in described


def test_what_a_guest_never_touched_is_neither_sent_nor_allocated(lab: Lab) -> None:
    source, destination, uri = lab.start_pair(["--memory", "16G"], BOOT)
    source.wait_for_passes(1)
    source.monitor.execute("stop")
    assert migrate(source, uri, max_bandwidth=0).completed
    assert source.monitor.execute("query-migrate")["ram"]["transferred"] < 32 << 20
    for vm in (source, destination):
        assert resident_mib(vm) < 250, vm.name


def test_a_guest_whose_pages_shrink_moves_by_what_they_shrink_to(lab: Lab) -> None:
    source, destination, uri = start_pair(lab)
    written_before = source.progress().written_pages
    assert migrate(source, uri, max_bandwidth=0, multifd_compression="zstd").completed
    assert destination.check_memory().written_pages >= written_before
    ram = source.monitor.execute("query-migrate")["ram"]
    assert ram["transferred"] < ram["normal-bytes"] / 2


def test_a_guest_can_go_there_and_back_again(lab: Lab) -> None:
    first, second, uri = start_pair(lab)
    assert migrate(first, uri).completed
    back = f"unix:{lab.directory / 'back.sock'}"
    third = lab.start([*VM_COMMAND, *VM, "--incoming", "defer"], "third")
    third.monitor.execute("migrate-incoming", {"uri": back})
    assert migrate(second, back).completed
    third.check_memory()


def test_a_paused_guest_stays_paused(lab: Lab) -> None:
    source, destination, uri = start_pair(lab)
    source.monitor.execute("stop")
    assert migrate(source, uri).completed
    wait_until(lambda: destination.monitor.execute("query-status")["status"] != "inmigrate")
    assert destination.monitor.execute("query-status") == {"running": False, "status": "paused"}
    destination.monitor.execute("cont")
    destination.check_memory()


def test_cont_may_come_before_the_guest(lab: Lab) -> None:
    source, destination, uri = start_pair(lab)
    source.monitor.execute("stop")
    destination.monitor.execute("cont")
    assert destination.monitor.execute("query-status")["status"] == "inmigrate"
    assert migrate(source, uri).completed
    destination.monitor.wait_event("RESUME", 60)
    assert destination.monitor.execute("query-status") == {"running": True, "status": "running"}


@pytest.mark.parametrize("told", ["on the command line", "over QMP"])
def test_a_guest_may_be_told_to_wait_on_arrival(lab: Lab, told: str) -> None:
    uri = f"unix:{lab.directory / 'waiting.sock'}"
    paused = ["--paused"] if told == "on the command line" else []
    destination = lab.start([*VM_COMMAND, *VM, *paused, "--incoming", uri], "destination")
    if not paused:
        destination.monitor.execute("stop")
    source = lab.start([*VM_COMMAND, *VM, *BOOT], "source")
    source.wait_for_passes(1)
    assert migrate(source, uri).completed
    wait_until(lambda: destination.monitor.execute("query-status")["status"] != "inmigrate")
    assert destination.monitor.execute("query-status") == {"running": False, "status": "paused"}
    written = destination.progress().written_pages
    assert destination.progress().written_pages == written
    destination.monitor.execute("cont")
    destination.wait_for_passes(destination.progress().passes + 1)


def test_events_tell_the_course(lab: Lab) -> None:
    source, destination, uri = start_pair(lab)
    for vm in (source, destination):
        vm.monitor.execute("migrate-set-capabilities", {"capabilities": [{"capability": "events", "state": True}]})
    assert migrate(source, uri).completed
    source.monitor.execute("query-status")
    destination.monitor.wait_event("RESUME", 60)
    events = [(event.name, event.data) for event in source.monitor.take_events()]
    statuses = [data["status"] for name, data in events if name == "MIGRATION"]
    assert statuses == ["setup", "active", "device", "completed"]
    passes = [data["pass"] for name, data in events if name == "MIGRATION_PASS"]
    assert passes == list(range(1, len(passes) + 1))
    assert [name for name, _ in events].count("STOP") == 1


EASY_CHANGES: dict[str, Any] = {"max_bandwidth": 0, "downtime_limit": 2000}
EASY = FAST | {"max-bandwidth": 0, "downtime-limit": 2000}


def begin_and_wait_before_switchover(source: VmProcess, uri: str, settings: Mapping[str, object]) -> None:
    states = [{"capability": name, "state": True} for name in ("events", "pause-before-switchover")]
    source.monitor.execute("migrate-set-capabilities", {"capabilities": states})
    set_up(source.monitor, settings, auto_converge=True)
    source.monitor.execute("migrate", {"uri": uri})
    while source.monitor.wait_event("MIGRATION", 60).data != {"status": "pre-switchover"}:
        pass
    assert source.monitor.execute("query-status") == {"running": False, "status": "finish-migrate"}
    with pytest.raises(CommandError, match="Migration is not finalized yet"):
        source.monitor.execute("cont")
    written = source.progress()
    assert source.progress() == written


def test_a_powerdown_is_told_and_nothing_else_happens(lab: Lab) -> None:
    vm = lab.start([*VM_COMMAND, *VM], "vm")
    vm.monitor.execute("system_powerdown")
    assert vm.monitor.wait_event("POWERDOWN", 60).data == {}
    assert vm.monitor.execute("query-status")["running"]


def test_a_migration_can_wait_before_the_switchover(lab: Lab) -> None:
    source, destination, uri = start_pair(lab)
    begin_and_wait_before_switchover(source, uri, {**FAST, **VARIANTS["background-sync+responsive-throttle"].settings})
    assert "cpu-throttle-percentage" in source.monitor.execute("query-migrate")
    with pytest.raises(CommandError, match="Migration not in expected state: pre-switchover"):
        source.monitor.execute("migrate-continue", {"state": "device"})
    source.monitor.execute("migrate-continue", {"state": "pre-switchover"})
    destination.monitor.wait_event("RESUME", 60)
    destination.check_memory()
    statuses = [source.monitor.wait_event("MIGRATION", 60).data["status"] for _ in range(2)]
    assert statuses == ["device", "completed"]


def test_a_waiting_migration_can_be_cancelled(lab: Lab) -> None:
    source, _, uri = start_pair(lab)
    begin_and_wait_before_switchover(source, uri, EASY)
    source.monitor.execute("migrate_cancel")
    source.monitor.wait_event("RESUME", 60)
    wait_until(lambda: source.monitor.execute("query-migrate")["status"] == "cancelled")
    assert_runs_on_unthrottled(source)


def test_a_destination_that_dies_before_the_switchover_is_noticed(lab: Lab) -> None:
    source, destination, uri = start_pair(lab)
    begin_and_wait_before_switchover(source, uri, EASY)
    destination.process.kill()
    source.monitor.wait_event("RESUME", 60)
    wait_until(lambda: source.monitor.execute("query-migrate")["status"] == "failed")
    assert_runs_on_unthrottled(source)


def test_trace_events_are_printed_as_qemu_prints_them(lab: Lab) -> None:
    options = ["--trace", "migrate_set_state", "--trace", "migration_bitmap_*"]
    source, _, uri = lab.start_pair(VM, [*BOOT, *options])
    source.wait_for_passes(1)
    source.monitor.execute("trace-event-set-state", {"name": "migration_switchover", "enable": True})
    assert migrate(source, uri, **EASY_CHANGES).completed
    source.close()
    lines = [line for line in source.errors().splitlines() if not line.startswith("vmferry: ")]
    head = re.compile(rf"{source.process.pid}@[0-9]+\.[0-9]{{6}}:")
    texts = [head.sub("", line, count=1) for line in lines if head.match(line)]
    states = [text for text in texts if text.startswith("migrate_set_state")]
    assert states == [f"migrate_set_state new state {state}" for state in ("setup", "active", "device", "completed")]
    assert any(text.startswith("migration_bitmap_sync_end dirty_pages ") for text in texts)
    assert any(text.startswith("migration_switchover remaining ") for text in texts)
    assert len(texts) == len(lines)


def test_cancelling_leaves_the_guest_running_here(lab: Lab) -> None:
    source, _, uri = start_pair(lab)
    polls, cancel = 0, CancelToken()

    def watch(progress: Progress) -> None:
        nonlocal polls
        polls += 1
        if polls == 10:
            cancel.set("enough")

    set_up(source.monitor, FAST | {"max-bandwidth": 1 << 20}, auto_converge=True)
    assert drive(source.monitor, uri, watch, MonotonicClock(), cancel).last.status == "cancelled"
    assert_runs_on_unthrottled(source)


@pytest.mark.parametrize("channels", [0, 3])
def test_a_destination_that_dies_costs_nothing(lab: Lab, channels: int) -> None:
    source, destination, uri = start_pair(lab)
    widen(source, channels)

    def kill(progress: Progress) -> None:
        if (progress.iteration_count or 0) >= 2 and progress.throttle_percent:
            destination.process.kill()

    set_up(source.monitor, FAST | {"max-bandwidth": 8 << 20}, auto_converge=True)
    result = drive(source.monitor, uri, kill, MonotonicClock())
    assert result.last.status == "failed"
    assert result.last.error
    assert "connection" in result.last.error
    assert_runs_on_unthrottled(source)
    again = f"unix:{lab.directory / 'again.sock'}"
    other = lab.start([*VM_COMMAND, *VM, "--incoming", again], "other")
    assert migrate(source, again).completed, "a failed migration can be tried again"
    other.check_memory()


@pytest.mark.parametrize("channels", [0, 3])
def test_a_source_that_dies_leaves_the_destination_waiting_with_fresh_memory(lab: Lab, channels: int) -> None:
    source, destination, uri = start_pair(lab)
    widen(source, channels)
    set_up(source.monitor, FAST | {"max-bandwidth": 1 << 20}, auto_converge=True)
    source.monitor.execute("migrate", {"uri": uri})
    wait_until(lambda: destination.monitor.execute("query-migrate").get("status") == "active")
    source.process.kill()
    wait_until(lambda: "incoming migration failed: " in destination.errors())
    assert destination.monitor.execute("query-migrate")["status"] == "setup"
    dump = lab.directory / "memory"
    destination.monitor.execute("pmemsave", {"val": 0, "size": 64 << 20, "filename": str(dump)})
    assert dump.read_bytes() == bytes(64 << 20)
    other = lab.start([*VM_COMMAND, *VM, *BOOT], "other")
    other.wait_for_passes(1)
    assert migrate(other, uri).completed
    destination.check_memory()
    assert "Traceback" not in destination.errors()


@pytest.mark.parametrize(
    ("other_vm", "complaint"),
    [
        (
            ["--memory", "65M", "--cpus", "2"],
            "memory size differs: the source has 64 MiB (67108864 bytes), the destination has 65 MiB (68157440 bytes)",
        ),
        (["--memory", "64M", "--cpus", "3"], "number of vCPUs differs: the source has 2, the destination has 3"),
    ],
)
def test_another_kind_of_guest_is_refused_and_the_destination_waits_on(
    lab: Lab, other_vm: list[str], complaint: str
) -> None:
    uri = f"unix:{lab.directory / 'other.sock'}"
    other = lab.start([*VM_COMMAND, *other_vm, "--incoming", uri], "other")
    source = lab.start([*VM_COMMAND, *VM, *BOOT], "source")
    result = migrate(source, uri)
    assert result.last.status == "failed"
    assert other.process.poll() is None
    assert other.monitor.execute("query-status")["status"] == "inmigrate"
    assert (
        result.last.error == "the destination refused: this destination does not take this guest; its own log says why"
    )
    wait_until(lambda: complaint in other.errors())
    assert Path(uri.removeprefix("unix:")).exists()
    other.close()
    assert not Path(uri.removeprefix("unix:")).exists()
    assert source.monitor.execute("query-status")["running"]


def test_garbage_at_the_destinations_port_is_turned_away(lab: Lab) -> None:
    source, destination, uri = start_pair(lab)
    greeting = Encoder().encode(Hello(GuestLayout((RamBlock("pc.ram", 16384),), 2)))
    uninvited = Encoder().encode(Pages(PageRuns.of([(15000, 100)]), EMPTY)) + b"\xee" * 409600
    for garbage in (b"GET / HTTP/1.1\r\n\r\n" * 10, b"", bytes(100), b"\xff" * 5000, uninvited, greeting):
        with connect(parse_uri(uri), lambda: None) as stranger:
            stranger.settimeout(60)
            stranger.sendall(garbage)
            with suppress(OSError):  # turned away already
                stranger.shutdown(socket.SHUT_WR)
            with suppress(ConnectionError):
                while stranger.recv(4096):
                    pass
    wait_until(lambda: destination.errors().count("turned a connection away") == 6)
    assert "Traceback" not in destination.errors()
    assert migrate(source, uri).completed
    destination.check_memory()


def test_a_source_that_comes_behind_a_silent_connection_is_served(lab: Lab) -> None:
    source, destination, uri = start_pair(lab)
    with connect(parse_uri(uri), lambda: None):
        assert migrate(source, uri).completed
    destination.check_memory()


def test_a_guest_that_is_stopped_during_the_hand_over_stays_stopped(lab: Lab) -> None:
    source, _, uri = start_pair(lab)
    begin_and_wait_before_switchover(source, uri, EASY)
    source.monitor.execute("stop")
    source.monitor.execute("migrate_cancel")
    while source.monitor.wait_event("MIGRATION", 60).data != {"status": "cancelled"}:
        pass
    assert source.monitor.execute("query-status") == {"running": False, "status": "paused"}


@pytest.mark.parametrize("side", ["source", "destination"])
def test_a_journal_that_cannot_be_written_ends_no_migration(lab: Lab, side: str) -> None:
    uri = f"unix:{lab.directory / 'in.sock'}"
    journal = ["--journal", "/dev/full"]
    destination = lab.start([*VM_COMMAND, *VM, "--incoming", uri, *(journal if side == "destination" else [])], "there")
    source = lab.start([*VM_COMMAND, *VM, *BOOT, *(journal if side == "source" else [])], "here")
    source.wait_for_passes(1)
    assert migrate(source, uri).completed
    destination.check_memory()
    recorder = source if side == "source" else destination
    wait_until(lambda: "cannot write the journal" in recorder.errors())
    assert recorder.errors().count("cannot write the journal '/dev/full': No space left on device") == 1
    assert "Traceback" not in recorder.errors()


def test_a_driver_that_cannot_write_its_journal_drives_on(lab: Lab) -> None:
    _, destination, uri = start_pair(lab)
    words = ["migrate", "--qmp", f"unix:{lab.directory / 'source.qmp'}", "--journal", "/dev/full", uri]
    driver = subprocess.run([sys.executable, "-m", "vmferry", *words], capture_output=True, text=True)
    assert driver.returncode == 0, driver.stderr
    assert driver.stderr.count("cannot write the journal '/dev/full': No space left on device") == 1
    destination.check_memory()


def test_nobody_listens(lab: Lab) -> None:
    source = lab.start([*VM_COMMAND, *VM, *BOOT], "source")
    source.wait_for_passes(1)
    result = migrate(source, "tcp:127.0.0.1:1")
    assert result.last.status == "failed"
    assert "cannot connect to tcp:127.0.0.1:1: Connection refused" in (result.last.error or "")
    assert source.monitor.execute("query-status")["running"]


def test_a_vm_that_cannot_start_says_why(lab: Lab) -> None:
    for options, complaint in (
        (["--memory", "1M"], "give it a multiple of 1 MiB"),
        (["--kernel", "/etc/hostname"], "/etc/hostname: the kernel is not a 64-bit little-endian ELF file"),
        (["--append", "x" * 5000], "command line has 5007 bytes"),
        (["--kernel", "/nowhere"], "cannot read the kernel '/nowhere': No such file or directory"),
        (["--serial", "tape"], "'tape' is no place for serial output"),
        (["--incoming", "tcp:nohost"], "'tcp:nohost' is not an address"),
    ):
        with pytest.raises(HostError, match="did not start") as caught:
            lab.start([*VM_COMMAND, *options], "broken")
        assert complaint in str(caught.value)
        assert "Traceback" not in str(caught.value)


def doubted(lab: Lab) -> tuple[VmProcess, VmProcess]:
    """Source and destination of a guest that has been taken over, which the source never learns."""
    source, destination, uri = start_pair(lab)
    lost = Cut(Place(Direction.BACK, 0, FrameType.TAKEN_OVER.name), half=False)
    with Proxy(parse_uri("tcp:127.0.0.1:0"), parse_uri(uri), lost, lambda fault: None) as proxy:
        assert migrate(source, str(proxy.address)).last.status == "in-doubt"
    return source, destination


def test_a_guest_in_doubt_runs_once_whoever_says_cont(lab: Lab) -> None:
    source, destination = doubted(lab)
    wait_until(lambda: destination.monitor.execute("query-status") == {"running": True, "status": "running"})
    assert source.monitor.execute("query-status") == {"running": False, "status": "in-doubt"}
    migration = source.monitor.execute("query-migrate")
    assert migration["status"] == "in-doubt"
    assert "look there with query-status" in migration["error-desc"]
    for command, arguments in (("cont", {}), ("cont", {"force": False}), ("migrate", {"uri": "tcp:127.0.0.1:1"})):
        with pytest.raises(CommandError, match="the hand-over is in doubt: the guest may run at the destination"):
            source.monitor.execute(command, arguments)
    said = source.monitor.execute("human-monitor-command", {"command-line": "cont"})
    assert said.startswith("Error: the hand-over is in doubt")
    source.monitor.execute("migrate_cancel")
    source.monitor.execute("stop")
    assert source.monitor.execute("query-status") == {"running": False, "status": "in-doubt"}


@pytest.mark.parametrize("human", [False, True])
def test_a_guest_in_doubt_is_taken_back_by_force(lab: Lab, human: bool) -> None:
    source, destination = doubted(lab)
    destination.process.kill()
    if human:
        assert source.monitor.execute("human-monitor-command", {"command-line": "cont -f"}) == ""
    else:
        source.monitor.execute("cont", {"force": True})
    assert source.monitor.execute("query-status") == {"running": True, "status": "running"}
    migration = source.monitor.execute("query-migrate")
    assert migration["status"] == "failed"
    assert migration["error-desc"].endswith("taken back by force")
    source.monitor.execute("stop")
    source.monitor.execute("cont")
    there = lab.start([*VM_COMMAND, *VM, "--incoming", "tcp:127.0.0.1:0"], "there")
    [address] = there.monitor.execute("query-migrate")["socket-address"]
    assert migrate(source, f"tcp:{address['host']}:{address['port']}").completed
    there.check_memory()
