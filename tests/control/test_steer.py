"""What steering takes for a sample. The decisions are the policies' own, see tests/convergence."""

from dataclasses import replace

import pytest

from vmferry.control.drive import Progress
from vmferry.control.link import LinkKeeper
from vmferry.control.sensors import DirtyRate
from vmferry.control.steer import STEERED, Evaluation, Steering
from vmferry.convergence.ledger import Ledger
from vmferry.convergence.watcher import BackgroundSync

MIB = 1 << 20
S = 1_000_000_000


class Sensor:
    """Measurements that last for a second and find what they are told to."""

    def __init__(self) -> None:
        self.measuring = False
        self.started = 0
        self.finds: DirtyRate | None = None
        self.calibrated: list[float] = []

    def start(self) -> bool:
        self.started += 1
        self.measuring = True
        return True

    def fetch(self) -> DirtyRate | None:
        self.measuring = self.finds is None
        return self.finds

    def calibrate(self, dirty_bytes_per_s: float) -> None:
        self.calibrated.append(dirty_bytes_per_s)


class Throttle:
    def __init__(self) -> None:
        self.applied: list[tuple[int, int]] = []

    def apply(self, percent: int, unthrottled_bytes_per_s: int) -> None:
        self.applied.append((percent, unthrottled_bytes_per_s))


class Parameters:
    """A monitor that is asked for the rate limit only."""

    def __init__(self) -> None:
        self.max_bandwidth = 0

    def execute(self, command: str) -> dict[str, int]:
        assert command == "query-migrate-parameters"
        return {"max-bandwidth": self.max_bandwidth}


class Course:
    """A migration that is polled when we say so."""

    def __init__(self, **parameters: object) -> None:
        self.sensor, self.throttle = Sensor(), Throttle()
        self.told: list[str] = []
        self.link = LinkKeeper(Parameters(), 120 * S, self.told.append, slows_on_silence=False)  # type: ignore[arg-type]
        self.evaluations: list[Evaluation] = []
        settings = replace(STEERED, **parameters)  # type: ignore[arg-type]
        watch, evaluated = self.link.watch, self.evaluations.append
        self.steering = Steering(self.sensor, self.throttle, watch, Ledger(), settings, evaluated, 0)  # type: ignore[arg-type]

    def poll(self, at_s: float, syncs: int, sent_mib: float, dirty_mib_per_s: int = 0, status: str = "active") -> None:
        ram = {
            "dirty-sync-count": syncs,
            "transferred": round(sent_mib * MIB),
            "dirty-pages-rate": dirty_mib_per_s * 256,
            "page-size": 4096,
        }
        progress = Progress.from_qmp({"status": status, "ram": ram})
        self.given_up = self.link.observe(progress, round(at_s * S))
        self.steering.observe(progress, round(at_s * S))

    @property
    def samples(self) -> list[tuple[str, float, int, int]]:
        return [
            (e.kind, period.duration_ns / S, period.dirty_bytes // MIB, period.sent_bytes // MIB)
            for e in self.evaluations
            if (period := e.throttle.period)
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
    assert course.samples[1:] == [("iteration", pytest.approx(2.1), 420, 210)]


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
    assert (kind, dirty_mib / period_s) == ("background", pytest.approx(800, rel=0.01))
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
    assert course.steering.throttle_percent == 90


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
    assert "link stood still for" in course.evaluations[-1].throttle.reason
    assert course.told == ["the link has stood still for 2.0 s; the guest is not slowed for that"]
    assert course.given_up == "the link has stood still for 120 s (stall-timeout)"


def test_a_guest_is_slowed_again_when_the_link_moves_again() -> None:
    course = stalling_course(0)
    for tenth in range(1, 60):
        course.poll(200 + tenth / 10, syncs=2, sent_mib=5000 + 10 * tenth)
    assert [percent for percent, _ in course.throttle.applied] == [50, 90, 99]
    assert course.told[1].startswith("the link moves again after ")
    assert course.given_up is None


def test_a_rate_limit_that_somebody_lowered_is_not_the_links_fault() -> None:
    course = Course()
    course.link._monitor.max_bandwidth = MIB  # type: ignore[attr-defined]
    for at_s in range(20):
        course.poll(at_s, syncs=1, sent_mib=1000 * at_s)
    for at_s in range(20, 60):
        course.poll(at_s, syncs=1, sent_mib=19_000 + at_s)
    assert (course.told, course.given_up) == ([], None)
