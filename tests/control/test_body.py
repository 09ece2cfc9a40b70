"""What the driver senses, and what it does of what the brain decides, which is tested in tests/convergence."""

from dataclasses import replace
from typing import ClassVar

import msgspec
import pytest

from tests.support.fake_qemu import FakeQemu
from vmferry.cancel import CancelToken
from vmferry.control.asking.driven_vm import DrivenVm
from vmferry.control.asking.progress import Progress
from vmferry.control.asking.sensors import DirtyRate
from vmferry.control.body import DriverBody, Slowing, can, sense
from vmferry.control.deciding import DEFAULTS
from vmferry.control.link import LinkKeeper
from vmferry.control.ports import Ports
from vmferry.control.recorder import Evaluation
from vmferry.control.slowing.dirty_rates import DirtyRates
from vmferry.control.slowing.slowed import SlowedGuest
from vmferry.control.undoing.settings import Settings
from vmferry.convergence.actions import Action, Cancel, SetDowntimeLimit, StartPostcopy, SwitchOver, Tell, Throttle
from vmferry.convergence.brain import Convergence
from vmferry.convergence.ledger import Ledger
from vmferry.convergence.limits import NO_LIMITS, Limits, OnLimit
from vmferry.convergence.policies import registry
from vmferry.convergence.policies.registry import find_policy
from vmferry.convergence.sensing import Body, View
from vmferry.convergence.watcher import BackgroundSync, make_watcher
from vmferry.errors import CommandError, HostError, UsageError
from vmferry.simulation.clock import VirtualClock

MIB = 1 << 20
S = 1_000_000_000


def ignore(text: str) -> None:
    pass


class Sensor:
    """Measurements that last for a second and find what they are told to."""

    def __init__(self) -> None:
        self.measuring = False
        self.started = 0
        self.finds: DirtyRate | None = None
        self.calibrated: list[float] = []

    def start(self, window_ns: int | None = None) -> bool:
        self.started += 1
        self.measuring = True
        return True

    def fetch(self) -> DirtyRate | None:
        self.measuring = self.finds is None
        return self.finds

    def calibrate(self, dirty_bytes_per_s: float) -> None:
        self.calibrated.append(dirty_bytes_per_s)


class NoMeans:
    """Means that slow nothing, but say that they do."""

    in_force_percent = 0
    slows_each_vcpu = False
    takes_time = True
    delays_syncs = False

    def __init__(self) -> None:
        self.applied: list[tuple[int, int]] = []

    def apply(self, throttle: Throttle, unthrottled: DirtyRates) -> None:
        self.applied.append((throttle.percent, round(unthrottled.bytes_per_s)))
        self.in_force_percent = throttle.percent

    def hold(self) -> None:
        pass

    def release(self) -> None:
        pass


class Kept:
    """Keeps what is recorded."""

    def __init__(self) -> None:
        self.evaluations: list[Evaluation] = []
        self.actions: list[Action] = []

    def evaluated(self, evaluation: Evaluation) -> None:
        self.evaluations.append(evaluation)

    def acted(self, action: Action) -> None:
        self.actions.append(action)


