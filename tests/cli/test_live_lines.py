"""What happens to a migration, as JSON lines: told as it comes, whole, and to nobody's harm."""

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.simulation.qemu.scenes import scenario
from tests.support.json_lines import require_documented
from tests.support.wait import wait_until
from vmferry.cancel import CancelToken
from vmferry.cli.live_lines import LiveLines
from vmferry.control.looking_on import look_on
from vmferry.control.ports import Ports
from vmferry.convergence.variants import find_variant
from vmferry.migration.events import Decided
from vmferry.migration.journal import CourseJournal, TeeJournal
from vmferry.perf.lab import Lab, VmProcess
from vmferry.report.ended_line import EndedLine
from vmferry.report.journal_runs import run_series
from vmferry.report.lines import LINES, line_of
from vmferry.simulation.qemu.lab import URI, ModelledLab
from vmferry.simulation.qemu.releases import find_release
from vmferry.study.driven import DrivenRun

VMFERRY = (sys.executable, "-m", "vmferry")
Line = dict[str, Any]


def parsed(text: str) -> list[Line]:
    assert text.endswith("\n"), "the last line is whole"
    require_documented(text.splitlines(), (*LINES, EndedLine))
    return [json.loads(line) for line in text.splitlines()]


def watched(shadow: str | None = None, deadline_ms: int | None = None) -> list[Line]:
    """Return what is told of a migration that a modelled QEMU's own auto-converge brings about."""
    lab = ModelledLab(scenario().with_settings({"guest.used-memory": "192M"}), find_release("qemu-7.2"), seed=0)
    monitor = lab.connect()
    monitor.execute("migrate-set-capabilities", {"capabilities": [{"capability": "auto-converge", "state": True}]})
    monitor.execute("migrate-set-parameters", {"max-bandwidth": 50 << 20, "downtime-limit": 100})
    monitor.execute("migrate", {"uri": URI})
    written: list[bytes] = []
    lines, course = LiveLines(written.append, lab.clock), CourseJournal()
    with lines.following(100, deadline_ms) as (watch, tell):
        variant = find_variant(shadow) if shadow else None
        journal = TeeJournal([course, lines.journal])
        result = look_on(Ports(monitor, lab.clock, CancelToken(), tell, tell), journal, watch, shadow=variant)
    lines.end(result, run_series(course.entries, "").outcome)
    return parsed(b"".join(written).decode())


def test_a_migration_is_told_from_its_beginning_to_its_figures() -> None:
    lines = watched()
    kinds = Counter(line["event"] for line in lines)
    assert (lines[0]["event"], lines[-1]["event"]) == ("started", "ended")
    assert (kinds["started"], kinds["ended"]) == (1, 1)
    assert kinds["throttle"] > 0, "QEMU slows the guest and does not say why"
    assert lines[-1]["status"] == "completed"
    assert lines[-1]["max_throttle_percent"] == max(
        line["throttle_percent"] for line in lines if line["event"] == "throttle"
    )
    assert [line["status"] for line in lines if line["event"] == "status"][-1] == "completed"


def test_how_far_it_is_is_told_once_per_second_and_in_each_state() -> None:
    told = [line for line in watched(deadline_ms=60_000) if line["event"] == "progress"]
    told = [line for line in told if line["elapsed_ms"] is not None]
    times = [line["elapsed_ms"] for line in told]
    assert times == sorted(times)
    for before, line in pairwise(told):
        assert line["elapsed_ms"] - before["elapsed_ms"] >= 1000 or line["status"] != before["status"]
    assert all(line["deadline_left_ms"] == 60_000 - line["elapsed_ms"] for line in told)
    assert any(line["least_left_ms"] is not None for line in told)


def test_what_a_shadow_would_do_is_told_before_it_is_done() -> None:
    lines = watched("planned")
    would = [line for line in lines if line["event"] == "shadow"]
    assert would[0]["variant"] == "planned"
    assert would[0]["reason"]
    really = [line for line in lines if line["event"] == "throttle" and line["throttle_percent"] > 50]
    assert lines.index(would[0]) < lines.index(really[0])
    messages = [line["message"] for line in lines if line["event"] == "message"]
    assert len([message for message in messages if "would do: " in message]) == len(would)


def test_decisions_come_with_their_reasons() -> None:
    run = DrivenRun(
        msgspec.structs.replace(scenario(link="50MiB/s"), driven="qemu-7.2", variants=("planned",)), "planned"
    )
    run.run()
    decided = [entry.event for entry in run.journal.entries if isinstance(entry.event, Decided)]
    assert decided
    for event in decided:
        line = line_of(event, 7)
        assert (line.elapsed_ms, line.reason) == (7, event.reason)  # type: ignore[union-attr]
        assert line.throttle_percent == event.throttle_percent  # type: ignore[union-attr]


