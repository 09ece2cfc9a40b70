"""What modelled vCPUs do, given how long they are let run."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.known import known
from vmferry.errors import UsageError
from vmferry.experiment.dirty_trace import DirtyTrace
from vmferry.experiment.experiment import Experiment
from vmferry.experiment.parts import GuestSpec, LoadSpec
from vmferry.experiment.scenario import parse_scenario
from vmferry.memory.bitmap import Bitmap
from vmferry.migration.events import Decided
from vmferry.simulation.models import workload_of
from vmferry.simulation.patterns import SweepPattern
from vmferry.simulation.run import simulate
from vmferry.simulation.workload import Demand, Load, Turn, Turns, Work, Workload, Writer

S = 1_000_000_000
MS = S // 1000


def pages_of(work: Work, passed_ns: int, cpu_ns: int, page_count: int = 1000) -> list[int]:
    bitmap = Bitmap(page_count)
    work.write(passed_ns, cpu_ns, bitmap)
    return [int(page) for page in bitmap.runs().indices()]


def written(work: Work, passed_ns: int, cpu_ns: int) -> int:
    bitmap = Bitmap(10**6)
    work.write(passed_ns, cpu_ns, bitmap)
    return bitmap.count()


def paced(share: float, every_ns: int = 0) -> Load:
    """A load that writes 1000 pages/s when it does not wait for work."""
    return Load(SweepPattern(0, 10**6, 1000.0), Demand(share, every_ns))


def test_paced_work_takes_its_share_and_no_more() -> None:
    load = paced(0.25)
    assert written(load, 4 * S, 4 * S) == 1000
    assert written(load, 4 * S, S) == 1000, "a throttle of 75 % costs it nothing"


def test_what_a_throttle_left_undone_is_caught_up_with() -> None:
    load = paced(0.5)
    assert written(load, 4 * S, S) == 1000
    assert written(load, S, S) == 1000, "1.5 s of work are there, 1 s is done"
    assert written(load, S, S) == 1000
    assert written(load, S, S) == 500, "all is done, only what comes is left"


def test_work_that_comes_all_at_once_is_done_as_fast_as_the_cpu_time_allows() -> None:
    load = paced(0.1, every_ns=10 * S)
    assert [written(load, S, S) for _ in range(12)] == [0] * 10 + [1000, 0]


@given(st.lists(st.integers(1, 5 * S), min_size=1, max_size=20), st.sampled_from([0, 700 * MS]))
def test_a_paced_load_cut_into_pieces_is_the_same_load(pieces: list[int], every_ns: int) -> None:
    apart, together = paced(0.3, every_ns), paced(0.3, every_ns)
    count = sum(written(apart, piece, piece) for piece in pieces)
    assert count == pytest.approx(written(together, sum(pieces), sum(pieces)), abs=2 * len(pieces))


@given(st.lists(st.tuples(st.integers(1, 5 * S), st.floats(0, 1)), max_size=20))
def test_nobody_does_more_than_the_cpu_time_or_the_work_allows(pieces: list[tuple[int, float]]) -> None:
    load, done, passed_ns, got_ns = paced(0.3), 0, 0, 0
    for piece_ns, share in pieces:
        cpu_ns = int(piece_ns * share)
        done += written(load, piece_ns, cpu_ns)
        passed_ns, got_ns = passed_ns + piece_ns, got_ns + cpu_ns
    assert done <= min(0.3 * passed_ns, got_ns) / MS + len(pieces) + 1


def turns(*loads: tuple[int, Load]) -> Turns:
    return Turns([Turn(duration_ns, load) for duration_ns, load in loads])


def sweep(first_page: int) -> Load:
    return Load(SweepPattern(first_page, 100, 10))


def test_loads_take_turns_in_cpu_time() -> None:
    phases = turns((S, sweep(0)), (2 * S, sweep(500)))
    assert len(pages_of(phases, S, S)) == 10
    assert min(pages_of(phases, 9 * S, 2 * S)) == 500
    assert pages_of(phases, S, S) == list(range(10, 20))


def test_whole_rounds_of_turns_are_written_at_once() -> None:
    phases = turns((1, Load(SweepPattern(0, 1000, 10))), (1, Load(SweepPattern(1000, 1000, 10))))
    assert len(pages_of(phases, 2**62, 2**62, 2000)) == 2000, "2^61 rounds, but no more than a few steps"
    phases = turns((S, sweep(0)), (2 * S, sweep(500)))
    assert pages_of(phases, 7 * S, 7 * S) == [*range(30), *range(500, 540)]


def test_time_without_cpu_time_counts_for_the_pace_too() -> None:
    phases = turns((S, paced(0.5)), (S, sweep(500)))
    assert pages_of(phases, S, 0) == []
    assert len(pages_of(phases, S, S)) == 1000


def test_each_vcpu_has_its_own_cpu_time() -> None:
    bitmap = Bitmap(1000)
    workload = Workload([Writer(range(1), turns((1, sweep(0)))), Writer(range(1, 2), turns((1, sweep(500))))])
    workload.let_pass(S, [S, S // 2])
    workload.write(bitmap)
    assert bitmap.runs().indices().tolist() == [*range(10), *range(500, 505)]


def test_only_those_are_worked_out_whose_memory_is_looked_at_and_the_others_later_to_the_same() -> None:
    def make() -> Workload:
        return Workload([Writer(range(vcpu, vcpu + 1), turns((1, sweep(500 * vcpu)))) for vcpu in range(2)])

    at_once, bit_by_bit = Bitmap(1000), Bitmap(1000)
    whole, lazy = make(), make()
    whole.let_pass(S, [S, S])
    whole.write(at_once)
    for number in range(10):
        lazy.let_pass(S // 10, [S // 10, S // 10])
        lazy.write(bit_by_bit, 0, 500)
        assert bit_by_bit.runs().indices().tolist() == [*range(number + 1)]
    lazy.write(bit_by_bit)
    assert bit_by_bit == at_once


GUEST = """
name = "guest"
parameters = { downtime-limit = 100 }
[guest]
memory = "64M"
vcpus = 4
throttle-slice = "10ms"
[link]
rate = "100MiB/s"
"""
PACED = 'write-rate = "1GB/s"\npace = "10MB/s"\n'
KINDS = {
    "paced": f'pattern = "uniform"\nmemory = "32M"\n{PACED}',
    "hot-spot": f'pattern = "hot-spot"\nmemory = "32M"\nworking-set = "1M"\n{PACED}',
    "moving": 'pattern = "moving"\nmemory = "32M"\nworking-set = "4M"\nrounds = 8\nwrite-rate = "100MB/s"\n',
    "bursts": f'pattern = "sweep"\nmemory = "32M"\nevery = "2s"\n{PACED}',
    "beside": """pattern = "sweep"\nmemory = "8M"\nwrite-rate = "50MB/s"\nvcpus = [1]