class Course:
    """A migration that is polled when we say so."""

    def __init__(self, qemu: FakeQemu | None = None, limits: Limits = NO_LIMITS, **parameters: object) -> None:
        self.qemu = qemu or FakeQemu([])
        self.qemu.parameters["max-bandwidth"] = 0
        self.sensor, self.throttle, self.kept = Sensor(), NoMeans(), Kept()
        self.told: list[str] = []
        """Of the link."""
        self.said: list[str] = []
        self.clock = VirtualClock()
        ports = Ports(self.qemu, self.clock, CancelToken(), self.said.append, ignore)
        self.link = LinkKeeper(self.qemu, 120 * S, self.told.append, slows_on_silence=False)
        ours = replace(DEFAULTS, **parameters)  # type: ignore[arg-type]
        self.guest = SlowedGuest(self.qemu, self.clock, self.throttle)  # type: ignore[arg-type]
        slowing = Slowing(self.sensor, self.guest)  # type: ignore[arg-type]
        self.settings = Settings(self.qemu, self.clock, DrivenVm.ask(self.qemu))
        kind = find_policy(ours.convergence_policy)
        start = sense(Progress.from_qmp({}), self.qemu.parameters, 0)
        mode, times, link = ours.background_sync, ours.watch_times(), self.link.watch
        watcher = make_watcher(mode, times, start.now_ns)
        self.brain = Convergence(kind, can(self.settings, slowing), watcher, link, Ledger(), start)
        self.body = DriverBody(ports, self.brain, ours.rules(limits), self.settings, self.kept, slowing)  # type: ignore[arg-type]

    def poll(self, at_s: float, syncs: int, sent_mib: float, dirty_mib_per_s: int = 0, status: str = "active") -> None:
        ram = {
            "dirty-sync-count": syncs,
            "transferred": round(sent_mib * MIB),
            "dirty-pages-rate": dirty_mib_per_s * 256,
            "page-size": 4096,
        }
        progress = Progress.from_qmp({"status": status, "ram": ram})
        self.clock.sleep_ns(round(at_s * S) - self.clock.now_ns())
        self.given_up = self.link.observe(self.body.complete(progress), self.clock.now_ns())
        self.wish = self.body.observe(progress)

    @property
    def samples(self) -> list[tuple[str, float, int, int]]:
        return [
            ("background" if e.measured else "iteration", p.duration_ns / S, p.dirty_bytes // MIB, p.sent_bytes // MIB)
            for e in self.kept.evaluations
            if (p := e.throttle.period)
        ]


def test_nothing_is_measured_in_the_first_iteration() -> None:
    course = Course()
    for at_s in range(20):
        course.poll(at_s, syncs=1, sent_mib=100 * at_s)
    assert (course.sensor.started, course.samples) == (0, [])


def test_the_end_of_an_iteration_is_a_sample_by_qemus_rate() -> None:
    course = Course()
    course.poll(0.5, syncs=1, sent_mib=50)
    course.poll(4, syncs=2, sent_mib=400, dirty_mib_per_s=300)
    assert course.samples == [("iteration", 4, 1200, 400)]
    assert course.sensor.calibrated == [300 * MIB]


def test_an_iteration_that_told_qemu_nothing_new_is_no_sample() -> None:
    """QEMU works its rate out once per second at most, so after short iterations it is the old one."""
    course = Course(x_background_sync_interval=60_000)
    course.poll(4, syncs=2, sent_mib=400, dirty_mib_per_s=300)
    course.poll(6, syncs=3, sent_mib=600, dirty_mib_per_s=300)
    assert len(course.samples) == 1
    course.poll(6.1, syncs=4, sent_mib=610, dirty_mib_per_s=200)
    [(kind, period_s, dirty_mib, sent_mib)] = course.samples[1:]
    assert period_s == pytest.approx(2.1)
    assert (kind, dirty_mib, sent_mib) == ("iteration", 420, 210)


def test_a_measurement_inside_an_iteration_is_a_sample_of_its_own_time() -> None:
    course = Course()
    course.poll(4, syncs=2, sent_mib=400, dirty_mib_per_s=300)
    course.poll(4.2, syncs=2, sent_mib=420)
    course.poll(4.4, syncs=2, sent_mib=440)
    assert course.sensor.started == 1
    course.poll(5, syncs=2, sent_mib=500)
    course.sensor.finds = DirtyRate(800 * MIB, {})
    course.poll(5.5, syncs=2, sent_mib=550)
    kind, period_s, dirty_mib, sent_mib = course.samples[1]
    assert kind == "background"
    assert dirty_mib / period_s == pytest.approx(800, rel=0.01)
    assert sent_mib / period_s == pytest.approx(100, rel=0.01)


def test_short_iterations_count_if_they_found_more_than_the_measurement() -> None:
    """A measurement sees a hot page once, and each iteration in it sees it again."""
    course = Course()
    course.poll(4, syncs=2, sent_mib=400, dirty_mib_per_s=300)
    for at_s in (4.2, 4.4):
        course.poll(at_s, syncs=2, sent_mib=420, dirty_mib_per_s=300)
    course.sensor.finds = DirtyRate(48 * MIB, {})
    course.poll(5.4, syncs=5, sent_mib=500, dirty_mib_per_s=144)
    _, period_s, dirty_mib, _ = course.samples[1]
    assert dirty_mib / period_s == pytest.approx(144, rel=0.01)


def test_the_throttle_follows_the_ladder_and_knows_what_the_guest_did_without_it() -> None:
    course = Course()
    course.poll(4, syncs=2, sent_mib=400, dirty_mib_per_s=300)
    course.poll(8, syncs=3, sent_mib=800, dirty_mib_per_s=301)
    course.poll(12, syncs=4, sent_mib=1200, dirty_mib_per_s=150)
    course.poll(16, syncs=5, sent_mib=1600, dirty_mib_per_s=149)
    assert course.throttle.applied == [(50, 301 * MIB), (90, 301 * MIB)]
    assert course.body.throttle_percent == 90


@pytest.mark.parametrize("status", ["setup", "postcopy-active", "pre-switchover", "device", "cancelling"])
def test_only_an_active_migration_is_steered(status: str) -> None:
    course = Course()
    for number in range(2, 6):
        course.poll(4.0 * number, syncs=number, sent_mib=400 * number, dirty_mib_per_s=300 + number, status=status)
    assert (course.samples, course.sensor.started, course.throttle.applied) == ([], 0, [])


def stalling_course(trickle_mib: float) -> Course:
    """A course whose guest writes 400 MiB/s and is slowed a first time, when its link stands still or trickles."""
    course = Course(background_sync=BackgroundSync.PRESERVE)
    course.sensor.finds = DirtyRate(400 * MIB, {})
    for tenth in range(400):
        course.poll(tenth / 10, syncs=1 if tenth < 200 else 2, sent_mib=10 * tenth)
        if course.throttle.applied:
            break
    stopped_s, sent_mib = tenth / 10, 10 * tenth
    for tenth in range(1, 1201):
        course.poll(stopped_s + tenth / 10, syncs=2, sent_mib=sent_mib + tenth * trickle_mib / 10)
    return course


@pytest.mark.parametrize("trickle_mib", [0, 0.01])
def test_a_link_that_stands_still_slows_no_guest(trickle_mib: float) -> None:
    course = stalling_course(trickle_mib)
    assert [percent for percent, _ in course.throttle.applied] == [50]
    assert "next to nothing was sent for" in course.kept.evaluations[-1].throttle.reason
    assert course.told == ["next to nothing was sent for 2.0 s, while the guest is slowed by 50 %"]
    assert course.given_up == "next to nothing was sent for 120 s (stall-timeout)"


def test_a_guest_is_slowed_again_when_the_link_moves_again() -> None:
    course = stalling_course(0)
    for tenth in range(1, 60):
        course.poll(200 + tenth / 10, syncs=2, sent_mib=5000 + 10 * tenth)
    assert [percent for percent, _ in course.throttle.applied] == [50, 90, 99]
    assert course.told[1].startswith("memory is sent again after ")
    assert course.given_up is None


def test_a_rate_limit_that_somebody_lowered_is_not_the_links_fault() -> None:
    course = Course()
    course.qemu.parameters["max-bandwidth"] = MIB
    for at_s in range(20):
        course.poll(at_s, syncs=1, sent_mib=1000 * at_s)
    for at_s in range(20, 60):
        course.poll(at_s, syncs=1, sent_mib=19_000 + at_s)
    assert (course.told, course.given_up) == ([], None)


class NoSettings(msgspec.Struct, frozen=True):
    pass


class Scripted:
    """Answers the next action at each look."""

    Settings: ClassVar[type] = NoSettings
    needs: ClassVar[Body] = Body(0)
    answers: ClassVar[list[Action]] = []
    looks: ClassVar[list[View]] = []

    def look(self, view: View, settings: NoSettings) -> list[Action]:
        self.looks.append(view)
        return [self.answers.pop(0)] if self.answers else []


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> type[Scripted]:
    monkeypatch.setitem(registry.BUILT_IN, "scripted", Scripted)
    monkeypatch.setattr(Scripted, "answers", [])
    monkeypatch.setattr(Scripted, "looks", [])
    return Scripted


def scripted_course(**others: object) -> Course:
    return Course(convergence_policy="scripted", background_sync=BackgroundSync.OFF, **others)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("action", "most_ms", "limit_ms"),
    [
        (SetDowntimeLimit(limit_ns=700_000_000, reason="a step"), None, 700),
        (SetDowntimeLimit(limit_ns=700_000_000, reason="a step"), 500, 500),
        (SwitchOver(reason="enough"), None, 2_000_000),
        (SwitchOver(reason="enough"), 500, 500),
    ],
)
def test_the_downtime_limit_is_the_vms_within_the_operators_and_is_put_back(
    scripted: type[Scripted], action: Action, most_ms: int | None, limit_ms: int
) -> None:
    course = scripted_course(limits=Limits(max_downtime_ms=most_ms))
    scripted.answers.append(action)
    with course.settings:
        course.poll(1, syncs=1, sent_mib=100)
        assert course.qemu.parameters["downtime-limit"] == limit_ms
        course.poll(1.1, syncs=1, sent_mib=110)
        assert scripted.looks[-1].sensed.downtime_limit_ns == limit_ms * 1_000_000
    assert course.qemu.parameters["downtime-limit"] == 300
    assert (type(course.kept.actions[0]), course.said) == (type(action), [action.reason])


