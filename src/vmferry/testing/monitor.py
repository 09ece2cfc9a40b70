"""What every implementation of the `Monitor` protocol promises that has a QEMU behind it, real or modelled.

The texts and figures are those that `control/` relies on, as QEMU 7.2 and 10.0 give them.
"""

from collections.abc import Callable, Mapping
from typing import Any

from vmferry.client.monitor import Monitor
from vmferry.errors import CommandError

_POLL_S = 0.02
_TIMEOUT_S = 60.0
_SLOW = {"max-bandwidth": 1 << 20, "downtime-limit": 1}
_FAST = {"max-bandwidth": 0, "downtime-limit": 2000}
_IN_PROGRESS = "There's a migration process in progress"
_REFUSED: tuple[tuple[dict[str, object], str], ...] = (
    ({"cpu-throttle-initial": 0}, "Parameter 'cpu_throttle_initial' expects an integer in the range of 1 to 99"),
    ({"cpu-throttle-initial": 300}, "Parameter 'cpu-throttle-initial' expects uint8_t"),
    (
        {"max-cpu-throttle": 10},
        "Parameter 'max_cpu_throttle' expects an integer in the range of cpu_throttle_initial to 99",
    ),
    ({"cpu-throttle-tailslow": 1}, "Invalid parameter type for 'cpu-throttle-tailslow', expected: boolean"),
    (
        {"downtime-limit": 2_000_001},
        "Parameter 'downtime_limit' expects an integer in the range of 0 to (2000 * 1000) ms",
    ),
    ({"no-such-parameter": 1}, "Parameter 'no-such-parameter' is unexpected"),
)