[[guest.loads]]\npattern = "read"\nmemory = "40M"\nat = "8M"\nvcpus = [0, 2, 3]\n""",
}


def scenario_of(load: str) -> Experiment:
    return parse_scenario(f"{GUEST}[[guest.loads]]\n{load}".encode(), "here")


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_guest_migrates(kind: str) -> None:
    result = simulate(scenario_of(KINDS[kind]), "original")
    assert result.status == "completed"
    assert result.sent_bytes
    assert result.sent_bytes > 32 << 20


def test_a_paced_guest_that_keeps_up_is_throttled_for_nothing() -> None:
    free, throttled = paced(0.02), paced(0.02)
    assert written(free, 50 * S, 50 * S) == written(throttled, 50 * S, S + MS) == 1000


@pytest.mark.parametrize("variant", ["original", "periodic-sync", "planned"])
def test_readers_beside_a_writer_lose_next_to_nothing_where_writers_are_slowed(variant: str) -> None:
    scenario = scenario_of(KINDS["beside"]).with_settings(
        {"load.write-rate": "1GB/s", "link.rate": "20MiB/s", "link.batch": "256K"}
    )
    alike = simulate(scenario, variant)
    spread = simulate(
        msgspec.structs.replace(scenario, parameters=scenario.parameters | {"cpu-throttle-writers": True}), variant
    )
    assert spread.completed
    assert alike.vcpu_work_lost_s == []
    assert spread.vcpu_work_lost_s
    readers_s = [lost_s for vcpu, lost_s in enumerate(spread.vcpu_work_lost_s) if vcpu != 1]
    assert max(readers_s) < 0.25, "the experiment"
    assert spread.work_lost_vcpu_s == pytest.approx(sum(spread.vcpu_work_lost_s), rel=1e-6)
    assert alike.work_lost_vcpu_s
    assert sum(spread.vcpu_work_lost_s) < 0.7 * alike.work_lost_vcpu_s
    assert spread.total_time_ms
    assert alike.total_time_ms
    assert spread.total_time_ms < 1.5 * alike.total_time_ms


def test_a_guest_that_tells_what_each_vcpu_wrote_needs_no_experiment() -> None:
    slow = {"load.write-rate": "1GB/s", "link.rate": "20MiB/s", "guest.dirty-ring": "true"}
    scenario = scenario_of(KINDS["beside"]).with_settings(slow)
    parameters = scenario.parameters | {"cpu-throttle-writers": True}
    result = simulate(msgspec.structs.replace(scenario, parameters=parameters), "original")
    assert result.vcpu_work_lost_s
    assert [lost_s for vcpu, lost_s in enumerate(result.vcpu_work_lost_s) if vcpu != 1] == [0, 0, 0]
    decisions = [entry.event for entry in result.entries if isinstance(entry.event, Decided) and entry.event.period_ns]
    told = [decision.vcpu_dirty_bytes for decision in decisions]
    assert all(found and found[1] > 0 and not any((found[0], *found[2:])) for found in told)


def test_a_policy_can_slow_single_vcpus(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(ONE_VCPU)
    text = GUEST + f"[[guest.loads]]\n{KINDS['beside']}[[variant]]\nname = 'one'\npolicy = 'one.py:One'\n"
    result = simulate(parse_scenario(text.encode(), "here", tmp_path), "one")
    assert result.vcpu_work_lost_s
    assert result.vcpu_work_lost_s[1] > 0
    assert [lost_s for vcpu, lost_s in enumerate(result.vcpu_work_lost_s) if vcpu != 1] == [0, 0, 0]


ONE_VCPU = """
import msgspec
from vmferry.convergence.actions import of_each_vcpu
from vmferry.convergence.sensing import Body

