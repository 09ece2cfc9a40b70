"""One policy in a file of its user's, run by every command, and told truly; and one that breaks."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_cli import run_process
from tests.end_to_end.test_stock_qemu import Scene
from tests.support.command_line import run
from tests.support.policies import BROKEN, LADDER, write_policy
from vmferry.convergence.policies.registry import load_policy
from vmferry.errors import CommandError
from vmferry.migration.events import Decided, Ended, Started
from vmferry.migration.journal import Entry, read_migration
from vmferry.perf.lab import Lab, VmProcess

SCENARIO = """
name = "small"
guest = { memory = "64M", vcpus = 1, loads = [{ pattern = "sweep", memory = "10M", write-rate = "50MiB/s" }] }
link = { rate = "20MiB/s" }

[[variant]]
name = "gentle"
policy = "ladder.py:Ladder"
settings = { step = 10 }
"""
LIMITS = ("--max-bandwidth", "16MiB/s", "--downtime-limit", "100ms")
QUICK = ("--x-evaluation-period", "100ms", "--x-watch-interval", "100ms", "--x-background-sync-interval", "500ms")
WHY = "the policy 'ladder.py:Ladder' is broken: it failed with ZeroDivisionError('division by zero')"


@pytest.fixture
def policy(tmp_path: Path) -> str:
    return write_policy(tmp_path)


@pytest.fixture
def scenario(tmp_path: Path) -> str:
    (tmp_path / "small.toml").write_text(SCENARIO)
    return str(tmp_path / "small.toml")


def reference(policy: str) -> str:
    """Return by which name runs of the policy, as it is now, are told."""
    return f"ladder.py:Ladder@{load_policy(policy).digest[:8]}"


def answers(answer: subprocess.CompletedProcess[str], exit_code: int = 0) -> list[dict[str, object]]:
    assert answer.returncode == exit_code, answer.stderr
    return [json.loads(line) for line in answer.stdout.splitlines()]


def test_simulate(policy: str, scenario: str) -> None:
    words = ("simulate", scenario, "--variant", "gentle", "--policy", policy, "--set", "policy.step=40", "--json")
    gentle, ladder = answers(run(*words))
    assert (gentle["variant"], ladder["variant"]) == ("gentle", f"{reference(policy)} (step=40)")
    assert gentle["status"] == ladder["status"] == "completed"
    assert ladder["max_throttle_percent"] in (40, 80, 99)


def test_sweep(policy: str, scenario: str, tmp_path: Path) -> None:
    def sweep() -> subprocess.CompletedProcess[str]:
        words = ("--policy", policy, "--set", "policy.step=40,50", "--jobs", "1")
        return run("sweep", scenario, *words, "--output", str(tmp_path / "out.jsonl"))

    first = sweep()
    assert first.returncode == 0, first.stderr
    assert [line.strip() for line in first.stdout.splitlines() if "policy.step" in line] == [
        "small policy.step=40",
        "small policy.step=50",
    ]
    assert first.stdout.count(reference(policy)) == 2
    assert "0 cases to simulate, 2 are in" in sweep().stderr
    write_policy(tmp_path, LADDER + "# edited\n")
    edited = sweep()
    assert "2 cases to simulate, 0 are in" in edited.stderr
    assert edited.stdout.count(reference(policy)) == 2


@pytest.mark.kvm
def test_perf(policy: str, tmp_path: Path) -> None:
    guest = ("--cpus", "1", "--mem", "64M", "--stress-mem", "24M", "--bandwidth", "24MiB/s", "--time-scale", "10")
    words = ("--policy", policy, "--set", "policy.step=45", "--output", str(tmp_path / "results"))
    [result] = answers(run("perf", "run", *guest, *words, "--json"))
    assert result["status"] == "completed"
    assert result["max_throttle_percent"] in (45, 90, 99)
    report = run("perf", "report", str(tmp_path / "results"))
    assert f"{reference(policy)} (step=45)" in report.stdout


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


def start_pair(lab: Lab, policy: str) -> tuple[VmProcess, str]:
    """Return a VM of ours that knows the policy, and where to it can migrate."""
    source, _, uri = lab.start_pair(["--memory", "64M"], ["--append", "ramsize=24", "--policy", policy])
    source.wait_for_passes(1)
    return source, uri


def migrate(lab: Lab, uri: str, *words: str) -> subprocess.CompletedProcess[str]:
    return run_process(
        "migrate", "--qmp", f"unix:{lab.directory / 'source.qmp'}", uri, "--json", *LIMITS, *QUICK, *words
    )


def started_and_ended(entries: list[Entry]) -> tuple[Started, Ended]:
    started, ended = entries[0].event, entries[-1].event
    assert isinstance(started, Started)
    assert isinstance(ended, Ended)
    return started, ended


@pytest.mark.kvm
def test_vm_migrate_report_and_replay(lab: Lab, policy: str, tmp_path: Path) -> None:
    _, uri = start_pair(lab, policy)
    journal = str(tmp_path / "journal")
    name = "elsewhere/ladder.py:Ladder"  # who migrates needs no file; the VM has read it
    [result] = answers(migrate(lab, uri, "--policy", name, "--set", "policy.step=35", "--journal", journal))
    assert result["status"] == "completed"
    entries = read_migration(journal).entries
    started, ended = started_and_ended(entries)
    assert started.policy_digest == load_policy(policy).digest
    assert started.parameters["policy-settings"] == "step=35"
    assert ended.max_throttle_percent in (35, 70, 99)
    assert any(isinstance(entry.event, Decided) and entry.event.reason.startswith("one more step") for entry in entries)

    label = f"{reference(policy)} (step=35)"
    [told] = answers(run("report", journal, "--json"))
    assert told["variant"] == label
    recorded, again = answers(run("replay", journal, "--policy", policy, "--set", "policy.step=35", "--json"))
    assert (recorded["variant"], again["label"]) == (label, label)
    assert again["max_throttle_percent"] in (35, 70, 99)
    recorded, original = answers(run("replay", journal, "--variant", "original", "--json"))
    assert (recorded["variant"], original["label"]) == (label, "original")


@pytest.mark.kvm
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("kubevirt", ["max_downtime_ms=5000", "initial_ms=500", "steps=3", "cooldown_s=0"]),
        ("pause-resume", ["after=1", "every=1", "step=45"]),
        ("planned", []),
    ],
)
def test_policies_that_come_along_move_a_busy_guest(lab: Lab, tmp_path: Path, name: str, settings: list[str]) -> None:
    """One of each kind: of downtimes, of pauses, of plans. tests/simulation/test_field_policies.py has all."""
    source, _, uri = lab.start_pair(["--memory", "64M"], ["--append", "ramsize=24"])
    source.wait_for_passes(1)
    words = [word for setting in settings for word in ("--set", f"policy.{setting}")]
    journal = str(tmp_path / "journal")
    [result] = answers(migrate(lab, uri, "--policy", name, *words, "--journal", journal))
    started, ended = started_and_ended(read_migration(journal).entries)
    assert (result["status"], ended.policy_broken) == ("completed", False)
    assert started.parameters["convergence-policy"] == name


@pytest.mark.kvm
def test_a_vm_takes_only_policies_that_it_knows(lab: Lab, policy: str, tmp_path: Path) -> None:
    source, uri = start_pair(lab, policy)
    other = write_policy(tmp_path, name="other.py")
    answer = migrate(lab, uri, "--policy", other)
    assert answer.returncode == 2
    assert "no convergence policy 'other.py:Ladder'; there are: auto-converge, " in answer.stderr
    assert answer.stderr.endswith("which a VM learns by: vmferry vm --policy\n")
    edited = write_policy(tmp_path, LADDER + "# edited\n")
    answer = migrate(lab, uri, "--policy", edited)
    assert answer.returncode == 2
    assert "the policy 'ladder.py:Ladder' that is known here is of digest" in answer.stderr
    with pytest.raises(CommandError, match="no convergence policy"):
        source.monitor.execute("migrate-set-parameters", {"convergence-policy": other})
    assert source.monitor.execute("query-status")["status"] == "running"


@pytest.mark.kvm
def test_a_policy_that_needs_what_a_vm_cannot_do_is_refused_before_it_migrates(lab: Lab, tmp_path: Path) -> None:
    greedy = write_policy(tmp_path, LADDER.replace("= Body.THROTTLE", "= Body.THROTTLE | Body.POSTCOPY"))
    source, uri = start_pair(lab, greedy)
    answer = migrate(lab, uri, "--policy", greedy)
    assert answer.returncode == 1
    assert "the policy 'ladder.py:Ladder' cannot be used here: it needs postcopy" in answer.stderr
    assert source.monitor.execute("query-migrate") == {}


@pytest.mark.kvm
def test_a_broken_policy_leaves_the_guest_of_our_vm_at_full_speed(lab: Lab, tmp_path: Path) -> None:
    source, uri = start_pair(lab, write_policy(tmp_path, BROKEN))
    [result] = answers(migrate(lab, uri, "--policy", "ladder.py:Ladder"), 1)
    assert (result["status"], result["error"]) == ("failed", WHY)
    assert source.monitor.execute("query-status")["status"] == "running"
    assert "cpu-throttle-percentage" not in source.monitor.execute("query-migrate")
    source.check_memory()


@pytest.fixture
def scene() -> Iterator[Scene]:
    with Lab() as lab:
        yield Scene(lab)


@pytest.mark.kvm
@pytest.mark.qemu
def test_migrate_of_a_stock_qemu(scene: Scene, policy: str, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    words = ("--policy", policy, "--set", "policy.step=50", "--json", "--downtime-limit", "200ms")
    driver = scene.driver(scene.uri, *words, "--max-bandwidth", "64MiB/s", "--journal", str(journal))
    out, err = driver.communicate(timeout=200)
    assert driver.returncode == 0, err
    assert json.loads(out)["status"] == "completed"
    started, _ = started_and_ended(read_migration(journal).entries)
    assert (started.policy_digest, started.parameters["policy-settings"]) == (load_policy(policy).digest, "step=50")
    [told] = answers(run("report", str(journal), "--json"))
    assert told["variant"] == f"{reference(policy)} (step=50)"
    assert scene.at_home()


@pytest.mark.kvm
@pytest.mark.qemu
def test_a_broken_policy_calls_off_the_migration_of_a_stock_qemu(scene: Scene, tmp_path: Path) -> None:
    words = ("--policy", write_policy(tmp_path, BROKEN), "--max-bandwidth", "48MiB/s", "--downtime-limit", "1ms")
    driver = scene.driver(scene.uri, *words, "--json")
    out, err = driver.communicate(timeout=200)
    assert driver.returncode == 1, err
    answer = json.loads(out)
    assert answer["status"] in ("cancelled", "failed")  # what QEMU calls it if it is cancelled just as it begins
    assert (answer["error"], answer["policy_broken"]) == (WHY, True)
    assert scene.at_home()
    source = scene.reconnect()
    assert source.monitor.execute("query-status")["status"] == "running"
    source.check_memory()
