"""`vmferry forecast` of real guests: ours and QEMU's. What it says of modelled ones is in tests/study."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.qemu import qemu_without_guest
from vmferry.clock import MonotonicClock
from vmferry.control.asking.result import require_completed
from vmferry.control.drive import drive
from vmferry.perf.lab import Lab

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(900)]  # busy guests leave a forecast little processor time
FORECAST = (sys.executable, "-m", "vmferry", "forecast")


def test_a_busy_guest_of_ours_is_told_to_need_a_throttle_and_nothing_is_changed(tmp_path: Path) -> None:
    with Lab() as lab:
        source, _, _ = lab.start_pair(["--memory", "96M", "--cpus", "1"], ["--append", "ramsize=32"])
        address = f"unix:{lab.directory / 'source.qmp'}"
        source.wait_for_passes(2)
        before = source.monitor.execute("query-migrate-parameters")
        words = [*FORECAST, "--qmp", address, "--bandwidth", "40MiB/s", "--downtime-limit", "100ms", "--json"]
        words += ["--picture", str(tmp_path / "forecast.svg")]
        run = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
        assert source.monitor.execute("query-migrate-parameters") == before
        assert source.monitor.execute("query-status")["running"]
    told = json.loads(run.stdout)
    strategies = {each["strategy"]: each for each in told["strategies"]}
    assert strategies["no-auto-converge"]["chance"] == 0
    assert told["prices"]["throttle_percent"] != 0
    assert told["prices"]["bandwidth_bytes_per_s"] > 40 << 20
    assert not any("sampled" in what for what in told["unknown"]), "a VM of ours counts pages"
    assert told["reason"].startswith("The guest writes faster than 40 MiB/s")
    picture = (tmp_path / "forecast.svg").read_text()
    assert "Distinct memory the guest writes" in picture
    assert {"will": 0, "may": 5, "will not": 6}[told["verdict"]] == run.returncode


def test_a_qemu_without_a_busy_guest_will_converge(tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    with qemu_without_guest(path):
        words = [*FORECAST, "--qmp", f"unix:{path}", "--bandwidth", "1GiB/s"]
        run = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
    assert run.returncode == 0, run.stderr
    assert "It will converge" in run.stdout
    assert "It converges by itself: nothing has to change." in run.stdout


def test_a_vm_without_a_rate_limit_needs_to_be_told_the_bandwidth(tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    with qemu_without_guest(path) as _:
        words = [*FORECAST, "--qmp", f"unix:{path}"]
        subprocess.run(
            [sys.executable, "-m", "vmferry", "monitor", f"unix:{path}", "migrate_set_parameter max-bandwidth 0"],
            timeout=60,
            check=True,
        )
        run = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
    assert run.returncode == 2
    assert "give --bandwidth, what the link carries" in run.stderr


def test_a_guest_whose_pages_are_packed_sends_what_was_foretold() -> None:
    """It only reads, so what goes hangs on how small its pages become, and not on when they go. The pages that are
    looked at are drawn by lot, and some are packed a lot better than others."""
    with Lab() as lab:
        load = "ramsize=32 pattern=read fill=5"
        source, _, uri = lab.start_pair(["--memory", "64M", "--cpus", "1"], ["--append", load])
        source.wait_for_passes(1)
        sample = source.monitor.execute("x-query-compression")
        assert 512 <= sample["sample-pages"] < 576
        assert sample["compressed-rate"] > 0
        parameters = {"max-bandwidth": 4 << 20, "multifd-compression": "zstd"}
        source.monitor.execute("migrate-set-parameters", parameters)
        words = [*FORECAST, "--qmp", f"unix:{lab.directory / 'source.qmp'}", "--json"]
        run = subprocess.run(words, capture_output=True, text=True, timeout=600, check=True)
        told = json.loads(run.stdout)
        outcome = require_completed(drive(source.monitor, uri, lambda progress: None, MonotonicClock()))
        packed = source.monitor.execute("query-migrate")["compression"]
    assert 10 < sample["ratio"] < 25
    assert told["times_smaller"] == pytest.approx(sample["ratio"], rel=0.3)
    assert packed["ratio"] == pytest.approx(told["times_smaller"], rel=0.3)
    (foretold,) = [each for each in told["strategies"] if each["strategy"] == "no-auto-converge"]
    assert foretold["chance"] == 1
    assert foretold["sent_bytes"]["p10"] / 1.5 < outcome.last.sent_bytes < foretold["sent_bytes"]["p90"] * 1.5
