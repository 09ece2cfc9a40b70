"""Plain `virsh migrate` on a host with an agent and on one without: `python -m bench.agent virsh --help`."""

import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
from tests.support.agent import Agent, agent
from tests.support.libvirt import DOMAIN, Daemon, Domain, daemon, migration

from bench.samples import Samples, recording

STEERED, ALONE = "steers", "none"
"""What there is of an agent."""
_LONGEST_S = 600.0
"""How long a steered migration may take."""
_FIGURES = {"took": "s", "downtime": "ms", "work_lost": "%"}


@dataclass(frozen=True)
class Move:
    """A domain to be moved from one libvirt to another, and over what."""

    source: Daemon
    destination: Daemon
    memory_mib: int
    stress_mib: int
    mib_per_s: int

    def carry_out(self, limit_s: float) -> tuple[float, bool]:
        """Move a busy domain, and call that off after a time. Returns how long it took, and whether it has arrived."""
        domain = self.source.start_domain(self.memory_mib, self.stress_mib)
        start_s = time.monotonic()
        with migration(self.source, self.destination, mib_per_s=self.mib_per_s) as virsh:
            arrived = _arrives(virsh, limit_s)
            took_s = time.monotonic() - start_s
            if not arrived:
                _require_no_auto_converge(domain)
        if arrived:
            self.destination.domain().check_memory()
        (self.destination if arrived else self.source).run("destroy", DOMAIN)
        return took_s, arrived


def _arrives(virsh: "subprocess.Popen[str]", limit_s: float) -> bool:
    """Wait for the end of a migration; False if that does not come in time."""
    try:
        _, errors = virsh.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        return False
    if virsh.returncode:
        raise SystemExit(f"virsh has failed: {errors}")
    return True


def _require_no_auto_converge(domain: Domain) -> None:
    if {"capability": "auto-converge", "state": True} in domain.monitor.execute("query-migrate-capabilities"):
        raise SystemExit("QEMU's auto-converge is on, so this is no plain migration")


@click.command()
@click.option("--runs", default=2, show_default=True, help="Runs of each kind.")
@click.option("--memory", default=1024, show_default=True, help="Guest memory in MiB.")
@click.option("--stress", default=800, show_default=True, help="Memory rewritten for ever in MiB.")
@click.option("--bandwidth", default=200, show_default=True, help="What virsh is told, in MiB/s.")
@click.option("--times", default=10.0, show_default=True, help="Call a migration off that nobody steers after so many "
              "times what the steered one before it took.")  # fmt: skip
@click.pass_obj
def virsh(output: Path | None, /, runs: int, memory: int, stress: int, bandwidth: int, times: float) -> None:
    """Plain `virsh migrate --live` of a busy domain: with an agent on the source's host, and without one.

    The agent's file says `mode = "steer"`, and nothing else of how. QEMU's auto-converge is off, as it is by default.
    """
    with recording(output) as samples, daemon() as source, daemon() as destination:
        move = Move(source, destination, memory, stress, bandwidth)
        what: dict[str, object] = {"memory_mib": memory, "stress_mib": stress, "mib_per_s": bandwidth}
        for _ in range(runs):
            took_s = _steered(samples, move, what)
            alone_s, completed = move.carry_out(times * took_s)
            samples.add("took", alone_s, "s", agent=ALONE, completed=completed, **what)
    for line in _table(samples):
        click.echo(line, err=True)


def _steered(samples: Samples, move: Move, what: dict[str, object]) -> float:
    """Move the domain with an agent beside it, and return how long that took."""
    with _steering(move.source) as one:
        took_s, completed = move.carry_out(_LONGEST_S)
        one.wait_for("ended: ")
        assert one.stop() == 0
        (row,) = one.remembered()
    what = {"agent": STEERED, "completed": completed, **what}
    samples.add("took", took_s, "s", **what)
    if row.downtime_ms is not None:
        samples.add("downtime", row.downtime_ms, "ms", **what)
    if row.work_lost_percent is not None:
        samples.add("work_lost", row.work_lost_percent, "%", **what)
    return took_s


@contextmanager
def _steering(host: Daemon) -> Iterator[Agent]:
    """Run an agent that steers whatever migrates there."""
    with tempfile.TemporaryDirectory(prefix="vmferry-") as name, agent(Path(name)) as one:
        one.write(f'libvirt = ["{host.uri}"]\n[[rule]]\nmode = "steer"\n')
        one.start()
        one.wait_for("is listened to")
        yield one


def _table(samples: Samples) -> Iterator[str]:
    yield "| agent | completed | `virsh migrate` took | downtime | work lost |"
    yield "|---|---|---|---|---|"
    for by in (STEERED, ALONE):
        runs, completed = (samples.values("took", agent=by, **only) for only in ({}, {"completed": True}))
        figures = (_range(samples.values(name, agent=by), unit) for name, unit in _FIGURES.items())
        yield f"| {by} | {len(completed)} of {len(runs)} | {' | '.join(figures)} |"


def _range(values: list[float], unit: str) -> str:
    """Tell the median, and from where to where they go."""
    if not values:
        return "unknown"
    return f"{statistics.median(values):.3g} {unit} ({min(values):.3g} to {max(values):.3g})"
