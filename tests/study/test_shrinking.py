"""Forecasts of guests whose pages are packed: what moves is memory, what is told of the link is what it carries."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.memory_vm import MemoryVm
from tests.support.monitor_thread import monitor_thread
from tests.support.priced import priced
from vmferry.client.monitor import Monitor, open_monitor
from vmferry.control.asking.driven_vm import DrivenVm
from vmferry.convergence.written import Written
from vmferry.migration.compression import CompressionSample
from vmferry.study.draws import Draw
from vmferry.study.postcopy import postcopy
from vmferry.study.reason import link_of, reason
from vmferry.study.shrinking import AS_THEY_ARE, Shrinking, shrinking_of
from vmferry.study.strategies import NO_THROTTLE, POSTCOPY, outcome_of
from vmferry.study.survey import Survey

MIB = 1 << 20
MS = 1_000_000


def survey(link_mib_per_s: int, shrinking: Shrinking = AS_THEY_ARE) -> Survey:
    """A guest that rewrites 50 of 64 MiB twice per second."""
    written = tuple(Written(window * MS, 1.0, min(50, window // 10) * MIB) for window in (50, 100, 200, 400, 1000))
    return Survey(
        memory_bytes=64 * MIB,
        used_bytes=64 * MIB,
        vcpu_count=1,
        written=written,
        bandwidth_bytes_per_s=link_mib_per_s * MIB,
        downtime_limit_ms=300,
        shrinking=shrinking,
    )


def test_a_guest_moves_as_over_a_link_that_is_as_many_times_faster_and_sends_less() -> None:
    plain, packed = survey(120), survey(40, Shrinking(times_smaller=3.0))
    for run, strategy in ((outcome_of, NO_THROTTLE), (outcome_of, "background-sync"), (postcopy, POSTCOPY)):
        as_it_is, smaller = (run(each, strategy, Draw()) for each in (plain, packed))
        assert smaller.total_time_ms == as_it_is.total_time_ms
        assert smaller.downtime_ms == as_it_is.downtime_ms
        assert smaller.sent_bytes == pytest.approx((as_it_is.sent_bytes or 0) / 3, abs=1)


def test_the_price_list_names_the_link_that_carries_packed_pages() -> None:
    plain, packed = (priced(each) for each in (survey(60), survey(20, Shrinking(times_smaller=3.0))))
    assert packed.downtime_limit_ms == plain.downtime_limit_ms
    assert packed.throttle_percent == plain.throttle_percent
    assert plain.bandwidth_bytes_per_s
    assert packed.bandwidth_bytes_per_s == pytest.approx(plain.bandwidth_bytes_per_s / 3, rel=0.01)


def test_a_link_that_is_faster_than_packing_gains_nothing() -> None:
    slow = Shrinking(times_smaller=3.0, packed_bytes_per_s=90 * MIB)
    assert survey(20, slow).memory_bytes_per_s == 60 * MIB
    assert survey(200, slow).memory_bytes_per_s == 90 * MIB
    assert priced(survey(200, replace(slow, packed_bytes_per_s=50 * MIB))).bandwidth_bytes_per_s is None
    only_if_faster = replace(slow, only_if_faster=True)
    assert survey(20, only_if_faster).memory_bytes_per_s == 60 * MIB
    assert survey(200, only_if_faster).memory_bytes_per_s == 200 * MIB
    assert survey(200, only_if_faster).times_smaller == 1


def test_what_is_told_of_the_link_says_of_which_pages() -> None:
    slow = Shrinking(times_smaller=3.0, packed_bytes_per_s=90 * MIB)
    assert link_of(survey(20)) == "20 MiB/s"
    assert link_of(survey(20, slow)) == "20 MiB/s of pages 3.0 times smaller"
    assert link_of(survey(40, slow)) == "40 MiB/s of pages 3.0 times smaller, packed at 90 MiB/s"
    busy = survey(20, slow)
    assert "The guest writes faster than 20 MiB/s of pages 3.0 times smaller" in reason(busy, priced(busy), 0.0)


@pytest.fixture
def vm() -> MemoryVm:
    return MemoryVm()


@pytest.fixture
def monitor(vm: MemoryVm, tmp_path: Path) -> Iterator[Monitor]:
    address = f"unix:{tmp_path / 'qmp'}"
    with monitor_thread(vm, address), open_monitor(address) as monitor:
        yield monitor


def shrinking(monitor: Monitor, **parameters: object) -> Shrinking | None:
    monitor.execute("migrate-set-parameters", {name.replace("_", "-"): value for name, value in parameters.items()})
    return shrinking_of(monitor, DrivenVm.ask(monitor))


def test_a_vm_of_ours_is_asked_where_it_packs_its_pages(monitor: Monitor) -> None:
    found = Shrinking(times_smaller=2.5, packed_bytes_per_s=300 * MIB)
    assert shrinking(monitor) is AS_THEY_ARE
    assert shrinking(monitor, multifd_compression="zstd") == found
    assert shrinking(monitor, multifd_compression="auto") == replace(found, only_if_faster=True)


def test_a_guest_that_has_written_nothing_goes_as_it_is(vm: MemoryVm, monitor: Monitor) -> None:
    vm.migrations.sample = CompressionSample(page_count=0, ratio=None, bytes_per_s=None)
    assert shrinking(monitor, multifd_compression="zstd") is AS_THEY_ARE
