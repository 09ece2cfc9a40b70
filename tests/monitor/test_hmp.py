import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.memory_vm import MemoryVm
from vmferry.client.qmp_client import QmpClient
from vmferry.migration.dirty_rate import DirtyRateInfo, DirtyRateMode, DirtyRateStatus
from vmferry.migration.info import MigrationInfo, RamInfo
from vmferry.migration.status import MigrationStatus
from vmferry.monitor.hmp_commands import HMP_COMMANDS, INFO_COMMANDS, run_hmp
from vmferry.monitor.vm_port import RunState

GOLDEN = Path(__file__).parent / "golden"
MIB = 1 << 20


def complaint(text: str, command: str) -> str:
    return f'{text}\nTry "help {command}" for more information\n'


def too_much(title: str, command: str) -> str:
    return complaint(f"{title}: extraneous characters at the end of line", command)


def too_little(command: str) -> str:
    return complaint(f"{command}: string expected", command)


def unsupported(name: str, value: str, expected: str) -> tuple[str, str]:
    return f"migrate_set_parameter {name} {value}", f"Error: Parameter '{name}' expects {expected}\n"


NO_SIZE = (
    "a non-negative number below 2^64\n"
    "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively."
)
PERCENT = "an integer in the range of 1 to 99"

AS_IN_QEMU: list[tuple[str, str]] = [
    ("", ""),
    ("stop", ""),
    ("info status", "VM status: paused\n"),
    ("  cont", ""),
    ("info status", "VM status: running\n"),
    ("s", ""),
    ("c", ""),
    ("foo bar", "unknown command: 'foo'\n"),
    ('"stop"', "unknown command: '\"stop\"'\n"),
    ("info foo", "unknown command: 'info foo'\n"),
    ("help foo", "unknown command: 'foo'\n"),
    ("? info foo", "unknown command: 'info foo'\n"),
    ("cont now", too_much("cont|c", "cont")),
    ("c now", too_much("cont|c", "c")),
    ("info status -a", too_much("status", "info status")),
    ("migrate", too_little("migrate")),
    ("migrate -d", too_little("migrate")),
    ("migrate -x tcp:a", complaint("migrate: unsupported option -x", "migrate")),
    ("migrate -d tcp:127.0.0.1:1 x", too_much("migrate", "migrate")),
    ("system_powerdown", ""),
    ("system_powerdown now", too_much("system_powerdown", "system_powerdown")),
    ("migrate_cancel", ""),
    ("migrate_cancel 1", too_much("migrate_cancel", "migrate_cancel")),
    ("migrate_continue", too_little("migrate_continue")),
    ("migrate_continue foo", "Error: invalid parameter value: foo\n"),
    ("migrate_continue pre-switchover", "Error: Migration not in expected state: none\n"),
    ("migrate_continue none x", too_much("migrate_continue", "migrate_continue")),
    ("migrate_incoming tcp:127.0.0.1:1", "Error: '-incoming' was not specified on the command line\n"),
    ("migrate_set_parameter", too_little("migrate_set_parameter")),
    ("migrate_set_parameter max-bandwidth", too_little("migrate_set_parameter")),
    ('migrate_set_parameter max-bandwidth "10', too_little("migrate_set_parameter")),
    ("migrate_set_parameter max-bandwidth 1 2", too_much("migrate_set_parameter", "migrate_set_parameter")),
    ("migrate_set_parameter foo 1", "Error: invalid parameter value: foo\n"),
    ("migrate_set_parameter max_bandwidth 1", "Error: invalid parameter value: max_bandwidth\n"),
    ("migrate_set_parameter max-bandwidth abc", "Error: Invalid size abc\n"),
    ("migrate_set_parameter max-bandwidth -1", "Error: Invalid size -1\n"),
    ("migrate_set_parameter max-bandwidth 1e3", "Error: Invalid size 1e3\n"),
    ("migrate_set_parameter max-bandwidth 99999999999999999", "Error: Invalid size 99999999999999999\n"),
    ('migrate_set_parameter max-bandwidth ""', "Error: Invalid size \n"),
    ("migrate_set_parameter max-bandwidth 1KiB", "Error: Invalid size 1KiB\n"),
    ("migrate_set_parameter max-bandwidth 1.5B", "Error: Invalid size 1.5B\n"),
    *(unsupported("downtime-limit", text, NO_SIZE) for text in ("1.5", "abc", "-1", "1e3", "1KiB", "1x", "1.5b")),
    unsupported("cpu-throttle-initial", "08", "uint64"),
    unsupported("cpu-throttle-initial", "abc", "uint64"),
    unsupported("cpu-throttle-initial", "1.5", "uint64"),
    unsupported("cpu-throttle-initial", "99999999999999999999", "uint64"),
    unsupported("cpu-throttle-initial", "300", "uint8_t"),
    unsupported("cpu-throttle-initial", "-1", "uint8_t"),
    ("migrate_set_parameter cpu-throttle-initial 0", f"Error: Parameter 'cpu_throttle_initial' expects {PERCENT}\n"),
    ('migrate_set_parameter cpu-throttle-initial "21"', ""),
    unsupported("cpu-throttle-tailslow", "maybe", "'on' or 'off'"),
    unsupported("cpu-throttle-tailslow", "On", "'on' or 'off'"),
    ("migrate_set_parameter cpu-throttle-tailslow  yes", ""),
    (
        "migrate_set_parameter downtime-limit 18446744073709551616",
        "Error: Value '18446744073709551616' is out of range for parameter 'downtime-limit'\n",
    ),
    (
        "migrate_set_parameter multifd-compression zz",
        "Error: Parameter 'multifd-compression' does not accept value 'zz'\n",
    ),
    ('migrate_set_parameter tls-creds ""', ""),
    (
        "migrate_set_parameter block-bitmap-mapping x",
        "Error: The block-bitmap-mapping parameter can only be set through QMP\n",
    ),
    ("calc_dirty_rate", complaint("unexpected end of expression", "calc_dirty_rate")),
    ("calc_dirty_rate x", complaint("invalid char 'x' in expression", "calc_dirty_rate")),
    ("calc_dirty_rate 1k", complaint("invalid char 'k' in expression", "calc_dirty_rate")),
    ("calc_dirty_rate -1", complaint("calc_dirty_rate: unsupported option -1", "calc_dirty_rate")),
    ("calc_dirty_rate 1 512 3", too_much("calc_dirty_rate", "calc_dirty_rate")),
    ("calc_dirty_rate 00", "Incorrect period length specified!\n"),
    ("calc_dirty_rate 0", "Incorrect period length specified!\n"),
    ("calc_dirty_rate -r -b 1", "Either dirty ring or dirty bitmap can be specified!\n"),
    ("trace-event", too_little("trace-event")),
    ("trace-event nosuch on", 'unknown event "nosuch"\n'),
    ("trace-event nosuch* on", ""),
    ("trace-event migration_throttle", complaint("Expected 'on' or 'off'", "trace-event")),
    ("trace-event migration_throt* on", ""),
    ("info trace-events migration_throttle", "migration_throttle : state 1\n"),
    ("trace-event migration_throttle off", ""),
    ("info trace-events migration_throttle", "migration_throttle : state 0\n"),
    ("info trace-events nosuch", 'unknown event "nosuch"\n'),
    ("migrate_set_capability", too_little("migrate_set_capability")),
    ("migrate_set_capability events", complaint("Expected 'on' or 'off'", "migrate_set_capability")),
    ("migrate_set_capability events yes", complaint("Expected 'on' or 'off'", "migrate_set_capability")),
    ("migrate_set_capability foo on", "Error: invalid parameter value: foo\n"),
    ("migrate_set_capability events on x", too_much("migrate_set_capability", "migrate_set_capability")),
    ("migrate_set_capability events off", ""),
    ("migrate -d foo:bar", "Error: Parameter 'uri' expects a valid migration protocol\n"),
]