def test_a_wish_to_cancel_or_to_tell_is_recorded_and_handed_on(scripted: type[Scripted]) -> None:
    course = scripted_course()
    scripted.answers += [Tell(reason="so far"), Cancel(reason="hopeless")]
    wishes = []
    for at_s in (1, 1.1):
        course.poll(at_s, syncs=1, sent_mib=100 * at_s)
        wishes.append(course.wish)
    assert wishes == [None, "hopeless"]
    assert [action.reason for action in course.kept.actions] == course.said == ["so far", "hopeless"]


@pytest.mark.parametrize("is_on", [False, True])
def test_post_copy_is_begun_only_where_its_capability_is_on(
    scripted: type[Scripted], monkeypatch: pytest.MonkeyPatch, is_on: bool
) -> None:
    monkeypatch.setattr(Scripted, "needs", Body.POSTCOPY)
    qemu = FakeQemu([])
    qemu.capabilities["postcopy-ram"] = is_on
    if not is_on:
        with pytest.raises(UsageError, match="'scripted' cannot be used here: it needs postcopy"):
            scripted_course(qemu=qemu)
        return
    course = scripted_course(qemu=qemu)
    scripted.answers.append(StartPostcopy(reason="time is up"))
    course.poll(1, syncs=1, sent_mib=100)
    assert ("migrate-start-postcopy", {}) in qemu.told


