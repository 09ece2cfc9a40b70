"""Memory moves as fast as its pages do, whatever they take on the wire: that is what everybody reckons with."""

from typing import Any

import pytest

from tests.support.fake_qemu import answer
from vmferry.control.asking.progress import Progress
from vmferry.control.body import sense
from vmferry.control.recorder import Recorder
from vmferry.control.telling.outlook import Outlooks
from vmferry.migration.events import BandwidthWindow, RecordedBy
from vmferry.migration.journal import MemoryJournal
from vmferry.simulation.clock import VirtualClock

MIB = 1 << 20
PARAMETERS = {"downtime-limit": 1000}


def polls(count: int, moved_mib: float, delta_pages: int = 0) -> list[Progress]:
    """Answers of a migration that sends 10 MiB between two of them, 100 MiB/s, as so much of guest memory."""
    progress, seen = Progress.from_qmp({}), []
    for number in range(1, count + 1):
        ram: dict[str, Any] = {
            "transferred": number * 10 * MIB,
            "normal_bytes": round(number * moved_mib * MIB),
            "remaining": 600 * MIB,
            "total": 1000 * MIB,
            "mbps": 100 * MIB * 8 / 1e6,
        }
        cache = {"xbzrle-cache": {"pages": number * delta_pages}} if delta_pages else {}
        progress = Progress.from_qmp(answer(at_s=number / 10, **ram) | cache).after(progress)
        seen.append(progress)
    return seen


@pytest.mark.parametrize(("moved_mib", "delta_pages"), [(30, 0), (10, 20 * 256)])
def test_pages_that_are_smaller_on_the_wire_count_in_full(moved_mib: float, delta_pages: int) -> None:
    last = polls(20, moved_mib, delta_pages)[-1]
    sensed = sense(last, PARAMETERS, 0)
    assert sensed.bandwidth_bytes_per_s == pytest.approx(300 * MIB)
    assert sensed.threshold_bytes == pytest.approx(300 * MIB)
    assert sensed.wire_share == pytest.approx(1 / 3)
    assert sensed.sent_bytes == 600 * MIB
    assert Outlooks(1000).update(last).least_s == pytest.approx(1)


@pytest.mark.parametrize("moved_mib", [0, 9.9, 10.5])
def test_pages_that_go_as_they_are_count_as_what_was_sent(moved_mib: float) -> None:
    last = polls(20, moved_mib)[-1]
    sensed = sense(last, PARAMETERS, 0)
    assert sensed.bandwidth_bytes_per_s == pytest.approx(100 * MIB)
    assert sensed.wire_share == 1
    assert sensed.sent_bytes == 200 * MIB


def test_a_guest_whose_pages_become_smaller_only_later_is_noticed_within_seconds() -> None:
    plain = polls(50, 10)[-1]
    later = Progress.from_qmp(answer(transferred=600 * MIB, normal_bytes=800 * MIB, mbps=1.0)).after(plain)
    assert later.wire_share < 0.7
    assert later.saved_bytes == 200 * MIB


def test_what_a_slow_link_sends_later_than_it_is_counted_is_counted_once() -> None:
    last = Progress.from_qmp(answer())
    for number in range(1, 301):
        sent, moved = number * MIB // 8, -(-number // 32) * 4 * MIB
        last = Progress.from_qmp(answer(transferred=sent, normal_bytes=moved, mbps=1.0)).after(last)
    assert 0 <= last.saved_bytes <= 4 * MIB


def test_the_record_of_a_qemu_tells_by_how_much_pages_were_smaller() -> None:
    journal, clock = MemoryJournal(), VirtualClock()
    recorder = Recorder(journal, clock.now_ns)
    recorder.start(1000 * MIB, 1, True, {}, RecordedBy.DRIVER)
    for progress in polls(20, 30):
        clock.sleep_ns(100_000_000)
        recorder.poll(progress)
    windows = [entry.event for entry in journal.entries if isinstance(entry.event, BandwidthWindow)]
    assert {window.saved_bytes for window in windows} == {20 * MIB}


@pytest.mark.parametrize(("sync_count", "pages_per_s", "known"), [(1, 0, None), (1, 5, 20480), (2, 0, 0)])
def test_what_a_guest_dirties_is_unknown_in_the_first_pass(
    sync_count: int, pages_per_s: int, known: float | None
) -> None:
    ram = {"dirty-sync-count": sync_count, "dirty-pages-rate": pages_per_s, "page-size": 4096}
    assert Progress.from_qmp({"status": "active", "ram": ram}).dirty_bytes_per_s == known