@pytest.fixture(params=["ours", pytest.param("qemu", marks=pytest.mark.qemu)])
def hmp(request: pytest.FixtureRequest) -> Iterator[Callable[[str], str]]:
    if request.param == "ours":
        vm = MemoryVm()
        yield lambda line: run_hmp(vm, line)
        return
    monitor: QmpClient = request.getfixturevalue("qemu_monitor")
    monitor.execute("cont")
    yield lambda line: monitor.execute("human-monitor-command", {"command-line": line}).replace("\r\n", "\n")


def test_the_human_monitor_answers_as_qemus(hmp: Callable[[str], str]) -> None:
    for line, expected in AS_IN_QEMU:
        assert hmp(line) == expected, line


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("10", 10 * MIB), ("1.5", 3 * MIB // 2), ("10k", 10 << 10), ("2G", 2 << 30), ("0", 0), ("0x10", 16 * MIB),
        ("010", 10 * MIB), ("+5", 5 * MIB), ("1.", MIB), ("1.2k", 1229), ("7b", 7),
    ],
)  # fmt: skip
def test_bandwidths_are_mebibytes_unless_they_say_otherwise(
    hmp: Callable[[str], str], text: str, size_bytes: int
) -> None:
    assert hmp(f"migrate_set_parameter max-bandwidth {text}") == ""
    assert f"max-bandwidth: {size_bytes} bytes/second\n" in hmp("info migrate_parameters")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("downtime-limit", "0x10", 16), ("downtime-limit", "010", 10), ("downtime-limit", "1.5k", 1536),
        ("downtime-limit", "1.0", 1), ("cpu-throttle-initial", "010", 8), ("cpu-throttle-initial", "+5", 5),
    ],
)  # fmt: skip
def test_numbers_are_read_as_qemu_reads_them(hmp: Callable[[str], str], name: str, text: str, value: int) -> None:
    assert hmp(f"migrate_set_parameter {name} {text}") == ""
    assert f"{name}: {value}" in hmp("info migrate_parameters").replace(" ms", "").splitlines()


