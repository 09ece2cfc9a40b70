"""Policies by name, by file and by module."""

from pathlib import Path

import msgspec
import pytest

from vmferry.convergence.policies.auto_converge import AutoConverge, AutoConvergeSettings
from vmferry.convergence.policies.registry import find_policy, load_policy, load_source, registered_name
from vmferry.errors import UsageError

MINE = """
import msgspec
from vmferry.convergence.actions import Throttle
from vmferry.convergence.sensing import Body


class Settings(msgspec.Struct, frozen=True):
    step: int = 7
    max_cpu_throttle: int = 1


class Mine:
    Settings = Settings
    needs = Body.THROTTLE

    def look(self, view, settings):
        return [Throttle(percent=settings.step, reason="mine")] if view.period else []
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


def test_a_policy_in_a_file_is_there_by_its_name_once_it_is_loaded(mine: Path) -> None:
    kind = load_policy(f"{mine}:Mine")
    assert kind.name == "mine.py:Mine"
    assert find_policy("mine.py:Mine") is kind
    assert kind.source is not None
    assert load_source(kind.source) is kind


def test_an_edited_file_is_another_policy(mine: Path) -> None:
    first = load_policy(f"{mine}:Mine")
    mine.write_text(MINE.replace("step: int = 7", "step: int = 8"))
    second = load_policy(f"{mine}:Mine")
    assert second.digest != first.digest
    assert second.settings("", {}) == second.settings_type(step=8)
    assert [find_policy(kind.reference) for kind in (first, second)] == [first, second]
    assert find_policy("mine.py:Mine") is second
    assert first.source
    assert load_source(first.source) is first
    assert find_policy("mine.py:Mine") is first


def test_files_of_one_name_in_two_directories_are_two_policies(tmp_path: Path) -> None:
    kinds = []
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "mine.py").write_text(MINE.replace("step: int = 7", f"step: int = {number}"))
        kinds.append(load_policy("mine.py:Mine", tmp_path / str(number)))
    steps = [msgspec.structs.asdict(find_policy(kind.reference).settings("", {}))["step"] for kind in kinds]
    assert steps == [1, 2]


def test_a_policy_is_named_to_others_by_what_its_file_is_now(mine: Path) -> None:
    kind = load_policy(f"{mine}:Mine")
    assert registered_name(f"{mine}:Mine") == kind.reference
    assert registered_name("elsewhere/mine.py:Mine") == "mine.py:Mine"
    assert [registered_name(name) for name in ("planned", "pack:Mine")] == ["planned", "pack:Mine"]
    with pytest.raises(UsageError, match=f"'mine.py:Mine' that is known here is of digest {kind.digest[:8]}, not 0000"):
        find_policy("mine.py:Mine@00000000")


def test_annotations_in_a_file_may_be_texts(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text("from __future__ import annotations\n" + MINE)
    kind = load_policy("late.py:Mine", tmp_path)
    assert kind.settings("step=12", {}) == kind.settings_type(step=12)


def test_a_policy_in_a_module(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = load_policy("vmferry.convergence.policies.auto_converge:AutoConverge")
    assert isinstance(kind.make(), AutoConverge)
    assert kind.source is None


def test_settings_are_those_given_and_the_parameters_of_the_same_names(mine: Path) -> None:
    kind = load_policy(f"{mine}:Mine")
    settings = kind.settings("step=12", {"max_cpu_throttle": 80, "max_bandwidth": 5})
    assert settings == kind.settings_type(step=12, max_cpu_throttle=80)
    with pytest.raises(UsageError, match=r"'mine\.py:Mine' has no setting 'stride'; there are: step"):
        kind.settings("stride=1", {"max_cpu_throttle": 80})
    with pytest.raises(UsageError, match="it obeys the migration parameter max-cpu-throttle, which is set as such"):
        kind.settings("max-cpu-throttle=1", {"max_cpu_throttle": 80})
    with pytest.raises(UsageError, match=r"mine.py:Mine': Expected `int`, got `str` - at `\$.step`"):
        kind.settings("step=many", {})


def test_settings_of_auto_converge_are_parameters() -> None:
    kind = find_policy("auto-converge")
    assert kind.settings("", {"cpu_throttle_initial": 30}) == AutoConvergeSettings(cpu_throttle_initial=30)
    with pytest.raises(UsageError, match="it has none"):
        kind.settings("x=1", dict.fromkeys(AutoConvergeSettings.__struct_fields__, 1))


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("a.py:Mine", "", "there is no class 'Mine' in the policy 'a.py:Mine'"),
        ("b.py:Mine", MINE.replace("class Mine", "class Other"), "its policies are: Other"),
        ("c.py:Mine", "import nowhere", "cannot load the policy 'c.py:Mine': ModuleNotFoundError"),
        ("d.py:Mine", "this is no Python", "cannot load the policy 'd.py:Mine': SyntaxError"),
        ("h.py:Mine", "raise SystemExit(0)", "cannot load the policy 'h.py:Mine': SystemExit"),
        ("e.py:Mine", MINE.replace("def look", "def peek"), "has no method look"),
        ("f.py:Mine", MINE.replace("Settings = Settings", ""), "needs Settings, a msgspec.Struct"),
        ("g.py:Mine", MINE.replace("needs = Body.THROTTLE", ""), "needs `needs`"),
    ],
)
def test_what_is_no_policy_is_refused_in_one_line(tmp_path: Path, name: str, text: str, why: str) -> None:
    path = tmp_path / name.partition(":")[0]
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_policy(f"{path}:Mine")
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read the policy .*: No such file"):
        load_policy(f"{tmp_path}/none.py:Mine")
    with pytest.raises(UsageError, match="no convergence policy 'fast'; there are: auto-converge"):
        load_policy("fast")
    with pytest.raises(UsageError, match=r"'fast\.py' is a file without a class; write fast\.py:CLASS"):
        load_policy("fast.py")
    with pytest.raises(UsageError, match="cannot load the policy 'nowhere:Mine': ModuleNotFoundError"):
        load_policy("nowhere:Mine")


def test_a_name_alone_runs_nobodys_code(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mine.parent)
    with pytest.raises(UsageError, match=r"no convergence policy 'other\.py:Mine'"):
        find_policy("other.py:Mine")
