import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmferry.agent.config import MAX_FILE_BYTES, Config, parse_config, read_config
from vmferry.agent.rules import Mode
from vmferry.agent.toml_lines import line_of
from vmferry.convergence.limits import Limits, OnLimit
from vmferry.errors import UsageError

GOOD = """\
libvirt = [
    "qemu:///system",
]

[[rule]]
name = "db-*"
mode = "steer"
policy = "planned"
finish-by = "10min"
max-guest-loss = "30%"

[[rule]]
tag = "batch"
mode = "ignore"
max-downtime = "300ms"
on-limit = "continue"
"""


def test_a_file_says_places_and_rules() -> None:
    config = parse_config(GOOD, "a")
    assert config.libvirt == ("qemu:///system",)
    first, second = config.rule
    assert first.mode is Mode.STEER
    assert first.limits == Limits(deadline_ns=600 * 10**9, max_guest_loss_percent=30)
    assert second.limits == Limits(max_downtime_ms=300, on_limit=OnLimit.CONTINUE)


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ('"10min"', '"10"', 9, ["finish-by", "'10'", "5min"]),
        ('"10min"', '"0s"', 9, ["to finish by 0 s"]),
        ('"300ms"', "300", 15, ["max-downtime", "in quotes"]),
        ('"30%"', '"130%"', 10, ["max-guest-loss", "0% to 100%"]),
        ("policy =", "polcy =", 8, ["unknown field `polcy`", "policy"]),
        ('"planned"', '"plan"', 8, ["no convergence policy 'plan'", "planned"]),
        ('"ignore"', '"foo"', 14, ["'foo'", "ignore, watch, shadow, steer"]),
        ("libvirt =", "librvirt =", 1, ["unknown field `librvirt`", "libvirt"]),
        ('"qemu:///system",', "3", 1, ["Expected `str`"]),
        ('"batch"', '"batch', 13, ["Illegal character"]),
        ('"batch"', '"batch"\nuuid = "7"', 14, ["rule[1].uuid", "'7' is not a UUID"]),
        ('"continue"', '"continue"\nvariant = "both"\n', 17, ["no variant 'both'", "planned"]),
        ('"planned"', '"planned"\nvariant = "original"', 8, ["leave out one"]),
        ('"planned"', '"planned"\nset = { x = 1 }', 9, ["no setting 'x'", "window_ms"]),
        ('"batch"', '"batch"\nset = { x = 1 }', 14, ["names none"]),
        ('"batch"', '"batch"\nthrottle-by = "force"', 14, ["'force'", "cgroup"]),
        ('"planned"', '"planned"\npace = "slow"', 9, ["'slow'", "rule[0].pace"]),
        ('"planned"', '"kubevirt"\npace = "fast"', 9, ["rule[0].pace", "'fast'", "planned"]),
        (
            "libvirt = [",
            'metrics = "0.0.0.0:9177"\nlibvirt = [',
            1,
            ["'0.0.0.0:9177'", "tls-creds and a token-file", "127.0.0.1:9177"],
        ),
        ('"batch"', '"batch"\nmax-throttle = 100', 14, ["<= 99"]),
    ],
)
def test_a_fault_is_told_with_its_line_and_what_is_allowed(old: str, new: str, line: int, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        parse_config(GOOD.replace(old, new, 1), "agent.toml")
    assert str(caught.value).startswith(f"agent.toml:{line}: ")
    for word in words:
        assert word in str(caught.value)


def test_a_fault_is_found_soon_in_a_file_of_many_lines() -> None:
    places = "".join(f'    "/run/vms/{number}", # "[[rule]]\n' for number in range(20_000))
    with pytest.raises(UsageError, match=r"agent\.toml:20004: Invalid enum value 'ster'"):
        parse_config(f'sockets = [\n{places}]\n[[rule]]\nmode = "ster"\n', "agent.toml")


def test_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*: No such file"):
        read_config(tmp_path / "none")
    (tmp_path / "large").write_text("#" * (MAX_FILE_BYTES + 1))
    with pytest.raises(UsageError, match="larger than 4 MiB"):
        read_config(tmp_path / "large")
    (tmp_path / "binary").write_bytes(b"a = '\xff'")
    with pytest.raises(UsageError, match="not UTF-8, at byte 5"):
        read_config(tmp_path / "binary")


@settings(max_examples=40)
@given(st.text(), st.integers(0, len(GOOD)), st.integers(0, 40))
def test_whatever_stands_in_a_file_it_is_read_or_refused(text: str, place: int, length: int) -> None:
    for document in (text, GOOD[:place] + text + GOOD[place + length :]):
        try:
            assert isinstance(parse_config(document, "x"), Config)
        except UsageError as error:
            assert str(error).startswith("x:")


_KEYS = st.sampled_from(["a", "b", "c"])
_VALUES = st.sampled_from(["1", '"x"', "[\n  1,\n  2,\n]", '"""\n\n"""', "{ a = 1 }"])


@settings(max_examples=30)
@given(st.lists(st.dictionaries(_KEYS, _VALUES), max_size=4), st.integers(0, 2))
def test_the_line_of_a_path_is_the_one_with_its_key(tables: list[dict[str, str]], blank_lines: int) -> None:
    lines: list[str] = []
    expected: dict[str, int] = {}
    for index, table in enumerate(tables):
        lines.extend([""] * blank_lines)
        lines.append("[[t]]")
        expected[f"t[{index}]"] = len(lines)
        for key, value in table.items():
            expected[f"t[{index}].{key}"] = len(lines) + 1
            lines.extend(f"{key} = {value}".split("\n"))
    text = "\n".join(lines)
    tomllib.loads(text)
    for path, line in expected.items():
        assert line_of(text, path) == line
        assert line_of(text, f"{path}.missing") == line
