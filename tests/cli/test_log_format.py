"""What commands say on stderr as JSON lines."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.cli.test_sweep import SCENARIO
from tests.support.command_line import run
from tests.support.qemu import qemu_without_guest
from vmferry.cli.log_option import STDERR
from vmferry.cli.main import vmferry
from vmferry.perf.lab import VM_COMMAND, Lab


def said(text: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        assert line.keys() >= {"time", "level", "message"}
        assert line["level"] in ("info", "warning", "error")
    return lines


@pytest.mark.parametrize(
    ("words", "exit_code"),
    [
        (("watch", "--qmp", "unix:/nowhere"), 1),
        (("migrate", "--qmp", "unix:/nowhere", "tcp:a:1"), 1),
        (("migrate", "--qmp", "unix:/nowhere"), 2),
        (("vm", "--kernel", "/nowhere"), 2),
        (("forecast", "--qmp", "unix:/nowhere"), 1),
        (("agent", "--config", "/nowhere\nforged"), 2),
        (("history", "--database", "sqlite:///nowhere"), 2),
        (("report", "/nowhere"), 2),
    ],
)
def test_an_error_is_one_object_with_the_exit_code(words: tuple[str, ...], exit_code: int) -> None:
    answer = run(*words, "--log-format", "json")
    [line] = said(answer.stderr)
    assert (line["level"], line["command"]) == ("error", words[0])
    assert answer.returncode == line["exit_code"] == exit_code


@pytest.mark.qemu
def test_what_is_told_of_a_migration_is_objects(tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    with qemu_without_guest(path):
        words = ("--variant", "original", "--log-format", "json")
        answer = run("migrate", "--qmp", str(path), "unix:/nowhere/x", *words)
    lines = said(answer.stderr)
    assert [line["level"] for line in lines][-1] == "error"
    assert any(line["level"] == "info" and "QEMU" in line["message"] for line in lines)


@pytest.mark.kvm
def test_what_a_vm_says_is_objects_and_so_are_its_trace_events() -> None:
    with Lab() as lab:
        words = ["--memory", "64M", "--log-format", "json", "--trace", "*"]
        vm = lab.start([*VM_COMMAND, *words], "vm")
        vm.monitor.execute("migrate", {"uri": "unix:/nowhere/x"})
        vm.process.terminate()
        assert vm.process.wait(60) == 128 + signal.SIGTERM
        lines = said(vm.errors())
    assert lines[0]["message"].startswith("serves QMP at ")
    assert any(line.get("trace") for line in lines)
    assert (lines[-1]["level"], lines[-1]["exit_code"]) == ("error", 143)


def test_what_a_sweep_says_is_objects(tmp_path: Path) -> None:
    scenario, output = tmp_path / "one.toml", str(tmp_path / "out.jsonl")
    scenario.write_text(SCENARIO)
    words = ["sweep", str(scenario), "--seeds", "1", "--jobs", "1", "--output", output, "--log-format", "json"]
    answer = CliRunner().invoke(vmferry, words)
    [line] = said(answer.stderr)
    assert line["command"] == "sweep"
    assert line["message"].startswith("1 cases to simulate")


def test_one_command_line_does_not_decide_for_the_next() -> None:
    CliRunner().invoke(vmferry, ["watch", "--log-format", "json"])
    assert STDERR.is_json
    CliRunner().invoke(vmferry, ["policy", "list"])
    assert not STDERR.is_json
