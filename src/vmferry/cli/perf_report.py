"""`vmferry perf report`: what came out of measured migrations, as tables and as a page."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import click
from rich.table import Table

from vmferry.cli.json_option import json_option, print_record
from vmferry.cli.pictures import write_whole
from vmferry.cli.tables import bold, compact_table, terminal
from vmferry.convergence.variants import ALL_VARIANTS, NO_AUTO_CONVERGE
from vmferry.perf.batch import troubles
from vmferry.perf.labels import load_text
from vmferry.perf.measure import PerfRun
from vmferry.perf.measured_run import MeasuredRun, measured_run
from vmferry.perf.real_guest import stress_bytes
from vmferry.perf.results import read_runs, run_entries
from vmferry.report.figures import count_text, median, percent_text, ratio_text, seconds_text, time_text
from vmferry.report.journal_runs import clean_text, run_series
from vmferry.report.page import Row, Section, page
from vmferry.report.series import RunSeries
from vmferry.report.summary import verdict

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
    sections = []
    for load, group in groupby(_in_order(runs), key=lambda run: load_text(run.job.experiment)):
        shown = list(group)
        courses = [course for run in shown if (course := _course(directory, run))]
        rows = [_page_row(run, told.get(run.job.label, [])) for run in shown]
        sections.append(Section(load, _verdict(shown, courses), courses, rows))
    return sections


def _verdict(runs: Sequence[PerfRun], courses: Sequence[RunSeries]) -> str:
    completed = sum(run.status == "completed" for run in runs)
    if completed == len(runs) == len(courses):
        return verdict(courses)
    labels = ", ".join(dict.fromkeys(_variant(run) for run in runs if run.status != "completed"))
    return f"{completed} of {len(runs)} migrations completed" + (f"; not: {labels}." if labels else ".")


def _page_row(run: PerfRun, told: Sequence[str]) -> Row:
    figures = {
        "status": run.status,
        "total time": time_text(run.total_time_ms),
        "downtime": time_text(run.downtime_ms),
        "iterations": count_text(run.iteration_count),
        "max throttle": percent_text(run.max_throttle_percent),
        "sent / memory": ratio_text(_sent_share(run)),
        "guest work lost, measured": percent_text(_work_lost(run), _UNKNOWN),
    }
    if not run.began:
        figures = {name: run.status if name == "status" else _UNKNOWN for name in figures}
    return Row(f"{_variant(run)}, run {run.job.number}", _variant(run), figures, told)


def _sent_share(run: PerfRun) -> float | None:
    return None if run.sent_bytes is None else run.sent_bytes / run.job.experiment.guest.memory_bytes


def _circumstances(runs: Iterable[PerfRun]) -> str:
    """Say on which hosts, and with which version, the runs were measured."""
    hosts = dict.fromkeys(
        clean_text(f"{host.get('cpus', '?')} CPUs, Linux {host.get('kernel', '?')}, vmferry {host.get('vmferry', '?')}")
        for host in (run.host for run in runs)
        if host
    )
    return f"Measured on {'; and on '.join(hosts)}." if hosts else ""


def _course(directory: Path, run: PerfRun) -> RunSeries | None:
    entries = run_entries(directory, run)
    samples = [(sample.time_s, sample.written_pages) for sample in run.samples]
    return run_series(entries, _variant(run), samples, _work_lost(run)) if entries else None


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
    medians_ms: list[float | None] = []
    for variant, group in _completed(runs):
        times = [run.total_time_ms for run in group if run.total_time_ms is not None]
        median_ms = median(times)
        medians_ms.append(median_ms)
        table.add_row(
            variant,
            seconds_text(median_ms),
            ratio_text(median_ms / medians_ms[0] if median_ms is not None and medians_ms[0] else None),
            seconds_text(min(times, default=None)),
            seconds_text(max(times, default=None)),
            count_text(median(run.downtime_ms for run in group)),
            count_text(median(_work_lost(run) for run in group)),
        )
    return table


def _completed(runs: Iterable[PerfRun]) -> Iterator[tuple[str, list[PerfRun]]]:
    """Yield the completed runs of each variant that has any."""
    for variant, group in groupby((run for run in runs if run.status == "completed"), key=_variant):
        yield variant, list(group)


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
    figures = tuple(map(count_text, (run.downtime_ms, run.iteration_count, run.max_throttle_percent)))
    return (
        _variant(run),
        seconds_text(run.total_time_ms) if run.status == "completed" else run.status,
        *(figures if run.began else (_UNKNOWN,) * len(figures)),
        count_text(_work_lost(run)),
        f"{run.pages_per_s_before / 1000:.0f}" if run.pages_per_s_before else _UNKNOWN,
    )


def _work_lost(run: PerfRun) -> float | None:
    """Return what of its work the guest lost, if it was watched up to the end; a measured share is never exactly 0."""
    return run.work_lost_percent if run.began and run.work_lost_percent else None
