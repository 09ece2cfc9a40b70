"""The guest's benchmark runs."""

import json
from pathlib import Path

import pytest
from bench.guest import bench
from click.testing import CliRunner


@pytest.mark.kvm
def test_the_benchmark_of_a_guest(tmp_path: Path) -> None:
    output = tmp_path / "samples.jsonl"
    options = ["--output", str(output), "--memory", "64", "--stress", "32", "--duration", "0.05"]
    result = CliRunner().invoke(bench, options, catch_exceptions=False)
    assert result.exit_code == 0
    samples = [json.loads(line) for line in output.read_text().splitlines()]
    assert {sample["name"] for sample in samples} >= {"speed", "work_left", "pause", "collect_dirty", "load_state"}
    assert all(sample["value"] >= 0 for sample in samples)