def test_parameters_and_capabilities_are_printed_as_qemu_prints_them(hmp: Callable[[str], str]) -> None:
    for line in (
        "migrate_set_parameter cpu-throttle-initial 0x10",
        "migrate_set_parameter downtime-limit 1234",
        "migrate_set_parameter cpu-throttle-tailslow on",
        "migrate_set_capability auto-converge on",
    ):
        assert hmp(line) == ""
    parameters, capabilities = hmp("info migrate_parameters"), hmp("info migrate_capabilities")
    for expected in (
        "announce-initial: 50 ms\n", "cpu-throttle-initial: 16\n", "cpu-throttle-tailslow: on\n", "tls-creds: ''\n",
        "downtime-limit: 1234 ms\n", "multifd-compression: none\n", "xbzrle-cache-size: 67108864 bytes\n",
    ):  # fmt: skip
        assert expected in parameters
    assert "auto-converge: on\n" in capabilities
    assert "postcopy-ram: off\n" in capabilities


def test_vcpus_are_listed() -> None:
    assert run_hmp(MemoryVm(), "info cpus") == "* CPU #0: thread_id=4711\n  CPU #1: thread_id=4712\n"


def test_states_that_are_not_running_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    vm = MemoryVm()
    monkeypatch.setattr(vm.run_control, "state", lambda: RunState.POSTMIGRATE)
    assert run_hmp(vm, "info status") == "VM status: paused (postmigrate)\n"


