"""What a policy foretold in the shadow of a migration, against what a replay from there comes to."""

from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from tests.support.known import known
from tests.support.shadows import migrated_with_shadow
from vmferry.cli.replay import command as replay_command
from vmferry.convergence.variants import PLANNED
from vmferry.migration.events import Shadowed
from vmferry.migration.journal import Entry
from vmferry.simulation.qemu.releases import RELEASES
from vmferry.study.replay import read_replay
from vmferry.study.shadow_truth import ForetoldThrottle, foretold_by_shadows


def foretold(entries: list[Entry]) -> list[ForetoldThrottle]:
    return list(foretold_by_shadows(read_replay(entries, "x", {}, {}), entries))


@pytest.mark.parametrize("release", RELEASES)
def test_each_throttle_that_a_shadow_foretold_is_replayed_from_there(release: str) -> None:
    entries, _ = migrated_with_shadow(release, PLANNED.name)
    all_foretold = foretold(entries)
    assert all(each.throttle_percent > 50 for each in all_foretold)
    assert min(abs(known(each.error_percent)) for each in all_foretold) < 60


def test_a_promise_that_is_not_kept_is_told_by_how_much() -> None:
    entries, _ = migrated_with_shadow("qemu-10", PLANNED.name)
    number, true = next((number, entry) for number, entry in enumerate(entries) if isinstance(entry.event, Shadowed))
    event = true.event
    assert isinstance(event, Shadowed)
    halved = msgspec.structs.replace(event, figures={name: value / 2 for name, value in event.figures.items()})
    lie = msgspec.structs.replace(true, event=halved)
    first, *_ = foretold(entries)
    [lied, *_] = foretold([*entries[:number], lie, *entries[number + 1 :]])
    assert lied.error_percent is not None
    assert first.error_percent is not None
    assert 100 + lied.error_percent == pytest.approx(2 * (100 + first.error_percent), rel=0.01)


def test_a_throttle_that_moves_nobody_is_foretold_in_vain() -> None:
    entries, _ = migrated_with_shadow("qemu-7.2", PLANNED.name)
    idle = [
        msgspec.structs.replace(entry, event=msgspec.structs.replace(entry.event, throttle_percent=0))
        if isinstance(entry.event, Shadowed)
        else entry
        for entry in entries
    ]
    first, *_ = foretold(idle)
    assert first.replayed_ms is None
    assert first.error_percent is None


@pytest.mark.parametrize("variant", [PLANNED.name, None])
def test_replay_tells_how_true_a_shadow_was(variant: str | None, tmp_path: Path) -> None:
    entries, _ = migrated_with_shadow("qemu-7.2", variant)
    path = tmp_path / "seen.jsonl"
    path.write_bytes(b"\n".join(map(msgspec.json.encode, entries)) + b"\n")
    words = [str(path), "--variant", "original"]
    shown = CliRunner().invoke(replay_command, words)
    lines = CliRunner().invoke(replay_command, [*words, "--json"]).stdout.splitlines()
    told = [msgspec.json.decode(line) for line in lines]
    assert shown.exit_code == 0, shown.output
    assert all(len(line) <= 80 for line in shown.stdout.splitlines() if str(path) not in line)
    assert ("What was foretold in the shadow" in shown.stdout) == bool(variant)
    assert bool(told[0]["foretold"]) == bool(variant)
    assert told[1]["foretold"] == []
    if variant:
        keys = {"seen_ms", "throttle_percent", "foretold_ms", "replayed_ms", "error_percent"}
        assert told[0]["foretold"][0].keys() >= keys
