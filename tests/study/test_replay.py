"""What-if: a recorded guest under another variant comes to what that guest itself would have come to."""

import re
from functools import cache
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from tests.support.known import known
from vmferry.cli.replay import command as replay_command
from vmferry.errors import UsageError
from vmferry.experiment.experiment import Experiment
from vmferry.experiment.scenario import load_scenario, parse_scenario
from vmferry.migration.events import BandwidthWindow, Ended, Started, Synced
from vmferry.migration.journal import Entry, read_migration
from vmferry.simulation.models import link_of
from vmferry.simulation.qemu.releases import RELEASES
from vmferry.simulation.run import SimulationResult, simulate
from vmferry.study.driven import DrivenRun
from vmferry.study.replay import read_replay

DATA = Path(__file__).parents[1] / "data"
REAL = DATA / "busy-guest.jsonl.gz"
"""A KVM guest of 256 MiB that rewrote 64 MiB, migrated at 60 MiB/s."""
ENTRIES = read_migration(REAL).entries

RESPONSIVE = "background-sync+responsive-throttle"
TOLERANCE = 0.15
BY_CHANCE = ("uniform", RESPONSIVE)
"""Its dirty ratio hardly changes from one evaluation to the next, and whether it rises decides: docs/simulation.md."""


def scenario(pattern: str) -> Experiment:
    load = f'{{ pattern = "{pattern}", memory = "400M", write-rate = "4GB/s" }}'
    return parse_scenario(
        f"""
        name = "{pattern}"
        guest = {{ memory = "512M", vcpus = 2, throttle-slice = "10ms", loads = [{load}] }}
        link = {{ rate = "10Gbit/s" }}
        parameters = {{ max-bandwidth = 62914560, downtime-limit = 300 }}
        """.encode(),
        pattern,
    )


@cache
def simulated(pattern: str, variant: str) -> SimulationResult:
    """Return what is recorded, and what a replay should come to."""
    return simulate(scenario(pattern), variant, seed=1)


@pytest.mark.parametrize("pattern", ["sweep", "uniform", "hot-cold"])
@pytest.mark.parametrize("recorded_variant", ["original", RESPONSIVE])
@pytest.mark.parametrize("variant", ["original", "background-sync", RESPONSIVE])
def test_another_variant_is_foretold(pattern: str, recorded_variant: str, variant: str) -> None:
    recorded, real = simulated(pattern, recorded_variant), simulated(pattern, variant)
    replayed = simulate(read_replay(recorded.entries, "x", {}, {}).scenario, variant)
    assert replayed.status == real.status == "completed"
    tolerance = 0.3 if (pattern, variant) == BY_CHANCE else TOLERANCE
    assert replayed.total_time_ms == pytest.approx(real.total_time_ms, rel=tolerance)
    assert replayed.work_lost_vcpu_s == pytest.approx(real.work_lost_vcpu_s, rel=2 * tolerance)


def driven(release: str, variant: str, load: str) -> DrivenRun:
    """Drive a modelled QEMU to the end, and keep its journal."""
    text = f"""
    name = "driven"
    driven = "{release}"
    guest = {{ memory = "512M", vcpus = 1, populate-rate = "300MiB/s", loads = [{{ {load} }}] }}
    link = {{ rate = "1000MiB/s" }}
    parameters = {{ max-bandwidth = 104857600, downtime-limit = 300 }}
    """
    run = DrivenRun(parse_scenario(text.encode(), "driven"), variant, 1)
    assert run.run().completed
    return run


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("variant", ["original", RESPONSIVE])
@pytest.mark.parametrize("load", ['pattern = "sweep", memory = "256M"', 'pattern = "uniform", memory = "300M"'])
def test_a_qemus_migration_is_replayed_as_it_was(release: str, variant: str, load: str) -> None:
    entries = driven(release, variant, f'{load}, write-rate = "1.9GB/s"').journal.entries
    replayed = read_replay(entries, "x", {}, {}).as_recorded()
    ended = entries[-1].event
    assert isinstance(ended, Ended)
    assert replayed.status == "completed"
    assert replayed.total_time_ms == pytest.approx(known(ended.total_time_ns) / 1e6, rel=0.05)


