"""What a journal from outside says of a migration, from answers whose every page is accounted for."""

from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.control.asking.progress import Progress
from vmferry.control.asking.result import Result
from vmferry.control.asking.sensors import DirtyRate
from vmferry.control.recorder import Evaluation, Recorder
from vmferry.convergence.actions import Throttle
from vmferry.convergence.limits import Limits, OnLimit
from vmferry.convergence.sensing import Period
from vmferry.experiment.dirty_samples import dirty_samples
from vmferry.migration.events import (
    BandwidthWindow,
    Ended,
    Event,
    Lost,
    Measured,
    Ordered,
    RecordedBy,
    Started,
    Synced,
    ThrottleSeen,
)
from vmferry.migration.journal import Entry, MemoryJournal
from vmferry.migration.lost_work import LostWork
from vmferry.report.journal_runs import run_series
from vmferry.report.text_report import text_report

PAGE = 4096
S = 1_000_000_000
PAGES = 10_000


@dataclass
class Qemu:
    """Counts pages as QEMU does: what is left, what was sent, and how often it has synced."""

    left: int = PAGES
    sent: int = 0
    syncs: int = 1
    now_ns: int = 0
    throttle: int = 0
    kept: MemoryJournal = field(default_factory=MemoryJournal)

    def __post_init__(self) -> None:
        self.recorder = Recorder(self.kept, lambda: self.now_ns)
        self.recorder.start(
            total_bytes=PAGES * PAGE,
            vcpu_count=1,
            auto_converge=True,
            parameters={"downtime-limit": 300, "max-bandwidth": 1000 * PAGE},
            recorded_by=RecordedBy.OBSERVER,
        )

    def send(self, pages: int) -> None:
        self.left -= pages
        self.sent += pages

    def sync(self, found: int) -> None:
        self.syncs += 1
        self.left += found

    def answer(self, status: str = "active", **more: object) -> Progress:
        ram = {
            "remaining": self.left * PAGE,
            "total": PAGES * PAGE,
            "transferred": self.sent * (PAGE + 8),
            "normal": self.sent - self.sent // 3,
            "duplicate": self.sent // 3,
            "dirty-sync-count": self.syncs,
            "mbps": 10.0,
            "page-size": PAGE,
        }
        throttle = {"cpu-throttle-percentage": self.throttle} if self.throttle else {}
        return Progress.from_qmp({"status": status, "total-time": self.now_ns // 10**6, "ram": ram, **throttle, **more})

    def poll(self, **more: object) -> None:
        self.now_ns += S // 10
        self.recorder.poll(self.answer(**more))  # type: ignore[arg-type]

    def end(self, last: Progress | None = None) -> list[Event]:
        self.recorder.end(Result(last or self.answer("completed"), self.throttle))
        return [entry.event for entry in self.kept.entries]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 500), st.integers(0, 3), st.integers(0, 2000)), max_size=30)
)
def test_every_page_that_syncs_found_is_accounted_for(course: list[tuple[int, int, int, int]]) -> None:
    """However sending, syncs and polls lie in time, and also where a poll sees a sync before it has looked."""
    qemu, found_in_all = Qemu(), 0
    qemu.poll()
    for before, pages, half, found in course:
        qemu.send(min(qemu.left, before * pages))
        qemu.syncs += 1
        if half == 1:  # QEMU counts a sync when it begins
            qemu.poll()
        qemu.left += found
        found_in_all += found
        qemu.send(min(qemu.left, pages))
        qemu.poll()
    syncs = [event for event in qemu.end() if isinstance(event, Synced)]
    assert sum(sync.newly_dirty_pages or 0 for sync in syncs) == found_in_all
    assert [sync.dirty_sync_count for sync in syncs[1:]] == sorted({sync.dirty_sync_count for sync in syncs[1:]})


