import subprocess
import sys
from pathlib import Path


def test_a_short_fuzz_run_finds_nothing() -> None:
    command = [sys.executable, "-m", "bench.fuzz_qmp", "--messages", "3000", "--seed", "7"]
    result = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr
