"""Runs the chaos suite: `python -m bench.chaos --help`."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path

import click
import msgspec

from bench.chaos import simulated
from bench.chaos.records import Record, read_records, table

_OUTPUT = click.Path(dir_okay=False, path_type=Path)


@click.group()
@click.option("--seed", default=1, show_default=True, help="Of what is drawn: faults, places and settings.")
@click.option("--only", type=int, help="Make the run of this number alone.")
@click.option("--output", type=_OUTPUT, help="Append the raw records to this file, one JSON object per line.")
@click.pass_context
def chaos(context: click.Context, /, seed: int, only: int | None, output: Path | None) -> None:
    """Migrate under faults and check what must hold. Exit code 1 if a promise was broken."""
    context.obj = (seed, only, output)


@chaos.command("simulated")
@click.option("--runs", default=1000, show_default=True, help="How many.")
@click.option("--processes", default=os.cpu_count, type=int, help="In so many processes.  [default: one per processor]")
@click.pass_obj
def simulated_command(settings: tuple[int, int | None, Path | None], /, runs: int, processes: int) -> None:
    """Small guests in memory, in virtual time."""
    seed, only, output = settings
    numbers = range(runs) if only is None else [only]
    report(simulated.run_many(seed, numbers, processes), output)


@chaos.command("table")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def table_command(files: tuple[Path, ...]) -> None:
    """Print the records of FILES as Markdown."""
    click.echo(table(read_records(files)))


def report(records: Iterable[Record], output: Path | None) -> None:
    """Keep the records, tell of each violation at once, and print the table. Exits with 1 if there was one."""
    done = []
    with output.open("ab") if output else open(os.devnull, "wb") as file:
        for record in records:
            file.write(msgspec.json.encode(record) + b"\n")
            file.flush()
            done.append(record)
            for violation in record.violations:
                click.echo(f"{record.body} --seed {record.seed} --only {record.number}: {violation}", err=True)
    click.echo(table(done))
    sys.exit(any(record.violations for record in done))


if __name__ == "__main__":
    chaos()
