"""`vmferry watch`: it shows and does not touch."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.wait import wait_until
from vmferry.migration.events import BandwidthWindow, Ended, Started
from vmferry.migration.journal import read_journal
from vmferry.perf.lab import Lab

pytestmark = pytest.mark.kvm
WATCH = (sys.executable, "-m", "vmferry", "watch")


def test_a_migration_is_watched_to_its_end(tmp_path: Path) -> None:
    journal, own = tmp_path / "journal", tmp_path / "own"
    with Lab() as lab:
        source, _, uri = lab.start_pair(["--memory", "64M"], ["--append", "ramsize=16", "--journal", str(own)])
        address = f"unix:{lab.directory / 'source.qmp'}"
        source.wait_for_passes(1)
        none = subprocess.run([*WATCH, "--qmp", address], capture_output=True, text=True)
        assert none.returncode == 2
        assert "no migration is running (the last is 'none'); --wait waits for one" in none.stderr
        source.monitor.execute("stop")
        source.monitor.execute("migrate-set-parameters", {"max-bandwidth": 1 << 20})
        before = source.monitor.execute("query-migrate-parameters")
        words = [*WATCH, "--qmp", address, "--wait", "--journal", str(journal)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as watcher:
            source.monitor.execute("migrate", {"uri": uri})
            wait_until(lambda: journal.exists() and journal.stat().st_size > 0)
            assert source.monitor.execute("query-migrate-parameters") == before
            source.monitor.execute("migrate-set-parameters", {"max-bandwidth": 32 << 20})
            out, _ = watcher.communicate(timeout=60)
        assert watcher.returncode == 0
        assert "Migration completed" in out
        assert source.monitor.execute("query-migrate-parameters") == before | {"max-bandwidth": 32 << 20}
    events = [entry.event for entry in read_journal(journal)]
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Ended)
    assert any(isinstance(event, BandwidthWindow) for event in events)
    assert journal.read_bytes() == own.read_bytes()
