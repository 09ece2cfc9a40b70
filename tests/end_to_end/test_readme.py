"""The lines that the README gives to enter do what it says."""

import re
import shlex
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.wait import wait_until

README = (Path(__file__).parents[2] / "README.md").read_text()
VMFERRY = str(Path(sys.executable).parent / "vmferry")

pytestmark = pytest.mark.kvm


def test_a_busy_vm_moves_by_the_lines_that_are_to_be_entered_in_three_shells(tmp_path: Path) -> None:
    text = README.partition("## Use it")[2].replace("\\\n", " ")
    text = text.replace("tcp:127.0.0.1:4444", f"unix:{tmp_path}/incoming").replace("/tmp/a.qmp", f"{tmp_path}/a.qmp")
    lines = [[VMFERRY, *shlex.split(line)] for line in re.findall(r"^vmferry (.*)$", text, re.MULTILINE)]
    source, destination, migrate = lines
    with ExitStack() as vms:
        log = vms.enter_context((tmp_path / "log").open("w+"))
        for line in (source, destination):
            vm = vms.enter_context(subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=log))
            vms.callback(vm.kill)
        said = (tmp_path / "log").read_text
        wait_until(lambda: "serves QMP" in said() and "waits for a guest" in said())
        done = subprocess.run(migrate, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert "completed" in done.stdout
