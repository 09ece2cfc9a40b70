"""Runs the chaos suite: `python -m bench.chaos --help`."""

import os
import signal
import sys
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import click
import msgspec

from bench.chaos import driven, simulated
from bench.chaos.bodies import ours, qemus
from bench.chaos.faults import CATALOGUE
from bench.chaos.live import run_many
from bench.chaos.records import Counted, Tally, read_records

_OUTPUT = click.Path(dir_okay=False, path_type=Path)


@click.group()
@click.option("--seed", default=1, show_default=True, help="Of what is drawn: faults, places and settings.")
@click.option("--only", type=int, help="Make the run of this number alone.")
@click.option("--output", type=_OUTPUT, help="Append the raw records to this file, one JSON object per line.")
@click.pass_context
def chaos(context: click.Context, /, seed: int, only: int | None, output: Path | None) -> None:
    """Migrate under faults and check what must hold. Exit code 1 if a promise was broken."""
    # In the background of a script SIGINT is ignored, and drivers that inherit that cannot be interrupted.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    context.obj = (seed, only, output)


_processes = click.option("--processes", default=os.cpu_count, type=int, help="Simulate in so many.  [default: all]")
_fault = click.option("--fault", "faults", multiple=True, type=click.Choice(list(CATALOGUE)),
                      help="One of these only, such as 'kill source'; repeatable.")  # fmt: skip
_qemu10 = click.option("--qemu10", help="Path of a QEMU 10, to be used as well; see bench/get-qemu10.sh.")


@chaos.command("simulated")
@click.option("--runs", default=1000, show_default=True, help="How many.")
@_processes
@click.pass_obj
def simulated_command(settings: tuple[int, int | None, Path | None], /, runs: int, processes: int) -> None:
    """Small guests in memory, in virtual time."""
    seed, only, output = settings
    report(simulated.run_many(seed, numbers(runs, only), processes), output)


@chaos.command("driven")
@click.option("--runs", default=1000, show_default=True, help="How many.")
@_processes
@click.pass_obj
def driven_command(settings: tuple[int, int | None, Path | None], /, runs: int, processes: int) -> None:
    """The driver against modelled QEMUs, in virtual time: its monitor, other clients, the far side."""
    seed, only, output = settings
    report(driven.run_many(seed, numbers(runs, only), processes), output)


@chaos.command()
@click.option("--runs", default=100, show_default=True, help="How many.")
@_fault
@click.pass_obj
def live(settings: tuple[int, int | None, Path | None], /, runs: int, faults: tuple[str, ...]) -> None:
    """VMs of vmferry's own, in processes of their own, driven by `vmferry migrate`."""
    seed, only, output = settings
    report(run_many(ours(), seed, numbers(runs, only), faults), output)


@chaos.command("qemu")
@click.option("--runs", default=30, show_default=True, help="How many of each QEMU.")
@_qemu10
@_fault
@click.pass_obj
def qemu_command(
    settings: tuple[int, int | None, Path | None], /, runs: int, qemu10: str | None, faults: tuple[str, ...]
) -> None:
    """The VMs of stock QEMU, driven by `vmferry migrate` from outside."""
    seed, only, output = settings
    report(chain.from_iterable(run_many(body, seed, numbers(runs, only), faults) for body in qemus(qemu10)), output)


@chaos.command("all")
@click.option("--simulated", "simulated_runs", default=100_000, show_default=True, help="Simulated runs.")
@click.option("--live", "live_runs", default=1000, show_default=True, help="Live runs of our VMs.")
@click.option("--qemu", "qemu_runs", default=100, show_default=True, help="Live runs of each QEMU.")
@_processes
@_qemu10
@click.pass_obj
def all_command(
    settings: tuple[int, int | None, Path | None],
    /,
    simulated_runs: int,
    live_runs: int,
    qemu_runs: int,
    processes: int,
    qemu10: str | None,
) -> None:
    """All of them: the long run of docs/reliability.md."""
    seed, only, output = settings
    if only is not None:
        raise click.UsageError("--only goes with one kind of run: simulated, live or qemu")
    live_bodies = [(ours(), live_runs), *((body, qemu_runs) for body in qemus(qemu10))]
    live_records = (run_many(body, seed, range(runs)) for body, runs in live_bodies)
    report(chain(simulated.run_many(seed, range(simulated_runs), processes), *live_records), output)


@chaos.command("table")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def table_command(files: tuple[Path, ...]) -> None:
    """Print the records of FILES as Markdown."""
    tally = Tally()
    for record in read_records(files):
        tally.add(record)
    click.echo(tally)


def numbers(runs: int, only: int | None) -> Sequence[int]:
    """Return the numbers of the runs to make."""
    return range(runs) if only is None else [only]


def report(records: Iterable[Counted], output: Path | None) -> None:
    """Keep the records, tell of each violation at once, and print the table. Exits with 1 if there was one."""
    tally = Tally()
    with output.open("ab") if output else open(os.devnull, "wb") as file:
        for record in records:
            file.write(msgspec.json.encode(record) + b"\n")
            file.flush()
            tally.add(record)
            for violation in record.violations:
                click.echo(f"{record.body} --seed {record.seed} --only {record.number}: {violation}", err=True)
    click.echo(tally)
    sys.exit(tally.violation_count > 0)


if __name__ == "__main__":
    chaos()
