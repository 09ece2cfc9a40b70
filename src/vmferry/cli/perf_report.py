"""`vmferry perf report`: what came out of measured migrations, as tables and as a page."""

import statistics
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import click
import msgspec
from rich.table import Table

from vmferry.cli.pictures import write_whole
from vmferry.cli.tables import bold, compact_table, terminal
from vmferry.convergence.policy import VARIANTS
from vmferry.perf.batch import troubles
from vmferry.perf.journal_runs import clean_text, run_series
from vmferry.perf.measure import PerfRun
from vmferry.perf.page import Row, Section, page
from vmferry.perf.results import read_runs, run_entries
from vmferry.perf.series import NO_AUTO_CONVERGE, RunSeries
from vmferry.perf.summary import verdict
from vmferry.units import format_duration

_NS_PER_MS = 1_000_000
_UNKNOWN = "-"
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command("report")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--html", type=_FILE, help="Write a page that opens offline: the course of every run, by load.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each run.")
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
    for load, group in groupby(_in_order(runs), key=lambda run: run.job.scenario.load_text):
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
    sent_share = run.sent_bytes / run.job.scenario.memory_bytes
    figures = {
        "total time": format_duration(run.total_time_ms * _NS_PER_MS),
        "downtime": format_duration(run.downtime_ms * _NS_PER_MS),
        "iterations": str(run.iteration_count),
        "max throttle": f"{run.max_throttle_percent} %",
        "sent / memory": f"{sent_share:.2f}",
    }
    figures = {"status": run.status} | {name: text if run.began else _UNKNOWN for name, text in figures.items()}
    figures["guest work lost, measured"] = f"{run.work_lost_percent:.0f} %" if _work_is_known(run) else _UNKNOWN
    return Row(f"{_variant(run)}, run {run.job.number}", _variant(run), figures, told)


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
    return run_series(entries, _variant(run), samples) if entries else None


def show_runs(runs: list[PerfRun], as_json: bool) -> None:
    """Print the runs, load by load, and what was not as it should have been."""
    if as_json:
        for run in runs:
            click.echo(msgspec.json.encode(run))
        return
    console = terminal()
    told = troubles(runs)
    for load, group in groupby(_in_order(runs), key=lambda run: run.job.scenario.load_text):
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
    first_s: float | None = None
    for variant, group in _completed(runs):
        seconds = [run.total_time_ms / 1000 for run in group]
        median_s = statistics.median(seconds)
        first_s = median_s if first_s is None else first_s
        table.add_row(
            variant,
            f"{median_s:.1f}",
            f"{median_s / first_s:.2f}" if first_s else "",
            f"{min(seconds):.1f}",
            f"{max(seconds):.1f}",
            f"{statistics.median(run.downtime_ms for run in group):.0f}",
            f"{statistics.median(run.work_lost_percent for run in group):.0f}",
        )
    return table


def _completed(runs: Iterable[PerfRun]) -> Iterator[tuple[str, list[PerfRun]]]:
    """Yield the completed runs of each variant that has any."""
    for variant, group in groupby((run for run in runs if run.status == "completed"), key=_variant):
        yield variant, list(group)


def _variant(run: PerfRun) -> str:
    return run.job.scenario.variant or NO_AUTO_CONVERGE


def _in_order(runs: Iterable[PerfRun]) -> list[PerfRun]:
    variants = [None, *VARIANTS]
    return sorted(
        runs,
        key=lambda run: (
            run.job.scenario.stress_bytes,
            run.job.scenario.load_text,
            variants.index(run.job.scenario.variant),
            run.job.number,
        ),
    )


def _row(run: PerfRun) -> tuple[str, ...]:
    figures = (str(run.downtime_ms), str(run.iteration_count), str(run.max_throttle_percent))
    return (
        _variant(run),
        f"{run.total_time_ms / 1000:.1f}" if run.status == "completed" else run.status,
        *(figures if run.began else (_UNKNOWN,) * len(figures)),
        f"{run.work_lost_percent:.0f}" if _work_is_known(run) else _UNKNOWN,
        f"{run.pages_per_s_before / 1000:.0f}" if run.pages_per_s_before else _UNKNOWN,
    )


def _work_is_known(run: PerfRun) -> bool:
    """Tell whether the guest was watched up to the end of the migration; a measured share is never exactly 0."""
    return run.began and run.work_lost_percent != 0