def test_a_qemus_guest_that_its_journal_does_not_tell_enough_of_is_refused(tmp_path: Path) -> None:
    run = driven("qemu-7.2", RESPONSIVE, 'pattern = "hot-cold", memory = "200M", write-rate = "300MB/s"')
    path = tmp_path / "hot-cold.jsonl"
    path.write_bytes(b"\n".join(map(msgspec.json.encode, run.journal.entries)) + b"\n")
    result = CliRunner().invoke(replay_command, [str(path)])
    assert isinstance(result.exception, UsageError)
    assert re.search(r"it took 4\.\d+ s, but replayed it is", str(result.exception))


def test_another_link_is_foretold() -> None:
    recorded = simulate(scenario("sweep"), "original")
    replay = read_replay(recorded.entries, "x", {"max-bandwidth": 120 << 20}, {})
    real = simulate(scenario("sweep").with_settings({"parameters.max-bandwidth": str(120 << 20)}), "original")
    assert simulate(replay.scenario, "original").total_time_ms == pytest.approx(real.total_time_ms, rel=0.15)


def on_the_wire(entry: Entry) -> Entry:
    """What would have been recorded if pages had been three times smaller, and so the link and its limit."""
    event = entry.event
    if isinstance(event, BandwidthWindow):
        sent_bytes = event.sent_bytes // 3
        event = msgspec.structs.replace(event, sent_bytes=sent_bytes, saved_bytes=event.sent_bytes - sent_bytes)
    elif isinstance(event, Started):
        smaller = {"multifd-compression": "zstd", "max-bandwidth": int(str(event.parameters["max-bandwidth"])) // 3}
        event = msgspec.structs.replace(event, parameters=event.parameters | smaller)
    return msgspec.structs.replace(entry, event=event)


@pytest.mark.parametrize("limit", [0, 60 << 20])
def test_pages_that_were_compressed_move_as_fast_as_they_did(limit: int) -> None:
    recorded = simulate(scenario("sweep").with_settings({"parameters.max-bandwidth": str(limit)}), "original")
    compressed = read_replay([on_the_wire(entry) for entry in recorded.entries], "x", {}, {})
    plain = read_replay(recorded.entries, "x", {}, {})
    assert compressed.times_smaller == pytest.approx(3, rel=0.001)
    replayed, expected = (simulate(replay.scenario, "original") for replay in (compressed, plain))
    assert replayed.total_time_ms == pytest.approx(expected.total_time_ms, rel=0.02)


def test_a_real_migration_is_replayed_as_it_was() -> None:
    replayed = simulate(read_replay(ENTRIES, "x", {}, {}).scenario, RESPONSIVE)
    recorded_ns = ENTRIES[-1].time_ns - ENTRIES[0].time_ns
    assert replayed.total_time_ms == pytest.approx(recorded_ns / 1e6, rel=0.1)


def test_a_link_that_waited_for_the_scan_of_zero_memory_is_not_slow() -> None:
    text = """
    name = "mostly zero"
    link = { rate = "10Gbit/s" }
    [guest]
    memory = "16G"
    vcpus = 2
    zero-scan-rate = "1100MiB/s"
    loads = [{ pattern = "sweep", memory = "800M", write-rate = "20MB/s" }]
    """
    recorded = simulate(parse_scenario(text.encode(), "x"), "original")
    replay = read_replay(recorded.entries, "x", {}, {})
    replayed = simulate(replay.scenario, "original")
    assert not replay.link_rate_is_lower_bound
    assert link_of(replay.scenario.link).bytes_per_s == pytest.approx(1.25e9, rel=0.1)
    assert replayed.total_time_ms == pytest.approx(recorded.total_time_ms, rel=0.05)
    assert known(replayed.downtime_ms) < 300  # the default limit, which a slow link would exceed


def test_a_link_that_sent_next_to_nothing_is_only_known_from_below() -> None:
    text = """
    name = "x"
    guest = { memory = "64M", vcpus = 1, used-memory = "512K", loads = [{ pattern = "idle" }] }
    link = { rate = "1Gbit/s" }
    """
    recorded = simulate(parse_scenario(text.encode(), "x"), "original")
    assert read_replay(recorded.entries, "x", {}, {}).link_rate_is_lower_bound


@given(st.data())
def test_numbers_that_cannot_be_are_refused_or_harmless(data: st.DataObject) -> None:
    entries = list(ENTRIES)
    for _ in range(data.draw(st.integers(1, 5))):
        index = data.draw(st.integers(0, len(entries) - 1))
        time_ns, event = entries[index].time_ns, entries[index].event
        number = data.draw(st.sampled_from([0, -1, 1, 2**31, 2**62, 2**63 - 1, -(2**63), 10**30]))
        names = [name for name in event.__struct_fields__ if type(getattr(event, name)) is int]
        if name := data.draw(st.sampled_from([*names, ""])):
            event = msgspec.structs.replace(event, **{name: number})
        else:
            time_ns = number
        entries[index] = Entry(time_ns, event)
    try:
        read_replay(entries, "here", {}, {})
    except UsageError as error:
        assert str(error).startswith("here: ")
        assert "\n" not in str(error)


def test_a_scenario_file_names_a_journal_beside_it(tmp_path: Path) -> None:
    (tmp_path / "recorded.gz").write_bytes(REAL.read_bytes())
    text = """
    name = "as recorded"
    guest = { memory = "128M", vcpus = 2, loads = [{ pattern = "trace", journal = "recorded.gz" }] }
    link = { rate = "60MiB/s" }
    """
    (tmp_path / "x.toml").write_text(text)
    result = simulate(load_scenario(tmp_path / "x.toml"), "original")
    assert result.status == "completed"
    assert result.max_throttle_percent == 99


@pytest.mark.parametrize(
    ("load", "named"),
    [
        ('{ pattern = "trace" }', "journal = 'FILE'"),
        ('{ pattern = "sweep", journal = "x" }', "journal = 'FILE'"),
        ('{ pattern = "trace", journal = "nowhere" }', "nowhere"),
        (f'{{ pattern = "trace", journal = "{REAL}", memory = "64M" }}', "only duration"),
        (f'{{ pattern = "trace", journal = "{REAL}", write-rate = "1GB/s" }}', "only duration"),
    ],
)
def test_a_trace_without_its_journal_is_refused(load: str, named: str) -> None:
    text = f'name = "x"\nguest = {{ memory = "1G", vcpus = 1, loads = [{load}] }}\nlink = {{ rate = "1Gbit/s" }}'
    with pytest.raises(UsageError, match=named):
        parse_scenario(text.encode(), "x")


@pytest.mark.parametrize(
    ("parameters", "link", "named"),
    [({"downtime-limit": -1}, {}, "downtime"), ({}, {"jitter": "2.0"}, "jitter"), ({}, {"latency": "soon"}, "soon")],
)
def test_what_cannot_be_is_named(parameters: dict[str, object], link: dict[str, str], named: str) -> None:
    with pytest.raises(UsageError, match=f"^here: .*{named}"):
        scenario = read_replay(ENTRIES, "here", parameters, link).scenario
        scenario.migration_parameters("original")


def test_syncs_that_took_centuries_are_refused_and_long_ones_replayed() -> None:
    def replay(duration_ns: int) -> Experiment:
        entries = [
            Entry(entry.time_ns, msgspec.structs.replace(entry.event, duration_ns=duration_ns))
            if isinstance(entry.event, Synced)
            else entry
            for entry in ENTRIES
        ]
        return read_replay(entries, "here", {}, {}).scenario

    with pytest.raises(UsageError, match=r"^here: guest.sync-ns-per-page is"):
        replay(2**62)
    assert simulate(replay(3599 * 10**9), "original").status == "cancelled"