def test_of_what_waits_as_much_is_written_as_of_the_rest() -> None:
    """The guest rewrites 4000 pages all the time; 1000 of them wait at each sync, so that only 3000 are new."""
    qemu = Qemu(left=4000)
    qemu.poll()
    for _ in range(5):
        for _ in range(3):
            qemu.send(1000)
            qemu.poll()
        qemu.sync(3000)
        qemu.poll()
    qemu.end()
    samples = list(dirty_samples(qemu.kept.entries, PAGES, "here"))
    assert [sample.pages for sample in samples] == [4000] * 5
    assert {sample.wall_ns for sample in samples[1:]} == {4 * S // 10}


def test_the_throttle_of_a_vm_that_decides_itself_is_recorded_with_its_times() -> None:
    qemu = Qemu()
    for percent in (0, 0, 20, 20, 50, 50, 50, 50, 99, 99):
        qemu.throttle = percent
        qemu.poll()
    events = qemu.end()
    assert [event.throttle_percent for event in events if isinstance(event, ThrottleSeen)] == [20, 50, 99]
    run = run_series(qemu.kept.entries, "seen")
    assert run.decisions is None
    assert run.outcome.work_lost_percent == pytest.approx((20 * 2 + 50 * 4 + 99) / 10)
    text = text_report([run])
    assert "What was decided is unknown" in text
    assert "      0.5 s  50 %" in text


def test_a_cancelled_migration_keeps_what_was_seen_last_and_the_rest_is_unknown() -> None:
    qemu = Qemu(throttle=50)
    qemu.poll()
    qemu.send(700)
    qemu.poll()
    qemu.end(Progress.from_qmp({"status": "cancelled"}).after(qemu.answer()))
    figures = run_series(qemu.kept.entries, "").outcome
    assert (figures.status, figures.total_time_ms, figures.sent_bytes) == ("cancelled", 200, 700 * (PAGE + 8))
    assert (figures.dirty_sync_count, figures.max_throttle_percent, figures.downtime_ms) == (1, 50, None)


def test_what_was_never_seen_is_unknown() -> None:
    nothing = Progress.from_qmp({"status": "failed", "error-desc": "no route"})
    assert {nothing.sent_bytes, nothing.elapsed_ms, nothing.throttle_percent, nothing.dirty_sync_count} == {None}
    qemu = Qemu()
    qemu.recorder.end(Result(nothing, None))
    run = run_series(qemu.kept.entries, "nothing")
    figures = run.outcome
    assert {figures.total_time_ms, figures.sent_bytes, figures.max_throttle_percent, figures.iteration_count} == {None}
    assert "sent unknown" in text_report([run])
    assert "throttle up to unknown" in text_report([run])


def test_what_seemed_to_be_saved_and_was_not_leaves_a_journal_that_can_be_read() -> None:
    """In post-copy QEMU counts a page as sent some time before its bytes."""
    qemu, polled = Qemu(), Progress.from_qmp({})
    for normal_pages, sent_bytes in ((100, 100 * PAGE), (300, 200 * PAGE), (310, 350 * PAGE), (320, 400 * PAGE)):
        qemu.now_ns += S // 10
        ram = {"normal-bytes": normal_pages * PAGE, "transferred": sent_bytes, "remaining": PAGES, "page-size": PAGE}
        polled = Progress.from_qmp({"status": "postcopy-active", "ram": ram}).after(polled)
        qemu.recorder.poll(polled)
    windows = [event.saved_bytes for event in qemu.end() if isinstance(event, BandwidthWindow)]
    assert max(windows) > 0
    assert min(windows) == 0


def test_who_begins_late_knows_that_he_has_not_seen_all() -> None:
    late = Qemu(now_ns=5 * S, sent=5000, left=5000)
    late.poll(**{"total-time": 5100})
    late.send(10)
    late.poll(**{"total-time": 5200})
    events = late.end()
    assert any(isinstance(event, Lost) for event in events)
    assert [event.sent_bytes for event in events if isinstance(event, BandwidthWindow)] == [10 * (PAGE + 8)]
    assert run_series(late.kept.entries, "").outcome.work_lost_percent is None


def test_a_measurement_is_recorded_with_the_syncs_that_it_held() -> None:
    qemu = Qemu()
    for _ in range(5):
        qemu.poll()
    qemu.sync(10)
    for _ in range(9):
        qemu.poll()
    found = DirtyRate(100 * PAGE, {}, 2 * S, "dirty-bitmap")
    for period_ns in (S, S // 2):
        period = Period(duration_ns=period_ns, dirty_bytes=1, sent_bytes=1, throttle_percent=0)
        throttle = Throttle(percent=20, reason="so", period=period)
        qemu.recorder.evaluated(Evaluation(throttle, 0, found))
    measured = [event for event in qemu.end() if isinstance(event, Measured)]
    assert [(event.dirty_pages, event.window_ns, event.sync_count) for event in measured] == [
        (200, 2 * S, 1),
        (200, 2 * S, 0),
    ]


@pytest.mark.parametrize("counted_otherwise", ["xbzrle-cache", "compression"])
def test_pages_that_are_counted_otherwise_make_what_was_dirtied_unknown(counted_otherwise: str) -> None:
    qemu = Qemu()
    for _ in range(3):
        qemu.sync(5)
        qemu.poll(**{counted_otherwise: {}})
    events = qemu.end()
    assert {event.newly_dirty_pages for event in events if isinstance(event, Synced) and event.kind != "last"} == {None}
    assert isinstance(events[-1], Ended)


def test_the_order_is_recorded_after_the_start() -> None:
    kept = MemoryJournal()
    ordered = Ordered.of("db-1", Limits(deadline_ns=30 * S, max_throttle_percent=60, on_limit=OnLimit.CONTINUE))
    recorder = Recorder(kept, lambda: 0)
    recorder.start(
        total_bytes=PAGES * PAGE,
        vcpu_count=1,
        auto_converge=True,
        parameters={},
        recorded_by=RecordedBy.DRIVER,
        ordered=ordered,
    )
    recorder.end(Result(Progress.from_qmp({"status": "completed"}), 0))
    first, second, *_ = [entry.event for entry in kept.entries]
    assert isinstance(first, Started)
    assert second == ordered
    assert ordered.limits() == Limits(deadline_ns=30 * S, max_throttle_percent=60, on_limit=OnLimit.CONTINUE)
    assert msgspec.json.decode(msgspec.json.encode(Entry(0, ordered)), type=Entry).event == ordered


def test_what_a_stopped_guest_was_not_let_do_is_not_lost() -> None:
    """QEMU answers nothing from the stop to the end of the hand-over."""
    qemu = Qemu()
    qemu.poll()
    decided = Evaluation(Throttle(percent=50, reason=""), 0)
    qemu.recorder.evaluated(decided)
    stopped_ns, qemu.now_ns = qemu.now_ns + S // 20, qemu.now_ns + S
    qemu.recorder.poll(qemu.answer("device"), stopped_ns)
    qemu.end()
    lost = LostWork()
    for entry in qemu.kept.entries:
        lost.record(entry.time_ns, entry.event)
    assert lost.taken_ns == S // 40
    times_ns = [entry.time_ns for entry in qemu.kept.entries]
    assert times_ns == sorted(times_ns)
