"""Variants that a scenario's file defines, with policies in files beside it."""

from pathlib import Path

import msgspec
import pytest

from tests.support.known import known
from tests.support.policies import BROKEN, LADDER, write_policy
from vmferry.convergence.policies import registry
from vmferry.errors import UsageError
from vmferry.experiment.experiment import Experiment
from vmferry.experiment.own_variants import policy_variant
from vmferry.experiment.scenario import load_scenario, parse_scenario
from vmferry.migration.events import Started
from vmferry.report.journal_runs import run_series
from vmferry.simulation.run import Simulation
from vmferry.study.simulate import simulate

SMALL = """
name = "small"
guest = { memory = "64M", vcpus = 2, loads = [{ pattern = "sweep", memory = "10M", write-rate = "50MiB/s" }] }
link = { rate = "20MiB/s" }
"""
GENTLE = """
[[variant]]
name = "gentle"
policy = "ladder.py:Ladder"
settings = { step = 10 }
"""


def scenario(directory: Path, text: str = GENTLE, policy: str = LADDER) -> Experiment:
    write_policy(directory, policy)
    (directory / "small.toml").write_text(SMALL + text)
    return load_scenario(directory / "small.toml")


def forget() -> None:
    """Make this process one that knows no policies but those that come along."""
    registry._loaded.clear()


@pytest.fixture(autouse=True)
def _forgetful() -> None:
    forget()


def test_a_policy_is_looked_for_beside_the_scenario(tmp_path: Path) -> None:
    small = scenario(tmp_path)
    assert small.variants[-1] == "gentle"
    assert len(small.variants) == 5
    result = simulate(small, "gentle")
    assert result.status == "completed"
    assert result.max_throttle_percent
    assert result.max_throttle_percent % 10 == 0


def test_a_scenario_takes_its_policy_along(tmp_path: Path) -> None:
    small = scenario(tmp_path)
    text = msgspec.json.encode(small)
    (tmp_path / "ladder.py").unlink()
    forget()
    assert simulate(msgspec.json.decode(text, type=Experiment), "gentle") == simulate(small, "gentle")


def test_the_journal_tells_policy_settings_and_digest(tmp_path: Path) -> None:
    small = scenario(tmp_path)
    result = simulate(small, "gentle")
    started = result.entries[0].event
    assert isinstance(started, Started)
    kind = registry.find_policy("ladder.py:Ladder")
    assert started.policy_digest == kind.digest
    assert started.parameters["convergence-policy"] == kind.reference == f"ladder.py:Ladder@{kind.digest[:8]}"
    assert started.parameters["policy-settings"] == "step=10"
    assert run_series(result.entries, "").variant == f"{kind.reference} (step=10)"


def test_scenarios_whose_policies_have_one_name_do_not_disturb_each_other(tmp_path: Path) -> None:
    scenarios = []
    for step in ("10", "45"):
        (tmp_path / step).mkdir()
        edited = LADDER.replace("] = 30", f"] = {step}")
        scenarios.append(scenario(tmp_path / step, GENTLE.replace("step = 10", ""), edited))
    assert [known(simulate(small, "gentle").max_throttle_percent) % 45 for small in scenarios][1] == 0
    assert known(simulate(scenarios[0], "gentle").max_throttle_percent) % 45 != 0


def test_a_variant_of_auto_converge_has_its_parameters_for_settings(tmp_path: Path) -> None:
    text = """
        variants = ["mine"]
        [[variant]]
        name = "mine"
        background-sync = "merge"
        settings = { cpu-throttle-increment = 40, cpu_responsive_throttle = true }
        [parameters]
        cpu-throttle-increment = 5
    """
    parameters = parse_scenario((SMALL + text).encode(), "here").migration_parameters("mine")
    assert parameters.cpu_throttle_increment == 40
    assert parameters.cpu_responsive_throttle
    assert parameters.background_sync == "merge"


def test_settings_can_be_tried_one_after_the_other(tmp_path: Path) -> None:
    small = scenario(tmp_path)
    changed = small.choosing(["gentle"]).with_settings({"policy.step": "50"})
    assert changed.migration_parameters("gentle").policy_settings == "step=50"
    assert simulate(changed, "gentle").max_throttle_percent in (50, 99)
    with pytest.raises(UsageError, match=r"'policy\.step': none of these variants is a policy with settings"):
        small.choosing(["original"]).with_settings({"policy.step": "50"})


