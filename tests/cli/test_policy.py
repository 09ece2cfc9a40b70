"""`vmferry policy`, and what commands say of a policy that cannot be."""

import json
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.cli.test_cli import run_process
from tests.support.command_line import run
from tests.support.policies import LADDER, write_policy
from vmferry.cli.policy import command
from vmferry.convergence.policies import registry


def policy(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_all_that_come_along_are_listed_in_80_columns() -> None:
    answer = policy("list")
    assert answer.exit_code == 0
    lines = answer.output.splitlines()
    assert {line.split()[0] for line in lines if not line.startswith(" ")} >= registry.BUILT_IN.keys()
    assert max(map(len, lines)) <= 80


def test_one_that_is_installed_and_broken_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [EntryPoint(name, f"nowhere_{name}:Policy", registry.ENTRY_POINTS) for name in ("alpha", "beta")]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: entries)
    answer = policy("list")
    assert answer.exit_code == 0
    text = " ".join(answer.output.split())
    assert "alpha cannot load the policy 'alpha': ModuleNotFoundError" in text
    assert "auto-converge Steps up" in text


def test_what_can_be_set_is_shown_with_ranges_and_meanings(tmp_path: Path) -> None:
    answer = policy("show", write_policy(tmp_path))
    text = " ".join(answer.output.split())
    assert text.startswith("ladder.py:Ladder: One more step at every busy period. It needs: throttle.")
    assert "step=30 how much slower with each step, in percent: a whole number from 1 to 99" in text
    assert "share=0.5 of what is sent, above which a period counts: a number above 0" in text
    assert "Migration parameters that it obeys max-cpu-throttle (the CPU throttle never exceeds this)" in text


@pytest.mark.parametrize("name", registry.BUILT_IN)
def test_each_that_comes_along_tells_what_its_settings_mean(name: str) -> None:
    lines = policy("show", name).output.splitlines()
    assert max(map(len, lines)) <= 80
    settings = [number for number, line in enumerate(lines) if line.startswith("  ") and "=" in line.split()[0]]
    assert all(lines[number + 1].strip() for number in settings)


QMP = ("--qmp", "unix:/nowhere")
OWN = ("--policy", "ladder.py:Ladder", "--set")
GUEST = ("--stress-mem", "16M", "--output", "results")


@pytest.mark.parametrize(
    "words",
    [
        ("simulate", "seed-0150"),
        ("sweep", "seed-0150", "--output", "out.jsonl"),
        ("perf", "run", *GUEST),
        ("perf", "batch", "seed/*", "--output", "results"),
        ("vm",),
        ("replay", str(Path(__file__).parents[1] / "data" / "busy-guest.jsonl.gz")),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_policy_that_is_not_there_is_one_line_with_those_that_are(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = run(*words, "--policy", "fast")
    assert answer.returncode == 2
    assert answer.stderr.startswith("vmferry: no convergence policy 'fast'; there are: auto-converge, ")
    assert answer.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--policy", "none.py:Mine"), "cannot read the policy none.py: No such file or directory"),
        (("--policy", "nowhere:Mine"), "cannot load the policy 'nowhere:Mine': ModuleNotFoundError("),
        (("--policy", "ladder.py"), "the policy 'ladder.py' is a file without a class; write ladder.py:CLASS"),
        ((*OWN, "policy.stride=1"), "policy 'ladder.py:Ladder' has no setting 'stride'; there are: step, share"),
        ((*OWN, "policy.step=100"), "policy 'ladder.py:Ladder': Expected `int` <= 99 - at `$.step`"),
        ((*OWN, "policy.step=1,2"), "the setting 'step=1,2' of a policy has a comma in it"),
        ((*OWN, "step=1"), "--set step=1: write policy.NAME=VALUE, and each name once"),
        ((*OWN, "policy.step=1", "--set", "policy.step=2"), "--set policy.step=2: write policy.NAME=VALUE, and each"),
    ],
)
def test_what_cannot_be_is_one_line(
    words: tuple[str, ...], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_policy(tmp_path)
    answer = run("simulate", "seed-0150", *words)
    assert answer.returncode == 2
    assert answer.stderr.startswith(f"vmferry: {why}")
    assert answer.stderr.count("\n") == 1


def test_one_thing_only_makes_a_guest_converge() -> None:
    for words in (("migrate", *QMP, "tcp:a:1"), ("perf", "run", *GUEST)):
        both = run(*words, "--variant", "original", "--policy", "planned")
        assert (both.returncode, both.stderr.count("\n")) == (2, 1)
        assert "--variant and --policy both say what makes the guest converge; give one of them" in both.stderr
        lonely = run(*words, "--set", "policy.x=1")
        assert lonely.returncode == 2
        assert "--set sets the policy that --policy names; give that, too" in lonely.stderr


def test_what_comes_from_a_policys_author_cannot_move_the_cursor(tmp_path: Path) -> None:
    text = LADDER.replace("One more step at every busy period.", "One \\x1b[31mmore.")
    assert "\x1b" not in policy("show", write_policy(tmp_path, text)).output


def test_a_policy_that_needs_what_cannot_be_done_is_refused(tmp_path: Path) -> None:
    name = write_policy(tmp_path, LADDER.replace("= Body.THROTTLE", "= Body.THROTTLE | Body.POSTCOPY"))
    answer = run("simulate", "seed-0150", "--policy", name)
    assert answer.returncode == 2
    assert answer.stderr == "vmferry: the policy 'ladder.py:Ladder' cannot be used here: it needs postcopy\n"


def test_an_installed_policy_goes_by_its_name_and_is_redone_when_it_is_edited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be called like a variant, and is not told as that."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    package = tmp_path / "ladder_pack.py"
    package.write_text(LADDER)
    facts = tmp_path / "ladder_pack-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: ladder-pack\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[vmferry.policies]\noriginal = ladder_pack:Ladder\n")
    (tmp_path / "small.toml").write_text(
        'name = "small"\n'
        'guest = { memory = "16M", vcpus = 1, loads = [{ pattern = "sweep", memory = "4M", write-rate = "9MiB/s" }] }\n'
        'link = { rate = "20MiB/s" }\n'
    )
    words = ("sweep", str(tmp_path / "small.toml"), "--output", str(tmp_path / "out.jsonl"), "--jobs", "1")
    labels = []
    for text in (LADDER, LADDER + "# edited\n"):
        package.write_text(text)
        answer = run_process(*words, "--policy", "original", "--json")
        assert answer.returncode == 0, answer.stderr
        labels += [json.loads(line)["variant"] for line in answer.stdout.splitlines()]
    assert [label.partition("@")[0] for label in labels] == ["original", "original"]
    assert len(set(labels)) == 2
