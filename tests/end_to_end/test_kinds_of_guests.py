"""Every kind of guest of the stress payload moves, and what its memory holds afterwards is one moment."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.wait import wait_until
from vmferry.clock import MonotonicClock
from vmferry.control.asking.result import Result
from vmferry.control.drive import drive, set_up
from vmferry.convergence.variants import VARIANTS
from vmferry.migration.journal import read_migration
from vmferry.migration.outcome import Outcome
from vmferry.perf.lab import Lab, VmProcess

pytestmark = pytest.mark.kvm

VM = ["--memory", "64M", "--cpus", "2"]
FAST = {
    "max-bandwidth": 64 << 20,
    "downtime-limit": 100,
    "x-evaluation-period": 50,
    "x-watch-interval": 50,
    "x-background-sync-interval": 250,
    "verify": True,
}
KINDS = {
    "uniform": "ramsize=32 pattern=uniform",
    "hot-spot": "ramsize=32 pattern=hot-spot working-set=2",
    "moving": "ramsize=32 pattern=moving working-set=4 rounds=4",
    "paced": "ramsize=32 pattern=hot-spot working-set=2 pace=4000",
    "bursts": "ramsize=32 pace=4000 every=500",
    "readers": "vcpus=0 ramsize=16 pattern=read vcpus=1 ramsize=16",
    "filled": "ramsize=4 fill=50",
}


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


def start(lab: Lab, line: str, *options: str) -> tuple[VmProcess, VmProcess, str]:
    source, destination, uri = lab.start_pair(VM, ["--append", line, *options])
    source.wait_for_passes(0)
    return source, destination, uri


def migrate(source: VmProcess, uri: str, **changes: object) -> Result:
    settings = {**VARIANTS["background-sync+responsive-throttle"].settings, **FAST}
    set_up(source.monitor, settings | {name.replace("_", "-"): v for name, v in changes.items()}, auto_converge=True)
    return drive(source.monitor, uri, lambda progress: None, MonotonicClock())


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_guest_arrives_intact_and_goes_on(lab: Lab, kind: str) -> None:
    source, destination, uri = start(lab, KINDS[kind])
    before = source.progress().written_pages
    result = migrate(source, uri)
    assert result.completed, result
    arrived = destination.check_memory().written_pages
    assert arrived >= before
    wait_until(lambda: destination.progress().written_pages > arrived)
    destination.check_memory()


def test_readers_beside_a_writer_lose_next_to_nothing_on_a_live_guest(lab: Lab, tmp_path: Path) -> None:
    journal = tmp_path / "source.journal"
    source, _, uri = start(lab, "vcpus=0 ramsize=16 pattern=read vcpus=1 ramsize=32", "--journal", str(journal))
    result = migrate(source, uri, cpu_throttle_writers=True, max_bandwidth=16 << 20, verify=False)
    assert result.completed, result
    lost_s = Outcome.of(read_migration(journal).entries).vcpu_work_lost_s
    assert lost_s
    reader_s, writer_s = lost_s
    assert writer_s > 4 * reader_s
    assert reader_s < 0.5, "the experiment"
