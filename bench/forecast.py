"""What a forecast costs the guest and the host: `python -m bench.forecast --help`.

`vmferry forecast` is run as people run it. How much the guest writes meanwhile is compared with how much it writes in
as long a time without a forecast, in an order that changes.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import click

from bench.peers import Load, Peer, cool_down, ours, qemus, warm_memory
from bench.samples import Samples, recording
from vmferry.cli.exit_codes import ExitCode
from vmferry.perf.lab import MONITOR_SOCKET, Lab, VmProcess

_T = TypeVar("_T")
LOADS = (Load(1024, 1, 800), Load(512, 2, 300), Load(512, 1, 160, "pattern=uniform"))
_SECOND_SOCKET = f"{MONITOR_SOCKET}-2"
"""A QEMU's socket serves one client, and this is for the forecast."""
_FORETOLD = (ExitCode.DONE, ExitCode.MAY_CONVERGE, ExitCode.WILL_NOT_CONVERGE)


@dataclass(frozen=True)
class Cost:
    """What one forecast took."""

    duration_s: float
    cpu_s: float


@click.command()
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Append the raw samples to this file.")
@click.option("--qemu10", help="Path of a QEMU 10, see bench/get-qemu10.sh.")
@click.option("--runs", default=3, show_default=True, help="Pairs of each guest.")
@click.option("--load", "number", type=click.IntRange(0, len(LOADS) - 1), help="Only the guest of this number.")
@click.option("--bandwidth", default="100MiB/s", show_default=True, help="The link.")
def main(output: Path | None, qemu10: str | None, runs: int, number: int | None, bandwidth: str) -> None:
    """Time and processor time of forecasts, and the guest's speed meanwhile. The machine should do nothing else."""
    with recording(output) as samples:
        for peer in (ours("original"), *qemus(qemu10)):
            for load in LOADS if number is None else (LOADS[number],):
                _measure(samples, peer, load, runs, bandwidth)


def _measure(samples: Samples, peer: Peer, load: Load, runs: int, bandwidth: str) -> None:
    warm_memory(load.memory_mib)
    with Lab() as lab:
        more = ["-qmp", f"unix:{_SECOND_SOCKET},server=on,wait=off"] if peer.binary else []
        source, _, _ = peer.start_pair(lab, load, more)
        command = _command(lab.directory / ("source.qmp-2" if more else "source.qmp"), bandwidth)
        duration_s = _forecast(command).duration_s  # which also brings the programme into the page cache
        what: dict[str, object] = {"peer": peer.name, "memory_mib": load.memory_mib, "guest": load.append}
        for run in range(runs):
            alone = 0.0
            if run % 2:
                alone, _ = _pages_per_s(source, partial(time.sleep, duration_s))
                cool_down()
            beside, cost = _pages_per_s(source, partial(_forecast, command))
            duration_s = cost.duration_s
            if not run % 2:
                cool_down()
                alone, _ = _pages_per_s(source, partial(time.sleep, duration_s))
            samples.add("forecast_time", duration_s, "s", **what)
            samples.add("forecast_cpu", cost.cpu_s / duration_s, "of a core", **what)
            samples.add("guest_speed", beside / alone, "of that without a forecast", **what)


def _command(socket: Path, bandwidth: str) -> list[str]:
    forecast = [sys.executable, "-m", "vmferry", "forecast", "--qmp", f"unix:{socket}"]
    return [*forecast, "--bandwidth", bandwidth, "--downtime-limit", "300ms", "--json"]


def _forecast(command: list[str]) -> Cost:
    start_s = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in _FORETOLD:
        raise click.ClickException(f"the forecast failed: exit code {process.returncode}")
    return Cost(time.monotonic() - start_s, usage.ru_utime + usage.ru_stime)


def _pages_per_s(source: VmProcess, meanwhile: Callable[[], _T]) -> tuple[float, _T]:
    """Return how many pages the guest writes per second while something is done, and what comes of that."""
    start, start_s = source.progress().written_pages, time.monotonic()
    result = meanwhile()
    end, end_s = source.progress().written_pages, time.monotonic()
    return (end - start) / (end_s - start_s), result


if __name__ == "__main__":
    main()