@contextmanager
def slow_migration() -> Iterator[tuple[VmProcess, str, str]]:
    """Run a pair of our VMs; yield the source, the address of its monitor, and where to it migrates, so slowly that it
    does not end before it is let go on."""
    with Lab() as lab:
        source, _, uri = lab.start_pair(["--memory", "64M"], ["--append", "ramsize=16"])
        source.wait_for_passes(1)
        source.monitor.execute("migrate-set-parameters", {"max-bandwidth": 1 << 18})
        yield source, f"unix:{lab.directory / 'source.qmp'}", uri


def let_go_on(source: VmProcess) -> None:
    source.monitor.execute("migrate-set-parameters", {"max-bandwidth": 0})


@pytest.mark.kvm
def test_watching_ends_with_the_outcome() -> None:
    with slow_migration() as (source, address, uri):
        source.monitor.execute("stop")
        words = [*VMFERRY, "watch", "--json", "--wait", "--finish-by", "10min", "--qmp", address]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watcher:
            source.monitor.execute("migrate", {"uri": uri})
            assert watcher.stdout
            first = watcher.stdout.readline()
            let_go_on(source)
            assert watcher.stderr
            out, errors = watcher.stdout.read(), watcher.stderr.read()
    lines = parsed(first + out)
    assert (watcher.returncode, errors) == (0, "")
    assert (lines[0]["event"], lines[0]["recorded_by"]) == ("started", "vm")
    progress = [line for line in lines if line["event"] == "progress"]
    assert progress
    assert all(line["deadline_left_ms"] == 600_000 - (line["elapsed_ms"] or 0) for line in progress)
    assert (lines[-1]["event"], lines[-1]["status"], lines[-1]["arrival"]) == ("ended", "completed", "verified")


@pytest.mark.kvm
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_stops_watching_gets_a_whole_last_line_and_the_migration_goes_on(number: int) -> None:
    with slow_migration() as (source, address, uri):
        source.monitor.execute("migrate", {"uri": uri})
        words = [*VMFERRY, "watch", "--json", "--qmp", address]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watcher:
            assert watcher.stdout
            first = watcher.stdout.readline()
            watcher.send_signal(number)
            assert watcher.stderr
            out, errors = watcher.stdout.read(), watcher.stderr.read()
        assert source.monitor.execute("query-migrate")["status"] == "active"
    last = parsed(first + out)[-1]
    assert watcher.returncode == last["exit_code"] == 128 + number
    assert (last["event"], last["message"]) == ("left", "stopped watching; the migration goes on")
    assert errors == "vmferry: stopped watching; the migration goes on\n"


@pytest.mark.kvm
def test_a_reader_that_goes_away_ends_no_migration() -> None:
    with slow_migration() as (source, address, uri):
        source.monitor.execute("stop")
        words = [*VMFERRY, "migrate", "--json-lines", "--qmp", address, uri]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as driver:
            assert driver.stdout
            driver.stdout.readline()
            driver.stdout.close()
            let_go_on(source)
            assert driver.stderr
            errors = driver.stderr.read()
        assert source.monitor.execute("query-migrate")["status"] == "completed"
    assert driver.returncode == 0
    assert errors.startswith("vmferry: cannot write standard output: Broken pipe")


@pytest.mark.kvm
def test_a_migration_that_is_cancelled_says_so_in_its_last_line() -> None:
    with slow_migration() as (source, address, uri):
        words = [*VMFERRY, "migrate", "--json-lines", "--finish-by", "10min", "--qmp", address, uri]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as driver:
            wait_until(lambda: source.monitor.execute("query-migrate").get("status") == "active")
            driver.send_signal(signal.SIGTERM)
            out, _ = driver.communicate(timeout=60)
        assert source.monitor.execute("query-status")["running"]
    lines = parsed(out)
    assert driver.returncode == 143
    assert (lines[-1]["event"], lines[-1]["status"]) == ("ended", "cancelled")
    assert [limit["limit"] for limit in lines[-1]["limits"]] == ["finish-by"]


@pytest.mark.kvm
def test_one_object_is_the_last_of_the_lines() -> None:
    with slow_migration() as (source, address, uri):
        source.monitor.execute("stop")
        let_go_on(source)
        words = [*VMFERRY, "migrate", "--json", "--qmp", address, uri]
        answer = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    [ended] = parsed(answer.stdout)
    assert (ended["event"], ended["status"]) == ("ended", "completed")
    assert ended["elapsed_ms"] == ended["total_time_ms"] > 0


def test_where_there_is_nothing_to_watch_the_only_line_says_why(tmp_path: Path) -> None:
    answer = subprocess.run(
        [*VMFERRY, "watch", "--json", "--qmp", f"unix:{tmp_path}/none"], capture_output=True, text=True, timeout=60
    )
    [line] = parsed(answer.stdout)
    assert (answer.returncode, line["event"], line["exit_code"]) == (1, "left", 1)
    assert answer.stderr == f"vmferry: {line['message']}\n"
