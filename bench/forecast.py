"""What a forecast costs the guest and the host: `python -m bench.forecast --help`.

`vmferry forecast` is run as people run it, whose Python keeps what it has compiled. How much the guest writes meanwhile
is compared with how much it writes in as long a time before and after, in the mean of the two.
"""

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
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
_SURE = 0.95
_FORETOLD = (ExitCode.DONE, ExitCode.MAY_CONVERGE, ExitCode.WILL_NOT_CONVERGE)


@dataclass(frozen=True)
class Cost:
    """What one forecast took."""

    duration_s: float
    cpu_s: float


@click.command()
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Append the raw samples to this file.")
@click.option("--qemu10", help="Path of a QEMU 10, see bench/get-qemu10.sh.")
@click.option("--runs", type=click.IntRange(6), default=7, show_default=True,
              help="Forecasts of each guest; seven take three minutes.")  # fmt: skip
@click.option("--peer", "name", help="Only the body of this name, such as qemu-10.")
@click.option("--load", "number", type=click.IntRange(0, len(LOADS) - 1), help="Only the guest of this number.")
@click.option("--bandwidth", default="100MiB/s", show_default=True, help="The link.")
def main(
    output: Path | None, qemu10: str | None, runs: int, name: str | None, number: int | None, bandwidth: str
) -> None:
    """Time and processor time of forecasts, and the guest's speed meanwhile. The machine should do nothing else."""
    with recording(output) as samples:
        for peer in (peer for peer in (ours("original"), *qemus(qemu10)) if name in (None, peer.name)):
            for load in LOADS if number is None else (LOADS[number],):
                _measure(samples, peer, load, runs, bandwidth)


def _measure(samples: Samples, peer: Peer, load: Load, runs: int, bandwidth: str) -> None:
    warm_memory(load.memory_mib)
    with Lab() as lab:
        more = ["-qmp", f"unix:{_SECOND_SOCKET},server=on,wait=off"] if peer.binary else []
        source, _, _ = peer.start_pair(lab, load, more)
        forecast = partial(_forecast, _command(lab.directory / ("source.qmp-2" if more else "source.qmp"), bandwidth))
        duration_s = forecast(environment := _compiling(lab.directory / "bytecode")).duration_s  # into the page cache
        what: dict[str, object] = {"peer": peer.name, "memory_mib": load.memory_mib, "guest": load.append}
        cool_down()
        before, _ = _pages_per_s(source, partial(time.sleep, duration_s))
        for _ in range(runs):
            beside, cost = _pages_per_s(source, partial(forecast, environment))
            after, _ = _pages_per_s(source, partial(time.sleep, cost.duration_s))
            samples.add("forecast_time", cost.duration_s, "s", **what)
            samples.add("forecast_cpu", cost.cpu_s / cost.duration_s, "of a core", **what)
            samples.add("guest_speed", 2 * beside / (before + after), "of that without a forecast", **what)
            before = after
        low, high = median_interval(samples.values("guest_speed", **what))
        speed = samples.median("guest_speed", **what)
        click.echo(f"{what}: guest_speed {speed:.3f}, {_SURE:.0%} sure {low:.3f} to {high:.3f}", err=True)


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return between which of the values the median of all possible ones lies, as sure as those allow."""
    ordered, count = sorted(values), len(values)
    outside = 0.0
    for rank in range(count // 2):
        outside += 2 * math.comb(count, rank) / 2**count
        if outside > 1 - _SURE:
            return ordered[max(0, rank - 1)], ordered[count - max(1, rank)]
    return ordered[0], ordered[-1]


def _compiling(directory: Path) -> dict[str, str]:
    """Return the environment of a Python that keeps there what it has compiled, as it does where it is installed."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPYCACHEPREFIX": str(directory)}


def _command(socket: Path, bandwidth: str) -> list[str]:
    forecast = [sys.executable, "-m", "vmferry", "forecast", "--qmp", f"unix:{socket}"]
    return [*forecast, "--bandwidth", bandwidth, "--downtime-limit", "300ms", "--json"]


def _forecast(command: list[str], environment: Mapping[str, str]) -> Cost:
    start_s = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
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
