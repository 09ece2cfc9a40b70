"""A modelled QEMU's habits, where the contract of monitors does not reach: its ladder, its timer, its silence."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.simulation.qemu.scenes import BUSY, scenario
from vmferry.errors import CommandError, MonitorError
from vmferry.simulation.qemu.destination import LOADS, LoadModel
from vmferry.simulation.qemu.host import QUOTA
from vmferry.simulation.qemu.lab import URI, ModelledLab
from vmferry.simulation.qemu.monitor import Fault, Mishap, ModelledMonitor
from vmferry.simulation.qemu.releases import RELEASES, find_release

S = 1_000_000_000
MS = 1_000_000


def lab(release: str = "qemu-7.2", reception: LoadModel = LOADS, **parts: str) -> ModelledLab:
    return ModelledLab(scenario(**parts) if parts else BUSY, find_release(release), 0, reception)


def begin(monitor: ModelledMonitor, *capabilities: str, **parameters: int) -> None:
    states = [{"capability": name, "state": True} for name in capabilities]
    monitor.execute("migrate-set-capabilities", {"capabilities": states})
    monitor.execute("migrate-set-parameters", {name.replace("_", "-"): value for name, value in parameters.items()})
    monitor.execute("migrate", {"uri": URI})


def course(lab: ModelledLab, monitor: ModelledMonitor, seconds: float) -> Iterator[dict[str, Any]]:
    """Yield what `query-migrate` tells, ten times per second."""
    for _ in range(int(10 * seconds)):
        answer = monitor.execute("query-migrate")
        yield answer
        if answer["status"] in ("completed", "failed", "cancelled"):
            return
        lab.clock.sleep_ns(100 * MS)


@pytest.mark.parametrize("release", RELEASES)
def test_the_ladder_goes_up_by_its_steps_every_second_period(release: str) -> None:
    one = lab(release)
    monitor = one.connect()
    begin(monitor, "auto-converge", max_bandwidth=60 << 20, downtime_limit=1)
    percents = [answer.get("cpu-throttle-percentage", 0) for answer in course(one, monitor, 60)]
    assert list(dict.fromkeys(percents))[:5] == [0, 20, 30, 40, 50]


@pytest.mark.parametrize(("release", "grows"), [("qemu-7.2", False), ("qemu-10", True)])
def test_within_an_iteration_only_newer_ones_sync_every_five_seconds(release: str, grows: bool) -> None:
    one = lab(release)
    monitor = one.connect()
    begin(monitor, "auto-converge", max_bandwidth=20 << 20, downtime_limit=1)
    while monitor.execute("query-migrate").get("ram", {}).get("dirty-sync-count", 0) < 2:
        one.clock.sleep_ns(100 * MS)
    assert one.clock.now_ns() > 4 * S, "in the first pass no timer syncs"
    monitor.execute("migrate-set-parameters", {"max-bandwidth": 1 << 20})
    one.clock.sleep_ns(21 * S)
    count = monitor.execute("query-migrate")["ram"]["dirty-sync-count"]
    assert count in ((5, 6) if grows else (2,))


def test_samples_of_pages_are_blind_to_small_guests_and_near_the_truth_in_large_ones() -> None:
    small, large = (lab(memory=memory, load="96M") for memory in ("127M", "512M"))
    rates = []
    for one in (small, large):
        monitor = one.connect()
        monitor.execute("calc-dirty-rate", {"calc-time": 1})
        one.clock.sleep_ns(2 * S)
        rates.append(monitor.execute("query-dirty-rate")["dirty-rate"])
    assert rates[0] == 0
    assert rates[1] == pytest.approx(96, rel=0.25)


def downtime_ms(*, release_quota: bool) -> int:
    one = lab(load="4M")
    monitor = one.connect()
    one.host.throttle(QUOTA, 99)
    begin(monitor, max_bandwidth=0, downtime_limit=300)
    while monitor.execute("query-migrate")["status"] != "completed":
        if release_quota and monitor.execute("query-status")["status"] == "finish-migrate":
            one.host.release_quota()
        one.clock.sleep_ns(MS)
    one.clock.sleep_ns(10 * MS)
    return int(monitor.execute("query-migrate")["downtime"])


def test_a_quota_delays_the_stop_unless_it_goes() -> None:
    assert downtime_ms(release_quota=False) >= 99
    assert downtime_ms(release_quota=True) < 30


def test_a_monitor_that_stands_still_is_given_up_and_obeys_later() -> None:
    one = lab()
    monitor = one.connect([Fault(Mishap.SILENT, 1, "migrate-set-parameters", 40 * S)])
    with pytest.raises(MonitorError, match="does not answer migrate-set-parameters"):
        monitor.execute("migrate-set-parameters", {"downtime-limit": 7})
    assert 30 * S <= one.clock.now_ns() < 31 * S
    monitor.hurry()
    with pytest.raises(MonitorError):
        monitor.execute("query-status")
    assert 32 * S <= one.clock.now_ns() < 33 * S
    one.clock.sleep_ns(10 * S)
    assert monitor.execute("query-migrate-parameters")["downtime-limit"] == 7


@pytest.mark.parametrize("mishap", [Mishap.LOST, Mishap.UNANSWERED])
def test_a_lost_monitor_has_or_has_not_carried_the_command_out(mishap: Mishap) -> None:
    one = lab()
    monitor = one.connect([Fault(mishap, 1)])
    with pytest.raises(MonitorError, match="closed the connection"):
        monitor.execute("stop")
    with pytest.raises(MonitorError, match="is gone"):
        monitor.execute("cont")
    assert one.connect().execute("query-status")["running"] == (mishap is Mishap.LOST)


def test_a_link_that_stands_still_in_the_last_stage_locks_the_monitor_until_it_is_broken() -> None:
    one = lab(load="8M", link="20MiB/s")
    monitor = one.connect()
    begin(monitor, "events", max_bandwidth=0, downtime_limit=2000)
    while one.host.run_state != "finish-migrate":
        one.clock.sleep_ns(MS)
    one.host.pace.set_rate(0)
    monitor.hurry()
    with pytest.raises(MonitorError, match="does not answer query-migrate"):
        list(course(one, monitor, 20))
    monitor.execute_out_of_band("yank", {})
    one.clock.sleep_ns(S)
    assert monitor.execute("query-migrate")["status"] == "failed"
    assert (one.host.run_state, one.running_guests) == ("running", 1)
    assert not one.destination.is_there
    with pytest.raises(CommandError, match="Yank instance not found"):
        monitor.execute_out_of_band("yank", {})


@pytest.mark.parametrize(("word", "status"), [((), "completed"), (("return-path",), "failed")])
def test_only_a_return_path_tells_that_the_guest_could_not_be_loaded(word: tuple[str, ...], status: str) -> None:
    one = lab(reception=LoadModel(refusal="another CPU"), load="4M")
    monitor = one.connect()
    begin(monitor, *word, max_bandwidth=0, downtime_limit=2000)
    assert list(course(one, monitor, 20))[-1]["status"] == status
    assert one.running_guests == (status == "failed")


def test_a_guest_that_was_paused_stays_paused_at_the_destination() -> None:
    one = lab(load="4M")
    monitor = one.connect()
    monitor.execute("stop")
    begin(monitor, max_bandwidth=0)
    assert list(course(one, monitor, 20))[-1]["status"] == "completed"
    one.clock.sleep_ns(S)
    assert (one.host.run_state, one.destination.run_state) == ("postmigrate", "paused")


def pass_times(**settings: str) -> tuple[float, float]:
    """How long the first pass and the second take, in seconds, of a guest that is through with its memory at once."""
    one = ModelledLab(BUSY.with_settings(settings), find_release("qemu-7.2"), 0)
    monitor = one.connect()
    begin(monitor, "events", max_bandwidth=200 << 20, downtime_limit=1)
    one.clock.sleep_ns(20 * S)
    monitor.execute("query-migrate")
    passes = [event.time_s for event in monitor.take_events() if event.name == "MIGRATION_PASS"]
    return passes[1] - passes[0], passes[2] - passes[1]


def test_the_first_pass_waits_for_the_destinations_memory_and_later_ones_do_not() -> None:
    free, slow = pass_times(), pass_times(**{"guest.populate-rate": "32MiB/s"})
    assert slow[0] == pytest.approx(96 / 32, rel=0.05)
    assert free[0] == pytest.approx(96 / 200, rel=0.2)
    assert slow[1] == pytest.approx(free[1], rel=0.2)


def test_a_link_that_is_slower_than_the_destinations_memory_is_not_slowed_by_it() -> None:
    free, same = (pass_times(**{"link.rate": "50MiB/s", "guest.populate-rate": rate}) for rate in ("0", "60MiB/s"))
    assert same == pytest.approx(free)
