"""Scenario files are read as if a stranger had written them."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.errors import UsageError
from vmferry.experiment.experiment import Experiment
from vmferry.experiment.scenario import load_scenario, load_scenarios, parse_scenario
from vmferry.memory.bitmap import Bitmap
from vmferry.simulation.models import link_of, workload_of
from vmferry.simulation.run import simulate

GOOD = """
name = "x"
guest = { memory = "1G", vcpus = 2, loads = [{ pattern = "sweep", memory = "100M", write-rate = "1GiB/s" }] }
link = { rate = "1Gbit/s" }
"""


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('name = "x"', "name = ", "Invalid value"),
        ('name = "x"', 'nam = "x"', "`nam`"),
        ('memory = "1G"', "memory = 4096", "guest.memory is 4096; write it as a text"),
        ('"1Gbit/s"', '"1Gbit/s", rate-changes = [["2s", 5]]', r"link.rate-changes\[0\] is 5; write it as a text"),
        ('memory = "1G"', 'memory = "much"', "'much' is not a size"),
        ('memory = "100M"', 'memory = "2G"', r"guest.loads\[0\].memory is 2G, the guest has 1G"),
        ("vcpus = 2", "vcpus = 0", "guest.vcpus is 0, 1 to 4096"),
        ("vcpus = 2", 'vcpus = "two"', r"\$.guest.vcpus"),
        ('"sweep"', '"dance"', "dance"),
        ('"1Gbit/s"', '"fast"', "'fast' is not a rate"),
        ('"1Gbit/s"', '"1Gbit/s", jitter = 3.0', "link.jitter is 3.0, 0 up to but not 1"),
        ('"1Gbit/s"', '"1Gbit/s", share = 0.0', "link.share is 0.0, above 0 up to 1"),
        ('"1Gbit/s"', '"1Gbit/s", share = nan', "link.share is nan, above 0 up to 1"),
        ('"1Gbit/s"', '"1", share = 0.5', "link.share is 0.5, that of 1 is less than 1 byte per second"),
        ('"1Gbit/s"', '"0"', "link.rate is 0, 1 B/s to 1 PiB/s"),
        ('"1Gbit/s"', '"2000T"', "link.rate is 2000T, 1 B/s to"),
        ('"1Gbit/s"', f'"{"9" * 400}"', "'999.*' is not a rate"),
        ('"1Gbit/s"', '"1Gbit/s", latency = "2h"', "link.latency is 2h, 0 ms to 1 h"),
        ('"1Gbit/s"', '"1Gbit/s", jitter-interval = "1ns"', "link.jitter-interval is 1ns, 1 ms to 1000 h"),
        ('"1Gbit/s"', '"1Gbit/s", lost-at = ""', "'' is not a duration"),
        ('"1Gbit/s"', '"1Gbit/s", lost-at = "2000h"', "link.lost-at is 2000h, 0 ms to 1000 h"),
        ('"1Gbit/s"', '"1Gbit/s", rate-changes = [["2000h", "1"]]', "a time of link.rate-changes is 2000h"),
        ('"1Gbit/s"', '"1Gbit/s", rate-changes = [["2s", "2000T"]]', "a rate of link.rate-changes is 2000T"),
        ("vcpus = 2", "vcpus = 2, sync-ns-per-page = nan", "guest.sync-ns-per-page is nan, 0 to 13732910.15"),
        ("vcpus = 2", "vcpus = 2, sync-ns-per-page = inf", "guest.sync-ns-per-page is inf, 0 to"),
        ("vcpus = 2", "vcpus = 2, sync-ns-per-page = -1.0", "guest.sync-ns-per-page is -1.0, 0 to"),
        ("vcpus = 2", "vcpus = 2, sync-ns-per-page = 1e300", r"guest.sync-ns-per-page is 1e\+300, 0 to"),
        ("vcpus = 2", "vcpus = 2, stolen = 1", "guest.stolen is 1.0, 0 up to but not 1 is allowed"),
        ("vcpus = 2", 'vcpus = 2, stolen-for = "1ns"', "guest.stolen-for is 1ns, 1 ms to 1000 h"),
        ("vcpus = 2", 'vcpus = 2, ran-for = "2h"', "guest.ran-for is 2h, 0 ms to 1 h is allowed"),
        ("vcpus = 2", 'vcpus = 2, throttle-slice = "1ns"', "guest.throttle-slice is 1ns, 1 ms to 1000 h"),
        ("vcpus = 2", 'vcpus = 2, zero-scan-rate = "2000T"', "guest.zero-scan-rate is 2000T"),
        ("vcpus = 2", 'vcpus = 2, used-memory = "2G"', "guest.used-memory is 2G, the guest has 1G"),
        ('memory = "1G"', 'memory = "1"', "guest.memory is 1, less than a page"),
        ('memory = "1G"', 'memory = "17T"', "guest.memory is 17T, at most 16 TiB"),
        ('memory = "100M"', 'memory = "4095"', r"guest.loads\[0\].memory is 4095, less than a page"),
        ('"1GiB/s"', '"2000T"', r"guest.loads\[0\].write-rate is 2000T"),
        ('"1GiB/s"', '"1GiB/s", zipf-exponent = nan', r"guest.loads\[0\].zipf-exponent is nan, 0 to 10"),
        ('"1GiB/s"', '"1GiB/s", zipf-exponent = 1100.0', r"zipf-exponent is 1100.0, 0 to 10"),
        ('"1GiB/s"', '"1GiB/s", zipf-exponent = -1.0', r"zipf-exponent is -1.0, 0 to 10"),
        ('"1GiB/s"', '"1GiB/s", duration = "1ns"', r"guest.loads\[0\].duration is 1ns, 1 ms to 1000 h"),
        ('"sweep"', '"trace", journal = "a\\u0000b"', "characters that cannot be printed"),
        ('name = "x"', 'name = "x"\n"\\u001b[2J\\n" = 1', r"unknown field `\?\[2J\?`"),
        ('name = "x"', 'name = "x"\nvariants = []', "variants is empty; there are: original"),
        ('name = "x"', 'name = "x"\nlimits = { max-iterations = 0 }', "limits.max-iterations is 0, 1 to"),
        ('name = "x"', f'name = "x"\nseeds = {"9" * 5000}', "Exceeds the limit"),
        ('name = "x"', 'name = "x"\nlimits = { max-time = "0s" }', "limits.max-time is 0s, 1 ms to 1000 h"),
        ('name = "x"', f'name = "x"\nq = {"[" * 3000}', "nested too deeply"),
        ('name = "x"', 'name = "x"\nvariants = ["fastest"]', "no variant 'fastest'; there are: original"),
        ('name = "x"', 'name = "x"\nparameters = { downtime-limit = -1 }', "'downtime-limit' expects uint64"),
        ('name = "x"', 'name = "x"\nparameters = { speed = 1 }', "'speed' is unexpected"),
        ('name = "x"', 'name = "x"\ntime-scale = 0', "time-scale is 0, 1 to 1000"),
        ('name = "x"', 'name = "x"\nseeds = 0', "seeds is 0, 1 to 10000"),
    ],
)
def test_what_is_wrong_is_named(old: str, new: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=f"^here: .*{complaint}"):
        parse_scenario(GOOD.replace(old, new).encode(), "here")


@pytest.mark.parametrize(
    ("old", "new", "allowed"),
    [
        ('"sweep"', '"dance"', "there are: hot-cold, hot-spot, idle, moving, read, sweep, trace, uniform$"),
        (
            '"sweep"',
            '"sweep", colour = "red"',
            "there are: pattern, memory, write-rate, .*, journal$",
        ),
        ('rate = "1Gbit/s"', 'rate = "1Gbit/s", speed = 1', "there are: rate, share, latency, jitter, "),
        (
            'name = "x"',
            'name = "x"\nseed = 1',
            "there are: name, .*, limits, time-scale, driven, variant, variants, seeds$",
        ),
        (
            'name = "x"',
            'name = "x"\nparameters.downtime = 1',
            "there are: throttle-trigger-threshold, .*verify",
        ),
        ('name = "x"', 'name = "x"\nparameters.background-sync = "on"', "there are: off, preserve, merge$"),
        ('name = "x"', 'name = "x"\nvariants = ["new"]', "there are: original, background-sync, "),
    ],
)
def test_what_is_allowed_instead_is_listed(old: str, new: str, allowed: str) -> None:
    with pytest.raises(UsageError, match=f"^here: .*{allowed}"):
        parse_scenario(GOOD.replace(old, new, 1).encode(), "here")


def test_a_path_may_be_text(tmp_path: Path) -> None:
    (tmp_path / "good.toml").write_text(GOOD)
    assert load_scenario(str(tmp_path / "good.toml")) == load_scenario(tmp_path / "good.toml")
    assert load_scenario("seed-3000").name == "seed-3000MB"


def test_a_good_one_is_read(tmp_path: Path) -> None:
    (tmp_path / "good.toml").write_text(GOOD)
    assert load_scenario(tmp_path / "good.toml").guest.page_count == 1 << 18


def test_a_number_alone_is_bytes_or_bytes_per_second() -> None:
    plain = GOOD.replace('"1G"', f'"{1 << 30}"').replace('"1Gbit/s"', '"125000000"')
    assert plain != GOOD
    first, second = (parse_scenario(text.encode(), "here") for text in (GOOD, plain))
    assert first.guest.page_count == second.guest.page_count == 1 << 18
    assert link_of(first.link) == link_of(second.link)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read the scenario .*none.toml: No such file"):
        load_scenario(tmp_path / "none.toml")


def test_devices_and_pipes_which_may_never_end_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev/zero"), tmp_path / "pipe", tmp_path):
        with pytest.raises(UsageError, match=f"cannot read the scenario {path}: not a regular file"):
            load_scenario(path)
    load = 'loads = [{ pattern = "trace", journal = "pipe" }]'
    text = f'name = "x"\nguest = {{ memory = "1G", vcpus = 1, {load} }}\nlink = {{ rate = "1Gbit/s" }}'
    with pytest.raises(UsageError, match=r"cannot read the journal .*pipe: not a regular file"):
        parse_scenario(text.encode(), "here", tmp_path)


def test_a_file_without_end_is_not_read_whole(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UsageError, match="larger than 1048576 bytes"):
        load_scenario(tmp_path / "large")


def test_what_comes_along_is_found_by_name_unless_there_is_such_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_scenario(Path("seed-3000")).name == "seed-3000MB"
    Path("seed-3000").write_text(GOOD)
    assert load_scenario(Path("seed-3000")).name == "x"
    with pytest.raises(UsageError, match="No such file"):
        load_scenario(tmp_path / "seed-5000")


def test_different_scenarios_of_one_name_are_refused(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a", "same", "other")]
    for path, text in zip(paths, (GOOD, GOOD, GOOD.replace("1Gbit/s", "2Gbit/s")), strict=True):
        path.write_text(text)
    assert len(load_scenarios(paths[:2])) == 1
    with pytest.raises(UsageError, match="other: another scenario has the same name"):
        load_scenarios(paths)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"guest.sync-ns-per-page": "nan"}, "sync-ns-per-page is nan"),
        ({"load.zipf-exponent": "inf"}, "zipf-exponent is inf"),
        ({"load.write-rate": "9" * 5000}, "is not a rate"),
        ({"limits.max-iterations": "0"}, "max-iterations is 0"),
        ({"load.speed": "1"}, "of 'load' there are: pattern, memory, write-rate"),
        ({"lnk.rate": "1"}, "sections: guest, load, link, parameters, limits"),
        ({"load.pattern": "trace"}, r"guest.loads\[0\].pattern"),
    ],
)
def test_what_is_set_is_checked_like_what_is_written(settings: dict[str, str], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        parse_scenario(GOOD.encode(), "here").with_settings(settings)


def run(scenario: Experiment, passed_ns: int, bitmap: Bitmap) -> None:
    """Let the guest run, not throttled."""
    cpu_ns = [passed_ns] * scenario.guest.vcpu_count
    workload = workload_of(scenario.guest, np.random.default_rng(0))
    workload.let_pass(passed_ns, cpu_ns)
    workload.write(bitmap)


def written_pages(scenario: Experiment) -> int:
    bitmap = Bitmap(scenario.guest.page_count)
    run(scenario, 10**12, bitmap)
    return bitmap.count()


WITH_WORKING_SET = {pattern: {"load.working-set": "4096"} for pattern in ("hot-spot", "moving")}


@pytest.mark.parametrize("pattern", ["sweep", "uniform", "hot-cold", "hot-spot", "moving"])
@pytest.mark.parametrize("page_count", [1, 5, 128, 1001])
def test_every_page_of_a_load_is_written_however_many_vcpus_share_it(pattern: str, page_count: int) -> None:
    scenario = parse_scenario(GOOD.encode(), "here").with_settings(
        {
            "guest.vcpus": "128",
            "load.pattern": pattern,
            "load.memory": str(page_count * 4096),
            **WITH_WORKING_SET.get(pattern, {}),
        }
    )
    assert written_pages(scenario) == page_count


def test_vcpus_write_as_much_together_as_the_load_says() -> None:
    settings = {"guest.vcpus": "3", "load.memory": "100M", "load.write-rate": "4000000"}
    scenario = parse_scenario(GOOD.encode(), "here").with_settings(settings)
    bitmap = Bitmap(scenario.guest.page_count)
    run(scenario, 10**9, bitmap)
    assert bitmap.count() == pytest.approx(4_000_000 / 4096, abs=3)


@pytest.mark.parametrize(
    "settings",
    [{"guest.used-memory": "512M"}, {"load.pattern": "idle", "load.memory": "512M"}],
)
def test_memory_that_is_used_is_sent_though_nobody_writes_it(settings: dict[str, str]) -> None:
    scenario = parse_scenario(GOOD.encode(), "here").with_settings({"load.write-rate": "0"} | settings)
    result = simulate(scenario, "original")
    assert result.iteration_count == 2
    assert result.sent_per_memory == pytest.approx(0.5, rel=0.01)


@given(st.binary(max_size=200))
def test_garbage_is_refused_in_one_line(garbage: bytes) -> None:
    with pytest.raises(UsageError) as caught:
        parse_scenario(garbage, "here")
    assert str(caught.value).isprintable()


def test_the_benchmarks_scenario_can_be_simulated() -> None:
    scenario = load_scenario(Path(__file__).parents[2] / "bench" / "huge.toml")
    assert scenario.guest.page_count == 1 << 28
    small = scenario.with_settings({"guest.memory": "1G", "load.memory": "512M", "guest.vcpus": "4"})
    assert simulate(small, "background-sync").status == "completed"


def test_a_time_scale_divides_the_constants_of_time_and_parameters_go_before_it() -> None:
    text = GOOD + "time-scale = 10\nparameters = { x-watch-interval = 70 }\n"
    parameters = parse_scenario(text.encode(), "here").migration_parameters("original")
    assert (parameters.x_evaluation_period, parameters.x_background_sync_interval) == (100, 500)
    assert parameters.x_watch_interval == 70
