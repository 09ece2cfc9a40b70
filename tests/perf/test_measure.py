"""Measuring real migrations: the figures, the guest's speed from outside, and runs that do not complete."""

from pathlib import Path

import pytest

from vmferry.migration.events import Ended, Started
from vmferry.perf.batch import run_jobs
from vmferry.perf.comparisons import sweeping_guest
from vmferry.perf.measure import Job, measure
from vmferry.perf.results import ResultSet, run_entries
from vmferry.units import MIB

QUICK = sweeping_guest(
    memory_bytes=64 * MIB,
    stress_bytes=16 * MIB,
    bandwidth_bytes_per_s=32 * MIB,
    downtime_limit_ms=50,
    time_scale=10,
).only("background-sync+responsive-throttle")

pytestmark = pytest.mark.kvm


def test_a_busy_guest_is_measured_from_outside(tmp_path: Path) -> None:
    results = ResultSet(tmp_path)
    job = Job("run", QUICK, 0)
    [run] = run_jobs([job], results, lambda job: None)
    assert (run.status, run.error) == ("completed", "")
    assert run.max_throttle_percent
    assert 0 < (run.work_lost_percent or 0) < 100
    assert run.pages_per_s_before > 0
    assert run.pages_per_s_after > 0
    assert [len(sample.written_pages) for sample in run.samples] == [2] * len(run.samples)
    written = [sum(sample.written_pages) for sample in run.samples]
    assert written == sorted(written)
    entries = run_entries(tmp_path, run)
    assert isinstance(entries[0].event, Started)
    assert isinstance(entries[-1].event, Ended)
    assert entries[-1].event.sent_bytes == run.sent_bytes


def test_a_guest_that_does_not_converge_is_called_off(tmp_path: Path) -> None:
    scenario = sweeping_guest(
        memory_bytes=64 * MIB, stress_bytes=16 * MIB, bandwidth_bytes_per_s=64 * MIB, downtime_limit_ms=1,
        max_iterations=3,
    )  # fmt: skip
    run = measure(Job("run", scenario, 0), tmp_path / "journal")
    assert (run.status, run.error) == ("cancelled", "more than 3 iterations")
    assert (run.iteration_count or 0) > 3
    assert run.total_time_ms
    assert run.dirty_sync_count
    assert run.sent_bytes
    assert run.pages_per_s_after > 0


def test_a_run_that_cannot_be_is_an_error_and_the_next_begins(tmp_path: Path) -> None:
    impossible = sweeping_guest(memory_bytes=20 * MIB, stress_bytes=16 * MIB)
    runs = run_jobs([Job("run", impossible, 0), Job("run", QUICK, 0)], ResultSet(tmp_path), lambda job: None)
    assert [run.status for run in runs] == ["error", "completed"]
    assert runs[0].error.startswith("the guest of 'source' crashed: ")
    assert "ended itself with code 1, after it said on the serial port: stress (00001): ERROR: ramsize" in runs[0].error
    assert [run.began for run in runs] == [False, True]