def test_migrating_never_waits_and_says_so() -> None:
    vm = MemoryVm()
    detached = "terminal does not allow synchronous migration, continuing detached\n"
    assert run_hmp(vm, "migrate tcp:host:1") == detached
    assert run_hmp(vm, "migrate -d tcp:host:2") == "Error: There's a migration process in progress\n"
    run_hmp(vm, "migrate_cancel")
    assert run_hmp(vm, "migrate -d tcp:host:2") == ""
    assert vm.migrations.uris == ["tcp:host:1", "tcp:host:2"]


def test_what_has_no_effect_cannot_be_changed() -> None:
    vm = MemoryVm()
    assert run_hmp(vm, "migrate_set_parameter multifd-zlib-level 1") == ""
    assert "only value that is supported" in run_hmp(vm, "migrate_set_parameter multifd-zlib-level 3")
    assert (
        run_hmp(vm, "migrate_set_capability postcopy-ram on") == "Error: Capability 'postcopy-ram' is not supported\n"
    )


def test_there_is_no_post_copy_to_interrupt() -> None:
    """The words are those of QEMU 8.2 and later."""
    only = "migrate-pause is currently only supported during postcopy-active or postcopy-recover state"
    assert run_hmp(MemoryVm(), "migrate_pause") == f"Error: {only}\n"


def test_a_migration_that_waits_goes_on() -> None:
    vm = MemoryVm()
    vm.migrations.set_status(MigrationStatus.PRE_SWITCHOVER)
    assert run_hmp(vm, "migrate_continue device") == "Error: Migration not in expected state: pre-switchover\n"
    assert run_hmp(vm, "migrate_continue pre-switchover") == ""
    assert vm.migrations.latest.status is MigrationStatus.DEVICE


def test_the_dirty_rate_is_measured_and_shown() -> None:
    vm = MemoryVm()
    begun = "Starting dirty rate measurement with period 2 seconds\n[Please use 'info dirty_rate' to check results]\n"
    assert run_hmp(vm, "calc_dirty_rate 0x2 1024") == begun
    assert "Status: measuring\n" in run_hmp(vm, "info dirty_rate")
    assert "Sample Pages: 1024 (per GB)\nPeriod: 2 (sec)\n" in run_hmp(vm, "info dirty_rate")
    assert run_hmp(vm, "calc_dirty_rate 1") == "Error: the dirty rate is already being measured.\n"
    vm.dirty_rate.info = DirtyRateInfo(status=DirtyRateStatus.MEASURED, mode=DirtyRateMode.DIRTY_BITMAP, mib_per_s=145)
    assert run_hmp(vm, "info dirty_rate").endswith("Mode: dirty-bitmap\nDirty rate: 145 (MB/s)\n")
    # QEMU 7.2 without KVM crashes here; the words are those of QEMU 10.
    only_sampling = "Error: sample-pages is used only in page-sampling mode\n"
    assert run_hmp(vm, "calc_dirty_rate -b 1 512") == only_sampling
    assert run_hmp(vm, "calc_dirty_rate 1 100") == "Error: sample-pages is out of range[128, 16384].\n"
    no_ring = "Error: mode dirty-ring is not enabled, use other method instead.\n"
    assert run_hmp(vm, "calc_dirty_rate -r 1") == no_ring
    assert run_hmp(vm, "calc_dirty_rate 61") == "Error: Calculation time is out of range [50ms, 60000ms].\n"


def test_quit_ends_the_vm() -> None:
    vm = MemoryVm()
    assert run_hmp(vm, "q") == ""
    assert vm.has_quit


def test_every_command_has_its_help() -> None:
    for table, prefix in ((HMP_COMMANDS, ""), (INFO_COMMANDS, "info ")):
        for command in table:
            for name in filter(None, (command.name, command.alias)):
                described = run_hmp(MemoryVm(), f"help {prefix}{name}")
                if name != "info":
                    assert described.startswith(f"{prefix}{command.title} {command.usage} -- ")
    assert [command.name for command in HMP_COMMANDS] == sorted(command.name for command in HMP_COMMANDS)
    assert [command.name for command in INFO_COMMANDS] == sorted(command.name for command in INFO_COMMANDS)


