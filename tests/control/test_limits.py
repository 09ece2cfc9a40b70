"""What a migration may cost. What happens when it costs more is in tests/end_to_end/test_stock_qemu.py."""

import pytest

from vmferry.control.behind import Behind, Schema
from vmferry.control.drive import Progress, Result
from vmferry.control.limits import LimitKeeper, Limits, OnLimit
from vmferry.control.recorder import ended
from vmferry.control.settings import Settings
from vmferry.migration.events import Event, Lost, Started, SwitchoverBegan, ThrottleSeen
from vmferry.migration.lost_work import LostWork
from vmferry.simulation.clock import VirtualClock

S = 1_000_000_000
CURRENT = {"max-cpu-throttle": 99, "cpu-throttle-initial": 50, "downtime-limit": 300}


class Monitor:
    """Notes what it is told; the state that matters here cannot be had of a real one in time."""

    manager = None

    def __init__(self, status: str = "active") -> None:
        self.told: list[str] = []
        self._status = status

    def execute(self, command: str, arguments: object = None) -> dict[str, object]:
        self.told.append(f"{command} {arguments}" if arguments else command)
        return dict(CURRENT) if command == "query-migrate-parameters" else {"status": self._status}


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


STARTED = Started(page_size=4096, page_count=1, vcpu_count=4, auto_converge=True, parameters={})


def slowed(percent: int, clock: VirtualClock, *events: Event) -> LostWork:
    """Four vCPUs are slowed from now on."""
    lost = LostWork(clock.now_ns)
    for event in (STARTED, *events, ThrottleSeen(throttle_percent=percent)):
        lost.record(clock.now_ns(), event)
    return lost


def keeper(
    clock: VirtualClock, monitor: Monitor, told: list[str], lost: LostWork | None = None, **limits: object
) -> LimitKeeper:
    settings = Settings(monitor, clock, Behind("", Schema([]), dict(CURRENT), {}, kvm=False))  # type: ignore[arg-type]
    return LimitKeeper(
        Limits(**limits), monitor, clock, lambda: monitor.execute("cancel"), settings, lost or LostWork(), told.append
    )  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("limits", "given", "changed"),
    [
        (Limits(), {"downtime-limit": 500}, {"downtime-limit": 500}),
        (Limits(max_downtime_ms=1000), {}, {}),
        (Limits(max_downtime_ms=200), {}, {"downtime-limit": 200}),
        (Limits(max_downtime_ms=200), {"downtime-limit": 100}, {"downtime-limit": 100}),
        (Limits(max_downtime_ms=200), {"downtime-limit": 500}, {"downtime-limit": 200}),
        (Limits(max_throttle_percent=30), {}, {"max-cpu-throttle": 30, "cpu-throttle-initial": 30}),
        (
            Limits(max_throttle_percent=80),
            {"cpu-throttle-initial": 20},
            {"max-cpu-throttle": 80, "cpu-throttle-initial": 20},
        ),
    ],
)
def test_parameters_stay_within_limits(limits: Limits, given: dict[str, object], changed: dict[str, object]) -> None:
    assert limits.applied_to(given, CURRENT) == changed


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ({"deadline_ns": 9 * S}, "deadline: 10 s of 9 s"),
        ({"max_guest_loss_percent": 45.0}, "max guest loss: 50 % of 45 %"),
        ({"max_guest_loss_ns": 19 * S}, "max guest loss: 20 s of vCPUs of 19 s of vCPUs"),
    ],
)
@pytest.mark.parametrize(
    ("on_limit", "commands"),
    [
        (OnLimit.CANCEL, ["cancel"]),
        (OnLimit.SWITCHOVER, ["migrate-set-parameters {'downtime-limit': 2000000}"]),
        (OnLimit.CONTINUE, []),
    ],
)
def test_a_limit_that_is_hit_is_acted_on_once(
    clock: VirtualClock, limit: dict[str, object], expected: str, on_limit: OnLimit, commands: list[str]
) -> None:
    """Four vCPUs are slowed by 50 % until the tenth second."""
    told: list[str] = []
    monitor = Monitor()
    watched = keeper(clock, monitor, told, slowed(50, clock), on_limit=on_limit, **limit)
    watched.observe()
    clock.sleep_ns(10 * S)
    watched.observe()
    watched.observe()
    assert told == [f"{expected}: {on_limit}"]
    assert monitor.told == commands


class Managed:
    """libvirt's, of a migration that has begun."""

    migrates = True


