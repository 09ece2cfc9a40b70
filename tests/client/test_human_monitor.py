import pytest

from tests.support.memory_vm import MemoryVm
from vmferry.client.human_monitor import HumanMonitor
from vmferry.client.qmp_client import QmpClient


@pytest.fixture(params=["client", pytest.param("qemu_client", marks=pytest.mark.qemu)])
def monitor(request: pytest.FixtureRequest) -> HumanMonitor:
    client: QmpClient = request.getfixturevalue(request.param)
    return HumanMonitor(client)


def test_lines_are_carried_out(monitor: HumanMonitor) -> None:
    assert monitor.execute("stop") == ""
    assert monitor.execute("info status") == "VM status: paused\n"
    assert monitor.execute("nonsense") == "unknown command: 'nonsense'\n"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("migrate_ca", ["migrate_cancel"]),
        ("migrate_i", ["migrate_incoming"]),
        ("help con", ["cont"]),
        ("info migrate_", ["migrate_capabilities", "migrate_parameters"]),
        ("help info statu", ["status"]),
        ("migrate_set_parameter cpu-throttle-in", ["cpu-throttle-increment", "cpu-throttle-initial"]),
        ("  migrate_set_capability  auto", ["auto-converge"]),
        ("migrate_set_capability events o", ["off", "on"]),
        ("migrate_continue p", ["pre-switchover"]),
        ("trace-event migration_thrott", ["migration_throttle"]),
        ("info trace-events migration_bitmap_sync_e", ["migration_bitmap_sync_end"]),
        ("trace-event migration_throttle o", ["off", "on"]),
        ("stop n", []),
        ("info status x", []),
    ],
)
def test_words_are_completed(monitor: HumanMonitor, line: str, expected: list[str]) -> None:
    assert monitor.completions(line) == expected


def test_an_empty_line_can_become_any_command(vm: MemoryVm, client: QmpClient) -> None:
    assert {"info", "migrate", "q", "quit", "?"} <= set(HumanMonitor(client).completions(""))