class One:
    class Settings(msgspec.Struct, frozen=True):
        pass
    needs = Body.THROTTLE | Body.PER_VCPU
    def look(self, view, settings):
        if view.throttle_percent == 0:
            yield of_each_vcpu((0, 90, 0, 0), "the writer")
"""


@pytest.mark.parametrize(
    ("load", "named"),
    [
        ('pattern = "sweep"\nvcpus = [4]\n', r"vcpus is 4, 0 to 3"),
        ('pattern = "sweep"\nvcpus = [1, 1]\n', "names a vCPU twice"),
        ('pattern = "sweep"\nmemory = "32M"\nat = "40M"\n', "memory is 32M, at 40M, the guest has 64M"),
        ('pattern = "sweep"\npace = "1MB/s"\n', "pace needs write-rate"),
        ('pattern = "sweep"\nevery = "1s"\n', "every needs pace"),
        ('pattern = "sweep"\npace = "1MB/s"\nwrite-rate = "1MB/s"\nevery = "1ms"\n', "every is 1ms"),
        ('pattern = "hot-spot"\nmemory = "32M"\n', "working-set is 0, 4096 to 33554432"),
        ('pattern = "moving"\nmemory = "1M"\nworking-set = "2M"\n', "working-set is 2097152, 4096 to 1048576"),
        ('pattern = "sweep"\nmemory = "1M"\nworking-set = "1M"\n', "'sweep' has none; hot-spot and moving have"),
        ('pattern = "hot-spot"\nmemory = "1M"\nworking-set = "1M"\nhot-share = 1.5\n', "hot-share is 1.5, 0 to 1"),
        ('pattern = "moving"\nmemory = "1M"\nworking-set = "1M"\nrounds = 0\n', "rounds is 0, 1 to"),
    ],
)
def test_what_a_load_cannot_be_is_named(load: str, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        scenario_of(load)


def test_planned_slows_no_reader_where_the_body_tells_what_each_vcpu_wrote_and_tries_nothing_where_not() -> None:
    slow = {"load.write-rate": "1GB/s", "link.rate": "20MiB/s"}
    told = simulate(scenario_of(KINDS["beside"]).with_settings({**slow, "guest.dirty-ring": "true"}), "planned")
    untold = simulate(scenario_of(KINDS["beside"]).with_settings(slow), "planned")
    assert told.completed
    assert told.vcpu_work_lost_s
    assert [lost_s for vcpu, lost_s in enumerate(told.vcpu_work_lost_s) if vcpu != 1] == [0, 0, 0]
    assert untold.vcpu_work_lost_s == []
    assert known(told.work_lost_vcpu_s) < 0.5 * known(untold.work_lost_vcpu_s)
    assert known(told.total_time_ms) < 1.2 * known(untold.total_time_ms)


def test_a_recorded_load_that_comes_again_in_turns_goes_on_where_it_was() -> None:
    """Two bursts that write a tenth each have written a fifth."""
    trace = DirtyTrace(used_pages=1000, sweeps=((1000, S),), steps=((S, 1.0),), shortest_ns=S)
    burst = LoadSpec(pattern="trace", trace=trace, duration_ns=S // 10)
    guest = GuestSpec(memory_bytes=4096 * 1000, vcpu_count=1, loads=(burst, LoadSpec(pattern="idle"), burst))
    bitmap = Bitmap(1000)
    workload = workload_of(guest, np.random.default_rng(1))
    workload.let_pass(12 * S // 10, [12 * S // 10])
    workload.write(bitmap)
    assert bitmap.count() == 200
