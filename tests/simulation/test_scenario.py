"""Scenario files are read as if a stranger had written them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.errors import UsageError
from vmferry.simulation.run import simulate
from vmferry.simulation.scenario import load_scenario, parse_scenario

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
        ('memory = "1G"', 'memory = "much"', "'much' is not a size"),
        ('memory = "100M"', 'memory = "2G"', r"guest.loads\[0\].memory is 2G, the guest has 1G"),
        ("vcpus = 2", "vcpus = 0", "guest.vcpus is 0, 1 to 4096"),
        ("vcpus = 2", 'vcpus = "two"', r"\$.guest.vcpus"),
        ('"sweep"', '"dance"', "dance"),
        ('"1Gbit/s"', '"fast"', "'fast' is not a rate"),
        ('"1Gbit/s"', '"1Gbit/s", jitter = 3.0', "link.jitter is 3.0, 0 up to but not 1"),
        ('"1Gbit/s"', '"1Gbit/s", share = 0.0', "link.share must be above 0"),
        ('name = "x"', 'name = "x"\nvariants = ["fastest"]', "no variant 'fastest'; there are: original"),
        ('name = "x"', 'name = "x"\nparameters = { downtime-limit = -1 }', "'downtime-limit' expects uint64"),
        ('name = "x"', 'name = "x"\nparameters = { speed = 1 }', "'speed' is unexpected"),
        ('name = "x"', 'name = "x"\nseeds = 0', "seeds is 0, 1 to 10000"),
    ],
)
def test_what_is_wrong_is_named(old: str, new: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=f"^here: .*{complaint}"):
        parse_scenario(GOOD.replace(old, new).encode(), "here")


def test_a_good_one_is_read(tmp_path: Path) -> None:
    (tmp_path / "good.toml").write_text(GOOD)
    assert load_scenario(tmp_path / "good.toml").page_count() == 1 << 18


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read the scenario .*none.toml: No such file"):
        load_scenario(tmp_path / "none.toml")


@given(st.binary(max_size=200))
def test_garbage_is_refused_in_one_line(garbage: bytes) -> None:
    with pytest.raises(UsageError) as caught:
        parse_scenario(garbage, "here")
    assert "\n" not in str(caught.value)


def test_the_benchmarks_scenario_can_be_simulated() -> None:
    scenario = load_scenario(Path(__file__).parents[2] / "bench" / "huge.toml")
    assert scenario.page_count() == 1 << 28
    small = scenario.with_settings({"guest.memory": "1G", "load.memory": "512M", "guest.vcpus": "4"})
    assert simulate(small, "background-sync").status == "completed"