def test_a_switchover_that_comes_too_late_fails_nothing(clock: VirtualClock) -> None:
    """The migration has ended since the poll; what libvirt puts back is not to be touched then."""
    monitor = Monitor("completed")
    monitor.manager = Managed()  # type: ignore[assignment]
    watched = keeper(clock, monitor, [], deadline_ns=S, on_limit=OnLimit.SWITCHOVER)
    clock.sleep_ns(2 * S)
    watched.observe()
    assert monitor.told == ["query-migrate"]


@pytest.mark.parametrize(("allowed_ms", "set_ms"), [(None, 2_000_000), (3_600_000, 2_000_000), (1500, 1500), (0, 0)])
def test_a_switchover_is_allowed_what_is_asked_for_or_the_most_that_there_is(
    clock: VirtualClock, allowed_ms: int | None, set_ms: int
) -> None:
    monitor = Monitor()
    watched = keeper(clock, monitor, [], deadline_ns=S, max_downtime_ms=allowed_ms, on_limit=OnLimit.SWITCHOVER)
    clock.sleep_ns(2 * S)
    watched.observe()
    assert f"migrate-set-parameters {{'downtime-limit': {set_ms}}}" in monitor.told


def test_a_deadline_that_passed_since_the_last_look_was_not_kept(clock: VirtualClock) -> None:
    watched = keeper(clock, Monitor(), [], deadline_ns=10 * S)
    watched.observe()
    [verdict] = watched.verdicts(Result(Progress.from_qmp({"status": "completed", "total-time": 12_000}), 0))
    assert (verdict.kept, verdict.text) == (False, "12 s of 10 s")


@pytest.mark.parametrize("on_limit", list(OnLimit))
def test_a_deadline_that_has_moved_the_guest_was_obeyed(clock: VirtualClock, on_limit: OnLimit) -> None:
    watched = keeper(clock, Monitor(), [], deadline_ns=S, on_limit=on_limit)
    clock.sleep_ns(2 * S)
    watched.observe()
    [verdict] = watched.verdicts(Result(Progress.from_qmp({"status": "completed"}), 0))
    assert (verdict.kept, verdict.obeyed) == (False, on_limit is OnLimit.SWITCHOVER)


def test_what_is_within_its_limits_is_left_alone(clock: VirtualClock) -> None:
    told: list[str] = []
    monitor = Monitor()
    lost = slowed(50, clock)
    watched = keeper(
        clock, monitor, told, lost, deadline_ns=10 * S, max_guest_loss_percent=50.0, max_guest_loss_ns=20 * S
    )
    for _ in range(11):
        watched.observe()
        clock.sleep_ns(S)
    assert (told, monitor.told) == ([], [])


def test_the_verdict_on_the_loss_is_the_records_figure(clock: VirtualClock) -> None:
    lost = slowed(50, clock)
    watched = keeper(clock, Monitor(), [], lost, max_guest_loss_percent=40.0, on_limit=OnLimit.CONTINUE)
    clock.sleep_ns(10 * S)
    watched.observe()
    lost.record(8 * S, SwitchoverBegan(remaining_bytes=0, threshold_bytes=0))
    lost.record(10 * S, ended(Result(Progress.from_qmp({"status": "completed", "total-time": 10_000}), 50)))
    [verdict] = watched.verdicts(Result(Progress.from_qmp({"status": "completed"}), 50))
    assert (verdict.kept, verdict.text) == (True, "40 % of 40 %")


@pytest.mark.parametrize(("bound", "kept"), [(60.0, None), (40.0, False)])
def test_what_was_lost_before_anybody_looked_is_unknown(clock: VirtualClock, bound: float, kept: bool | None) -> None:
    lost = slowed(50, clock, Lost(count=None))
    watched = keeper(clock, Monitor(), [], lost, max_guest_loss_percent=bound, on_limit=OnLimit.CONTINUE)
    clock.sleep_ns(10 * S)
    watched.observe()
    [verdict] = watched.verdicts(Result(Progress.from_qmp({"status": "completed"}), 50))
    assert verdict.kept is kept


def test_the_verdict_names_every_limit(clock: VirtualClock) -> None:
    watched = keeper(clock, Monitor(), [], deadline_ns=3 * S, max_throttle_percent=80, max_downtime_ms=300)
    clock.sleep_ns(2 * S)
    watched.observe()
    result = Result(Progress.from_qmp({"status": "completed", "downtime": 412}), 80)
    verdicts = list(watched.verdicts(result))
    assert [verdict.obeyed for verdict in verdicts] == [True, True, False]
    assert [(verdict.limit, verdict.kept, verdict.text) for verdict in verdicts] == [
        ("deadline", True, "2 s of 3 s"),
        ("max throttle", True, "80 % of 80 %"),
        ("max downtime", False, "412 ms of 300 ms"),
    ]
