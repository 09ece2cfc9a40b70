"""A scenario's loads are the stress payload's."""

from typing import Any

import msgspec
import pytest

from vmferry.errors import UsageError
from vmferry.experiment.parts import GuestSpec, LoadSpec
from vmferry.perf.stress_line import is_paced, stress_line
from vmferry.units import MIB


def guest(*loads: dict[str, Any]) -> GuestSpec:
    plain = LoadSpec(pattern="sweep", memory_bytes=64 * MIB)
    specs = tuple(msgspec.structs.replace(plain, **load) for load in loads)
    return GuestSpec(memory_bytes=512 * MIB, vcpu_count=4, loads=specs)


@pytest.mark.parametrize(
    ("loads", "line"),
    [
        ([{}], "ramsize=64"),
        ([{"fill": 0.5, "whole_pages": True}], "ramsize=64 fill=50 mode=xor"),
        ([{"pattern": "uniform", "pace_bytes_per_s": 80 << 20}], "ramsize=64 pattern=uniform pace=20480"),
        ([{"pace_bytes_per_s": 1, "every_ns": 10**10}], "ramsize=64 pace=1 every=10000"),
        (
            [{"pattern": "hot-spot", "working_set_bytes": 20 * MIB}],
            "ramsize=64 pattern=hot-spot working-set=20 hot-share=75",
        ),
        (
            [{"pattern": "moving", "working_set_bytes": 8 * MIB, "rounds": 3}],
            "ramsize=64 pattern=moving working-set=8 rounds=3",
        ),
        (
            [{"vcpus": (1,)}, {"pattern": "read", "vcpus": (0, 2, 3)}],
            "vcpus=1 ramsize=64 vcpus=0,2,3 ramsize=64 pattern=read",
        ),
    ],
)
def test_each_kind_of_load_has_its_words(loads: list[dict[str, Any]], line: str) -> None:
    assert stress_line(guest(*loads)) == line
    assert is_paced(guest(*loads)) == ("pace" in line)


@pytest.mark.parametrize(
    ("loads", "why"),
    [
        ([{"pattern": "hot-cold"}], "no real guest has pattern = 'hot-cold'"),
        ([{"memory_bytes": 1000}], "memory is 1000; a real guest has whole MiB"),
        ([{"pattern": "uniform", "whole_pages": True}], "with pattern = 'sweep' only"),
        ([{}, {}], "a vCPU of a real guest has one load"),
        ([{}, {"vcpus": (1,)}], "a vCPU of a real guest has one load"),
    ],
)
def test_what_no_real_guest_does_is_refused(loads: list[dict[str, Any]], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        stress_line(guest(*loads))