def test_a_policy_that_is_named_is_a_variant_with_a_name_of_its_own(tmp_path: Path) -> None:
    name = write_policy(tmp_path)
    one, other = policy_variant(name, {}), policy_variant(name, {"step": "7"})
    small = parse_scenario(SMALL.encode(), "here").choosing(["original"], [one, other])
    digest = registry.find_policy("ladder.py:Ladder").digest[:8]
    assert small.variants == ("original", f"ladder.py:Ladder@{digest}", f"ladder.py:Ladder@{digest} (step=7)")
    assert small.choosing((), [policy_variant("auto-converge", {})]).variants == ("background-sync",)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (GENTLE.replace("ladder.py", "none.py"), r"variant\[0\]: cannot read the policy .*none\.py: No such file"),
        (GENTLE.replace("ladder.py:Ladder", "fast"), r"variant\[0\]: no convergence policy 'fast'; there are: auto-co"),
        (GENTLE.replace("step = 10", "stop = 10"), r"variant\[0\]: policy 'ladder.py:Ladder' has no setting 'stop'"),
        (GENTLE.replace("step = 10", "step = 100"), r"variant\[0\]: policy 'ladder.py:Ladder': Expected `int` <= 99"),
        (GENTLE.replace("step = 10", "step = '1,2'"), r"variant\[0\]: the setting 'step=1,2' of a policy has a comma"),
        (GENTLE.replace('"gentle"', '"original"'), r"variant\[0\]\.name: there is a variant 'original' already"),
        (GENTLE + GENTLE, r"variant\[1\]\.name: there is a variant 'gentle' already"),
        (GENTLE.replace('"gentle"', '""'), r"variant\[0\]: name has 1 to 100 characters"),
        (GENTLE + "digest = 'x'\n", r"variant\[0\]: digest and source are those of the policy's file"),
        (
            GENTLE + "sync = 'off'\n",
            r"unknown field `sync` .*there are: name, policy, settings, background-sync, cpu-throttle-writers$",
        ),
        (GENTLE + "background-sync = 'on'\n", r"Invalid enum value 'on' - at `\$.variant\[0\].background-sync`"),
        ("variants = ['fast']" + GENTLE, "no variant 'fast'; there are: original, .*, gentle$"),
    ],
)
def test_what_cannot_be_is_told_with_its_key(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        scenario(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path}/small.toml: ")
    assert "\n" not in str(caught.value)


def test_a_policy_of_a_module_that_differs_elsewhere_is_refused(tmp_path: Path) -> None:
    text = SMALL + '[[variant]]\nname = "mine"\npolicy = "vmferry.convergence.policies.auto_converge:AutoConverge"\n'
    small = parse_scenario(text.encode(), "here")
    [mine] = small.own_variants
    other = msgspec.structs.replace(small, own_variants=(msgspec.structs.replace(mine, digest="0" * 64),))
    with pytest.raises(UsageError, match="another one here than where the scenario was read"):
        simulate(other, "mine")


def test_a_broken_policy_fails_its_migration_and_leaves_the_guest_at_full_speed(tmp_path: Path) -> None:
    simulation = Simulation(scenario(tmp_path, GENTLE.replace("step = 10", ""), BROKEN), "gentle", 0)
    result = simulation.run()
    assert result.status == "failed"
    assert result.policy_broken
    assert result.max_throttle_percent == 30, "it did slow the guest before"
    assert result.error.startswith("the policy 'ladder.py:Ladder' is broken: it failed with ZeroDivisionError")
    assert simulation.source_guest.running
    assert simulation.source_guest.throttle_percent == 0
    assert simulation.running_guests == 1


def test_another_policy_that_is_named_meanwhile_is_for_the_next_migration(tmp_path: Path) -> None:
    unchanged = Simulation(scenario(tmp_path), "gentle", 0).run()
    simulation = Simulation(scenario(tmp_path), "gentle", 0)

    def change() -> None:
        values = {"convergence-policy": "kubevirt", "policy-settings": "steps=3"}
        simulation.parameters = simulation.parameters.changed(values)

    simulation.clock.schedule(1_000_000_000, change)
    assert simulation.run() == unchanged


def test_settings_that_change_meanwhile_are_obeyed(tmp_path: Path) -> None:
    simulation = Simulation(scenario(tmp_path), "gentle", 0)

    def change() -> None:
        simulation.parameters = simulation.parameters.changed({"policy-settings": "step=57"})

    simulation.clock.schedule(1_000_000_000, change)
    assert simulation.run().max_throttle_percent in (57, 67, 77, 99)


def test_a_policy_of_ones_own_drives_a_modelled_qemu(tmp_path: Path) -> None:
    text = SMALL + GENTLE.replace("step = 10", "step = 90")
    write_policy(tmp_path)
    busy = parse_scenario(text.replace("50MiB/s", "500MiB/s").encode(), "here", tmp_path).driven_by("qemu-7.2")
    result = simulate(busy, "gentle")
    assert result.status == "completed"
    assert result.max_throttle_percent in (90, 99)
    started = result.entries[0].event
    assert isinstance(started, Started)
    assert started.policy_digest == registry.find_policy("ladder.py:Ladder").digest


def test_a_broken_policy_calls_off_what_it_drives(tmp_path: Path) -> None:
    text = SMALL + GENTLE.replace("step = 10", "")
    write_policy(tmp_path, BROKEN)
    busy = parse_scenario(text.replace("50MiB/s", "500MiB/s").encode(), "here", tmp_path).driven_by("qemu-7.2")
    result = simulate(busy, "gentle")
    assert (result.status, result.policy_broken) == ("cancelled", True)
    assert result.error.startswith("the policy 'ladder.py:Ladder' is broken: it failed with ZeroDivisionError")
