"""What `--json` prints is what docs/json.md says of it, by the same names in every command."""

import re
from collections import defaultdict
from pathlib import Path

import pytest
from click.testing import CliRunner
from msgspec.inspect import CollectionType, FloatType, IntType, Type, UnionType

from tests.agent.test_memory import complete, facts, remembering
from tests.cli.test_perf import results
from tests.cli.test_replay import REAL
from tests.support.json_lines import is_of, require_documented
from vmferry.cli.command_tree import contexts
from vmferry.cli.json_option import JsonOption
from vmferry.cli.json_reference import json_commands, kind_text, records, reference
from vmferry.cli.main import vmferry
from vmferry.migration.outcome import Outcome

PAGE = Path(__file__).parents[2] / "docs" / "json.md"
SCENARIO = """
name = "small"
variants = ["original"]
guest = { memory = "64M", vcpus = 1, loads = [{ pattern = "uniform", memory = "10M", write-rate = "50MiB/s" }] }
link = { rate = "20MiB/s" }
"""
COMMANDS = {
    "simulate": ("small.toml", "--seeds", "1"),
    "sweep": ("small.toml", "--seeds", "1", "--output", "out.jsonl"),
    "replay": (str(REAL), "--variant", "original"),
    "report": (str(REAL),),
    "forecast": ("--journal", "journal"),
    "perf report": ("before",),
    "perf compare": ("before", "after"),
    "history": ("--database", "sqlite:///agent.db"),
    "demo": ("--simulated",),
}
ELSEWHERE = {
    "migrate": "tests/cli/test_live_lines.py",
    "watch": "tests/cli/test_live_lines.py",
    "perf run": "prints as perf report does",
    "perf batch": "prints as perf report does",
}
OWN_NAMES = {"id", "seed", "number", "runs", "flagged_runs", "exit_code", "page_size", "first_median", "second_median"}
SHARES = {
    "ratio",
    "total_time_ratio",
    "dirty_sync_ratio",
    "sent_per_memory",
    "p",
    "p_min",
    "cliffs_delta",
    "chance",
    "demand",
    "cpu_share",
    "times_smaller",
}
UNITS = ("ms", "bytes", "bytes_per_s", "percent", "percents", "vcpu_s", "vcpu_work_lost_s", "pages", "count")
IN_SECONDS_OF_A_VCPU = {"work_lost_vcpu_s", "vcpu_work_lost_s"}


def own_types() -> list[tuple[str, Type]]:
    """Return each key of each record with its type."""
    return [(field.encode_name, field.type) for info in records().values() for field in info.fields]


def is_number(info: Type) -> bool:
    if isinstance(info, UnionType):
        return any(map(is_number, info.types))
    if isinstance(info, CollectionType):
        return is_number(info.item_type)
    return isinstance(info, (IntType, FloatType))


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == reference(), "run: python -m vmferry.cli.json_reference > docs/json.md"


def test_every_option_of_the_kind_says_what_it_prints() -> None:
    for context in contexts(vmferry):
        for parameter in context.command.params:
            if any(name.startswith("--json") for name in parameter.opts):
                assert isinstance(parameter, JsonOption), context.command_path
                assert parameter.records, context.command_path


def test_all_commands_that_print_json_are_held_to_the_page() -> None:
    assert {path.removeprefix("vmferry ") for path, _ in json_commands()} == COMMANDS.keys() | ELSEWHERE.keys()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("json")
    (place / "small.toml").write_text(SCENARIO)
    words = ["simulate", str(place / "small.toml"), "--seeds", "1", "--journal", str(place / "journal")]
    assert CliRunner().invoke(vmferry, words).exit_code == 0
    results(place / "before", 100, 101)
    results(place / "after", 50, 51)
    with remembering(f"sqlite:///{place}/agent.db") as memory:
        memory.begin(facts())
        complete(memory.begin(facts(began_ms=2_000_000)))
    return place


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_prints_what_the_page_says(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    answer = CliRunner().invoke(vmferry, [*name.split(), *COMMANDS[name], "--json"])
    assert answer.exit_code in (0, 5, 6), answer.output
    [option] = [option for path, option in json_commands() if path == f"vmferry {name}"]
    lines = answer.stdout.splitlines()
    assert lines
    require_documented(lines, option.records)


def test_what_is_not_on_the_page_is_found() -> None:
    line = '{"status":"completed","error":"","policy_broken":false,"total_time_ms":1}'
    assert not is_of(line, Outcome), "keys are missing"


def test_a_number_has_its_unit_in_its_name() -> None:
    names = {name for name, info in own_types() if is_number(info)}
    unit = re.compile(rf"(?:^|_)(?:{'|'.join(UNITS)})$|pages_per_s_|^p\d\d$")
    assert {name for name in names if not unit.search(name)} <= OWN_NAMES | SHARES


def test_a_time_is_in_milliseconds() -> None:
    names = {name for name, info in own_types() if is_number(info)}
    others = {name for name in names if re.search(r"_(?:s|ns|us|seconds)$", name) and not name.endswith("_per_s")}
    assert others <= IN_SECONDS_OF_A_VCPU


def test_a_name_means_one_thing_in_every_command() -> None:
    """A forecast tells ranges of the same figures."""
    told = defaultdict(set)
    for name, info in own_types():
        text = kind_text(info).removesuffix(" or null").replace("whole number", "number")
        told[name].add(re.sub(r"^`.*`$", "text", text))
    assert {name: kinds for name, kinds in told.items() if len(kinds - {"[Interval](#interval)"}) > 1} == {}