def test_the_threshold_follows_the_vms_own_limit_and_bandwidth(scripted: type[Scripted]) -> None:
    course = scripted_course()
    course.qemu.parameters |= {"downtime-limit": 500, "avail-switchover-bandwidth": 10 * MIB}
    course.poll(1, syncs=1, sent_mib=100)
    assert scripted.looks[-1].sensed.threshold_bytes == 5 * MIB


def test_the_policy_is_asked_while_a_measurement_goes_on(scripted: type[Scripted]) -> None:
    course = Course(convergence_policy="scripted", x_background_sync_interval=1000)
    for tenth in range(40, 100):
        course.poll(tenth / 10, syncs=2, sent_mib=10 * tenth)
    assert (course.sensor.started, len(scripted.looks)) == (1, 60)


def test_what_the_vm_refuses_ends_steering_and_not_the_migration(scripted: type[Scripted]) -> None:
    course = scripted_course()
    scripted.answers.append(SetDowntimeLimit(limit_ns=S, reason="a step"))

    def refuse(command: str) -> None:
        if command == "migrate-set-parameters":
            raise CommandError("no", "GenericError")

    course.qemu.during = refuse
    course.poll(1, syncs=1, sent_mib=100)
    course.poll(1.1, syncs=1, sent_mib=110)
    assert course.said == ["the migration goes on without being steered: no"]
    assert len(scripted.looks) == 1


def test_a_throttle_that_fails_keeps_no_deadline_from_being_kept() -> None:
    course = Course(limits=Limits(deadline_ns=7 * S))
    course.poll(4, syncs=2, sent_mib=400, dirty_mib_per_s=300)

    def fail(throttle: Throttle, unthrottled: DirtyRates) -> None:
        raise HostError("the group is gone")

    course.throttle.apply = fail  # type: ignore[method-assign]
    course.poll(8, syncs=3, sent_mib=800, dirty_mib_per_s=301)
    assert course.wish == "finish-by: 8 s of 7 s: cancel"
    assert course.said[-1] == "the migration goes on without being steered: the group is gone"


def test_a_guest_that_was_let_go_to_be_stopped_is_not_slowed_again() -> None:
    course = Course()
    course.poll(4, syncs=2, sent_mib=400, dirty_mib_per_s=300)
    course.guest.release()
    course.poll(8, syncs=3, sent_mib=800, dirty_mib_per_s=301)
    assert course.throttle.applied == []


class Managed:
    """libvirt's, of a migration that has begun."""

    migrates = True
    restores: ClassVar[frozenset[str]] = frozenset()


def test_a_limit_that_comes_too_late_fails_nothing() -> None:
    """The migration has ended since the poll; what libvirt puts back is not to be touched then."""
    course = Course(limits=Limits(deadline_ns=S, on_limit=OnLimit.SWITCHOVER))
    course.qemu.manager = Managed()  # type: ignore[assignment]
    course.poll(2, syncs=1, sent_mib=1)
    assert (course.qemu.told, course.said) == ([], [])


@pytest.mark.parametrize("status", ["setup", "active", "postcopy-active", "cancelling"])
def test_limits_are_kept_whatever_the_migration_is_about(status: str) -> None:
    course = Course(limits=Limits(deadline_ns=3 * S, on_limit=OnLimit.CANCEL))
    wishes = []
    for second in range(6):
        course.poll(second, syncs=1, sent_mib=second, status=status)
        wishes.append(course.wish)
    assert wishes == [None] * 4 + ["finish-by: 4 s of 3 s: cancel", None]