RAM = RamInfo(
    transferred=1_518_238_720, remaining=209_715_200, total=107_374_182_400, duplicate=25_000_000, normal=370_000,
    normal_bytes=1_515_520_000, dirty_pages_rate=52_000, mbps=1589.237, dirty_sync_count=9, iteration_count=4,
    dirty_sync_time=31.5, page_size=4096, pages_per_second=48_500, precopy_bytes=1_518_238_720, downtime_bytes=0,
)  # fmt: skip
BUSY = MigrationInfo(
    status=MigrationStatus.ACTIVE, total_time_ms=125_400, setup_time_ms=12, expected_downtime_ms=1043,
    cpu_throttle_percentage=40, ram=RAM,
)  # fmt: skip
WAITING = MigrationInfo(
    status=MigrationStatus.PRE_SWITCHOVER, total_time_ms=125_400, setup_time_ms=12, expected_downtime_ms=287,
    cpu_throttle_percentage=70, cpu_throttle_vcpus=(70, 0, 12), ram=RAM,
)  # fmt: skip
DONE = MigrationInfo(
    status=MigrationStatus.COMPLETED, total_time_ms=230_000, setup_time_ms=12, downtime_ms=412,
    downtime_parts_ms={"stop": 0.4, "last-sync": 8.25, "ram": 390.0, "state": 11.35, "hand-over": 2.0},
    ram=RAM,
)  # fmt: skip

TRANSCRIPTS: dict[str, tuple[MigrationInfo, str]] = {
    "info-migrate-none": (MigrationInfo(status=MigrationStatus.NONE), "info migrate"),
    "info-migrate-none-all": (MigrationInfo(status=MigrationStatus.NONE), "info migrate -a"),
    "info-migrate-setup-incoming": (
        MigrationInfo(status=MigrationStatus.SETUP, socket_address="tcp:[::1]:4444"),
        "info migrate -a",
    ),
    "info-migrate-active": (BUSY, "info migrate"),
    "info-migrate-active-all": (BUSY, "info migrate -a"),
    "info-migrate-pre-switchover-all": (WAITING, "info migrate -a"),
    "info-migrate-completed-all": (DONE, "info migrate -a"),
    "info-migrate-failed": (
        MigrationInfo(status=MigrationStatus.FAILED, error_desc="the link is gone"),
        "info migrate",
    ),
    "info-migrate-parameters": (BUSY, "info migrate_parameters"),
    "info-migrate-capabilities": (BUSY, "info migrate_capabilities"),
    "info-dirty-rate": (BUSY, "info dirty_rate"),
    "info-trace-events": (BUSY, "info trace-events"),
    "info-cpus": (BUSY, "info cpus"),
    "help": (BUSY, "help"),
    "help-info": (BUSY, "help info"),
}


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_transcripts(name: str) -> None:
    """UPDATE_GOLDEN=1 rewrites the transcripts; look at the difference before you commit it."""
    vm = MemoryVm()
    vm.migrations.latest, line = TRANSCRIPTS[name]
    text = f"(vmferry) {line}\n{run_hmp(vm, line)}"
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert path.read_text() == text


NAMES = [command.name for command in (*HMP_COMMANDS, *INFO_COMMANDS)]
WORDS = [
    "max-bandwidth",
    "events",
    "010",
    "-b",
    "migration_*",
    "tls-creds",
    "on",
    "-d",
    "-",
    '"',
    '\\"',
    "9" * 5000,
    "0x",
    "\t",
    "é",
]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(NAMES + WORDS) | st.text(max_size=5), max_size=6).map(" ".join))
def test_whatever_is_typed_the_answer_is_lines(line: str) -> None:
    answer = run_hmp(MemoryVm(), line)
    assert answer == "" or answer.endswith("\n")
