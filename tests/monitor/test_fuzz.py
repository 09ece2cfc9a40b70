import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("vm", [[], pytest.param(["--kvm"], marks=pytest.mark.kvm)], ids=["in memory", "kvm"])
def test_a_short_fuzz_run_finds_nothing(vm: list[str]) -> None:
    command = [sys.executable, "-m", "bench.fuzz_qmp", "--messages", "3000", "--seed", "7", *vm]
    result = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr
