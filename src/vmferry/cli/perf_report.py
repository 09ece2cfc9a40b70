"""`vmferry perf report`: what came out of measured migrations, as tables and as a page."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import click
from rich.table import Table

from vmferry.bounds import clean_text
from vmferry.cli.files import write_whole
from vmferry.cli.json_option import json_option, print_record
from vmferry.cli.tables import bold, compact_table, terminal
from vmferry.convergence.variants import ALL_VARIANTS, NO_AUTO_CONVERGE
from vmferry.perf.batch import troubles
from vmferry.perf.labels import load_text
from vmferry.perf.measure import PerfRun
from vmferry.perf.measured_run import MeasuredRun, measured_run
from vmferry.perf.real_guest import stress_bytes
from vmferry.perf.results import journal_name, read_runs, run_entries
from vmferry.report.figures import count_text, middle, ratio_text, seconds_text
from vmferry.report.journal_runs import run_series
from vmferry.report.page import Section, page
from vmferry.report.runs import Run
from vmferry.report.tradeoff import costs_of

_UNKNOWN = "-"
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command("report")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--html", type=_FILE, help="Write a page that opens offline: the course of every run, by load.")
@json_option("Print one JSON object for each run.", MeasuredRun)
def command(directory: Path, html: Path | None, as_json: bool) -> None:
    """Show the results in DIRECTORY, and write the page of them."""
    runs = read_runs(directory)
    if html:
        write_whole(html, page("Measured migrations", _sections(directory, runs), _circumstances(runs)))
    show_runs(runs, as_json)


def _sections(directory: Path, runs: list[PerfRun]) -> list[Section]:
    """Return a section for each load. Runs without a journal are in its table only."""
    told = troubles(runs)
    return [
        Section(load, [_run(directory, run, told.get(run.job.label, [])) for run in group])
        for load, group in groupby(_in_order(runs), key=lambda run: load_text(run.job.experiment))
    ]


def _run(directory: Path, run: PerfRun, told: Sequence[str]) -> Run:
    """Return a run as reports tell of it, with its course if there is a journal of it."""
    plain = Run(
        label=_variant(run),
        name=f"run {run.job.number}",
        outcome=run.outcome,
        troubles=tuple(told),
        lost_is_measured=True,
    )
    if not (entries := run_entries(directory, run)):
        return plain
    samples = [(sample.time_s, sample.written_pages) for sample in run.samples]
    return replace(
        run_series(entries, plain.label, samples),
        name=plain.name,
        outcome=plain.outcome,
        troubles=plain.troubles,
        lost_is_measured=True,
        source=journal_name(run),
    )


def _circumstances(runs: Iterable[PerfRun]) -> str:
    """Say on which hosts, and with which version, the runs were measured."""
    hosts = dict.fromkeys(
        clean_text(f"{host.get('cpus', '?')} CPUs, Linux {host.get('kernel', '?')}, vmferry {host.get('vmferry', '?')}")
        for host in (run.host for run in runs)
        if host
    )
    return f"Measured on {'; and on '.join(hosts)}." if hosts else ""


def show_runs(runs: list[PerfRun], as_json: bool) -> None:
    """Print the runs, load by load, and what was not as it should have been."""
    if as_json:
        for run in runs:
            print_record(measured_run(run))
        return
    console = terminal()
    told = troubles(runs)
    for load, group in groupby(_in_order(runs), key=lambda run: load_text(run.job.experiment)):
        table = compact_table(bold(load), "variant", "total s", "down", "passes", "max", "lost", "before", "")
        shown = list(group)
        for run in shown:
            table.add_row(*_row(run), "!" if run.job.label in told else "")
        console.print(table)
        if len(shown) > 1:
            console.print(_median_table(shown))
    console.print("down: ms. max: throttle in %. lost: guest work in %. before: 1000 pages/s written. !: see below.")
    for label, reasons in told.items():
        for reason in reasons:
            console.print(f"! {label}: {reason}", soft_wrap=True)


def _median_table(runs: Sequence[PerfRun]) -> Table:
    """Return what the completed runs of each variant come to, and its total time as a share of the first variant's."""
    table = compact_table("medians of completed runs", "variant", "total s", "of first", "from", "to", "down", "lost")
    costs = [cost for cost in costs_of((_variant(run), run.outcome) for run in runs) if cost.completed_count]
    first_ms = middle(costs[0].total_time_ms) if costs else None
    for cost in costs:
        time = cost.total_time_ms
        table.add_row(
            cost.label,
            seconds_text(middle(time)),
            ratio_text(time.median / first_ms if time and first_ms else None),
            seconds_text(time.low if time else None),
            seconds_text(time.high if time else None),
            count_text(middle(cost.downtime_ms)),
            count_text(middle(cost.work_lost_percent)),
        )
    return table


def _variant(run: PerfRun) -> str:
    return clean_text(run.job.variant)


def _in_order(runs: Iterable[PerfRun]) -> list[PerfRun]:
    runs = list(runs)
    variants = list(dict.fromkeys([NO_AUTO_CONVERGE.name, *ALL_VARIANTS, *sorted(map(_variant, runs))]))
    return sorted(
        runs,
        key=lambda run: (
            stress_bytes(run.job.experiment),
            load_text(run.job.experiment),
            variants.index(_variant(run)),
            run.job.number,
        ),
    )


def _row(run: PerfRun) -> tuple[str, ...]:
    outcome = run.outcome
    figures = (outcome.downtime_ms, outcome.iteration_count, outcome.max_throttle_percent, outcome.work_lost_percent)
    return (
        _variant(run),
        seconds_text(outcome.total_time_ms) if outcome.completed else outcome.status,
        *map(count_text, figures),
        f"{run.pages_per_s_before / 1000:.0f}" if run.pages_per_s_before else _UNKNOWN,
    )