class MonitorContract:
    """Subclass it with a fixture `monitor`: a QEMU of at least 128 MiB, under KVM without a dirty ring, just started.

    Its guest runs and writes tens of MiB again and again.
    """

    uri: str
    """Where it can migrate to, once."""
    nowhere: str
    """Where nobody listens."""
    busy_mib: int
    """What its guest writes again and again; in a second it writes more than that."""

    def wait(self, seconds: float) -> None:
        """Let this much time pass for the VM."""
        raise NotImplementedError

    def test_it_says_what_it_is(self, monitor: Monitor) -> None:
        version = monitor.execute("query-version")["qemu"]
        assert {"major", "minor", "micro"} == version.keys()
        assert monitor.execute("query-kvm")["enabled"] is True
        assert monitor.execute("query-status") | {"status": "running", "running": True} == monitor.execute(
            "query-status"
        )
        assert monitor.execute("query-memory-size-summary")["base-memory"] >= 128 << 20
        assert [vcpu["cpu-index"] for vcpu in monitor.execute("query-cpus-fast")]

    def test_the_schema_tells_how_the_dirty_rate_is_measured(self, monitor: Monitor) -> None:
        entries = {entry["name"]: entry for entry in monitor.execute("query-qmp-schema")}
        arguments = {m["name"]: m["type"] for m in entries[entries["calc-dirty-rate"]["arg-type"]]["members"]}
        assert {"page-sampling", "dirty-ring", "dirty-bitmap"} <= set(entries[arguments["mode"]]["values"])
        major = monitor.execute("query-version")["qemu"]["major"]
        assert ("calc-time-unit" in arguments) == (major > 8)

    def test_unknown_commands_are_refused(self, monitor: Monitor) -> None:
        error = self.refusal(monitor, "no-such-command")
        assert (str(error), error.error_class) == ("The command no-such-command has not been found", "CommandNotFound")

    def test_parameters_out_of_range_are_refused_and_none_of_the_command_is_set(self, monitor: Monitor) -> None:
        before = monitor.execute("query-migrate-parameters")
        for values, text in _REFUSED:
            assert str(self.refusal(monitor, "migrate-set-parameters", {"max-bandwidth": 1 << 20, **values})) == text
        assert monitor.execute("query-migrate-parameters") == before

    def test_what_is_set_is_told(self, monitor: Monitor) -> None:
        monitor.execute("migrate-set-parameters", _SLOW)
        assert monitor.execute("query-migrate-parameters").items() >= _SLOW.items()
        self.set_capability(monitor, "auto-converge", True)
        assert {"capability": "auto-converge", "state": True} in monitor.execute("query-migrate-capabilities")
        error = self.refusal(monitor, "migrate-set-capabilities", _capability("no-such", True))
        assert str(error) == "Parameter 'capability' does not accept value 'no-such'"

    def test_nothing_is_told_of_a_migration_before_the_first(self, monitor: Monitor) -> None:
        assert monitor.execute("query-migrate") == {}
        assert monitor.execute("migrate_cancel") == {}
        assert monitor.execute("query-migrate") == {}

    def test_the_first_pass_knows_no_dirty_rate(self, monitor: Monitor) -> None:
        self.begin_slowly(monitor)
        ram = self.answer(monitor, lambda answer: 7 < answer["ram"]["mbps"] < 10)["ram"]  # 1 MiB/s
        assert (ram["dirty-sync-count"], ram["dirty-pages-rate"]) == (1, 0)
        assert 0 < ram["remaining"] < ram["total"]
        assert "downtime" not in monitor.execute("query-migrate")

    def test_while_it_migrates_parameters_can_be_changed_and_capabilities_not(self, monitor: Monitor) -> None:
        self.begin_slowly(monitor)
        monitor.execute("migrate-set-parameters", {"cpu-throttle-increment": 12})
        for command, arguments in (
            ("migrate-set-capabilities", _capability("auto-converge", True)),
            ("migrate", {"uri": self.uri}),
        ):
            assert str(self.refusal(monitor, command, arguments)) == _IN_PROGRESS

    def test_a_cancelled_migration_is_forgotten_and_the_guest_runs_on(self, monitor: Monitor) -> None:
        self.begin_slowly(monitor)
        monitor.execute("migrate_cancel")
        assert monitor.execute("query-migrate")["status"] in ("cancelling", "cancelled")
        assert self.until(monitor, "cancelled") == {"status": "cancelled"}
        assert monitor.execute("query-status")["status"] == "running"
        assert self.dirty_mib_per_s(monitor) > 0

    def test_a_migration_to_nowhere_fails_and_the_guest_runs_on(self, monitor: Monitor) -> None:
        monitor.execute("migrate", {"uri": self.nowhere})
        assert self.until(monitor, "failed")["error-desc"]
        assert monitor.execute("query-status")["status"] == "running"

    def test_a_completed_migration_has_its_figures_a_moment_later(self, monitor: Monitor) -> None:
        monitor.execute("migrate-set-parameters", _FAST)
        monitor.execute("migrate", {"uri": self.uri})
        self.until(monitor, "completed")
        answer = self.answer(monitor, lambda answer: answer["total-time"] > 0)
        ram = answer["ram"]
        assert (ram["remaining"], ram["dirty-pages-rate"]) == (0, 0)
        assert ram["dirty-sync-count"] >= 2
        assert answer["total-time"] >= answer["downtime"] >= 0
        assert "expected-downtime" not in answer
        assert monitor.execute("query-status")["status"] == "postmigrate"
        error = self.refusal(monitor, "migrate", {"uri": self.uri})
        assert str(error) == "Can't migrate the vm that was paused due to previous migration"

    def test_states_and_passes_are_told_as_events(self, monitor: Monitor) -> None:
        self.set_capability(monitor, "events", True)
        self.begin_slowly(monitor)
        monitor.execute("migrate_cancel")
        self.until(monitor, "cancelled")
        told = [event for event in monitor.take_events() if event.name.startswith("MIGRATION")]
        states = [event.data["status"] for event in told if event.name == "MIGRATION"]
        assert states == ["setup", "active", "cancelling", "cancelled"]
        assert [event.data["pass"] for event in told if event.name == "MIGRATION_PASS"] == [1]
        assert monitor.take_events() == []

    def test_stop_and_cont_are_told(self, monitor: Monitor) -> None:
        for command, status, event in (("stop", "paused", "STOP"), ("cont", "running", "RESUME")):
            monitor.execute(command)
            assert monitor.execute("query-status")["status"] == status
            assert [told.name for told in monitor.take_events()] == [event]

    def test_the_dirty_rate_is_measured_once_at_a_time(self, monitor: Monitor) -> None:
        assert monitor.execute("query-dirty-rate")["status"] == "unstarted"
        assert "dirty-ring" in str(self.refusal(monitor, "calc-dirty-rate", {"calc-time": 1, "mode": "dirty-ring"}))
        assert self.refusal(monitor, "calc-dirty-rate", {"calc-time": 61})
        monitor.execute("calc-dirty-rate", {"calc-time": 60, "mode": "dirty-bitmap"})
        while (status := monitor.execute("query-dirty-rate")["status"]) == "unstarted":
            self.wait(_POLL_S)  # the thread that measures may not run yet
        assert status == "measuring"
        error = self.refusal(monitor, "calc-dirty-rate", {"calc-time": 1})
        assert str(error) == "the dirty rate is already being measured."

    def test_a_measurement_sees_each_page_once_and_nothing_of_a_guest_that_stands_still(self, monitor: Monitor) -> None:
        for seconds in (1, 2):
            assert 0 < seconds * self.dirty_mib_per_s(monitor, seconds) < 1.5 * self.busy_mib
        monitor.execute("stop")
        assert self.dirty_mib_per_s(monitor) == 0

    def begin_slowly(self, monitor: Monitor) -> dict[str, Any]:
        """Begin a migration that takes minutes."""
        monitor.execute("migrate-set-parameters", _SLOW)
        monitor.execute("migrate", {"uri": self.uri})
        return self.until(monitor, "active")

    def until(self, monitor: Monitor, status: str) -> dict[str, Any]:
        """Return the first answer to `query-migrate` that says so."""
        return self.answer(monitor, lambda answer: answer["status"] == status)

    def answer(self, monitor: Monitor, fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return the first answer to `query-migrate` that fits."""
        for _ in range(int(_TIMEOUT_S / _POLL_S)):
            answer: dict[str, Any] = monitor.execute("query-migrate")
            if fits(answer):
                return answer
            self.wait(_POLL_S)
        raise AssertionError(f"the migration does not come to what was waited for: {answer}")

    def dirty_mib_per_s(self, monitor: Monitor, seconds: int = 1) -> int:
        """Measure by the dirty log."""
        monitor.execute("calc-dirty-rate", {"calc-time": seconds, "mode": "dirty-bitmap"})
        while (answer := monitor.execute("query-dirty-rate"))["status"] != "measured":
            self.wait(_POLL_S)
        return int(answer["dirty-rate"])

    def set_capability(self, monitor: Monitor, name: str, state: bool) -> None:
        """Set a capability."""
        monitor.execute("migrate-set-capabilities", _capability(name, state))

    def refusal(self, monitor: Monitor, command: str, arguments: Mapping[str, object] | None = None) -> CommandError:
        """Return the error of a command that is refused."""
        try:
            monitor.execute(command, arguments)
        except CommandError as error:
            return error
        raise AssertionError(f"{command} {arguments} is not refused")


def _capability(name: str, state: bool) -> dict[str, object]:
    return {"capabilities": [{"capability": name, "state": state}]}
