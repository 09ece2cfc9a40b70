"""The command line as its user meets it: its output and exit codes."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command_line import run
from tests.support.wait import wait_until
from vmferry.migration.trace import TRACE_EVENTS
from vmferry.perf.lab import VM_COMMAND, Lab
from vmferry.settings.parameters import PARAMETERS

VMFERRY = [sys.executable, "-m", "vmferry"]


def run_process(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*VMFERRY, *words], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("words", "exit_code", "complaint"),
    [
        (["frob"], 2, "vmferry: No such command 'frob'; see vmferry --help\n"),
        (["vm", "--append", "a\udcff"], 2, "'a\\udcff' is not UTF-8; write it in UTF-8"),
        (["migrate", "tcp:a:1"], 2, "either --qmp ADDRESS or --libvirt DOMAIN"),
        (["watch", "--qmp", "unix:/x", "--libvirt", "busy"], 2, "either --qmp ADDRESS or --libvirt DOMAIN"),
        (["watch", "--qmp", "unix:/x", "--connect", "qemu:///system"], 2, "give --libvirt DOMAIN as well"),
        (["migrate", "--qmp", "unix:/nowhere", "tcp:a:1"], 1, "cannot reach the monitor at unix:/nowhere"),
        (["migrate", "--qmp", "nowhere", "tcp:a:1"], 2, "'nowhere' is not an address"),
        (["migrate", "--qmp", "unix:/x", "tcp:a:1", "--downtime-limit", "5"], 2, "write for example 500ms"),
        (["migrate", "--qmp", "unix:/x", "tcp:a:1", "--max-bandwidth", "fast"], 2, "'fast' is not a rate"),
        (
            ["migrate", "--qmp", "unix:/x", "tcp:a:1", "--cpu-throttle-initial", "0"],
            2,
            "is 0; it may be 1 to 99\n",
        ),
        (["vm", "--memory", "lots"], 2, "'lots' is not a size; write for example 2G"),
        (["vm", "--uuid", "foo"], 2, "'foo' is not a UUID; write 32 hexadecimal digits"),
        (["vm", "--trace", "nosuch_*"], 2, "no trace event is called 'nosuch_*'; --trace help lists them"),
        (["vm", "--cpus", "0"], 2, "1<=x<=255"),
        (["report", "/no\x1b[31m\nwhere"], 2, "cannot read the journal /no?[31m?where: No such file or directory\n"),
        (["vm", "--incoming", "defer", "--append", "x"], 2, "leave out --kernel and --append"),
    ],
)
def test_what_cannot_be_is_one_clear_line(words: list[str], exit_code: int, complaint: str) -> None:
    answer = run(*words)
    assert answer.returncode == exit_code
    assert complaint in answer.stderr
    assert "Traceback" not in answer.stderr
    assert answer.stderr.count("\n") == 1
    assert all(line.isprintable() for line in answer.stderr.splitlines())
    assert answer.stdout == ""


def test_trace_help_lists_every_trace_event() -> None:
    answer = run("vm", "--trace", "help")
    assert [line.split()[0] for line in answer.stdout.splitlines()] == [event.name for event in TRACE_EVENTS]
    assert max(map(len, answer.stdout.splitlines())) <= 80


def test_help_names_every_command_and_every_parameter() -> None:
    help = run("--help").stdout
    assert all(f"\n  {name} " in help for name in ("demo", "migrate", "vm"))
    text = run("migrate", "--help").stdout
    assert all(f"--{name}" in text for name in PARAMETERS)


@pytest.mark.kvm
def test_migrate_prints_json_for_scripts() -> None:
    with Lab() as lab:
        source, destination, uri = lab.start_pair(["--memory", "64M"], ["--append", "ramsize=8"])
        source.wait_for_passes(1)
        answer = run_process("migrate", "--qmp", f"unix:{lab.directory / 'source.qmp'}", uri, "--json", "--verify")
        assert answer.returncode == 0, answer.stderr
        result = json.loads(answer.stdout)
        assert result["status"] == "completed"
        assert result["total_bytes"] == 64 << 20
        destination.check_memory()


@pytest.mark.kvm
def test_ctrl_c_cancels_and_the_vm_runs_on() -> None:
    with Lab() as lab:
        source, _, uri = lab.start_pair(["--memory", "64M"], ["--append", "ramsize=32"])
        source.wait_for_passes(1)
        words = ["migrate", "--qmp", f"unix:{lab.directory / 'source.qmp'}", uri, "--max-bandwidth", "1M"]
        with subprocess.Popen([*VMFERRY, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as driver:
            wait_until(lambda: source.monitor.execute("query-migrate").get("status") == "active")
            driver.send_signal(signal.SIGINT)
            output, errors = driver.communicate(timeout=60)
        assert driver.returncode == 130
        assert (output, errors) == ("", "vmferry: migration cancelled\n")
        assert source.monitor.execute("query-status")["running"]


@pytest.mark.kvm
def test_a_terminated_vm_ends_well() -> None:
    with Lab() as lab:
        vm = lab.start([*VM_COMMAND, "--memory", "64M"], "vm")
        vm.process.terminate()
        assert vm.process.wait(60) == 128 + signal.SIGTERM
        assert vm.errors().splitlines()[1:] == ["vmferry: the VM was ended by SIGTERM"]


@pytest.mark.parametrize("words", [["--help"], ["policy", "list"], ["forecast", "--help"]])
def test_an_output_that_cannot_be_written_is_told_in_one_line(words: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        answer = subprocess.run([*VMFERRY, *words], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (answer.returncode, answer.stderr) == (1, "vmferry: cannot write the output: No space left on device\n")


IN_ITS_IMPORTS = """
class Signalling:
    def find_spec(self, name, *rest):
        if name == "vmferry.cli.main":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Signalling())
"""
AT_ITS_END = "atexit.register(os.kill, os.getpid(), signal.SIGINT)"


@pytest.mark.parametrize(("when", "code"), [(IN_ITS_IMPORTS, -signal.SIGINT), (AT_ITS_END, 0)])
def test_ctrl_c_before_it_begins_and_after_it_has_ended_is_no_traceback(when: str, code: int) -> None:
    program = f"import atexit, os, signal, sys\n{when}\nfrom vmferry.__main__ import main\nmain()"
    answer = subprocess.run([sys.executable, "-c", program, "--version"], capture_output=True, text=True, timeout=60)
    assert (answer.returncode, answer.stderr) == (code, "")
