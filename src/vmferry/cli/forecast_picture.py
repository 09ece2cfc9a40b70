"""The picture of a forecast: what each strategy costs, and the guest's dirty curve."""

import textwrap
from html import escape
from pathlib import Path

from vmferry.cli.files import write_whole
from vmferry.report.bars import KEPT, TOTAL_TIME
from vmferry.report.dirty_curve_plot import LEGEND, curve_plot
from vmferry.report.figures import Spread
from vmferry.report.look import looks_of
from vmferry.report.page import whole_page
from vmferry.report.page_answer import answer_table
from vmferry.report.page_course import plot_html
from vmferry.report.plot import Plot, key, text_at
from vmferry.report.svg_parts import LEFT, ROW, answer, document, legend, placed
from vmferry.report.tradeoff import Cost, sentence
from vmferry.report.tradeoff_plot import tradeoff_plot
from vmferry.study.forecast import Interval, StrategyForecast
from vmferry.study.survey import Survey
from vmferry.study.told import Told, label_of
from vmferry.units import MS_PER_S

_TOP = 56
_CHARACTERS = 72
_MEASURES = (TOTAL_TIME, KEPT)
_RANGES = "Bars are medians of runs in virtual time; four of five migrations are to lie within the lines and brackets."


def write_forecast(path: Path, told: Told) -> None:
    """Write an SVG picture, or an HTML page if the name does not end in `.svg`. Raises UsageError."""
    write_whole(path, forecast_picture(told) if path.suffix == ".svg" else _page(told))


def forecast_picture(told: Told) -> str:
    """Return the picture as SVG."""
    costs, looks = _costs(told)
    lines = textwrap.wrap(_verdict(told), _CHARACTERS)
    texts = [text_at(LEFT, _TOP + ROW * number, line) for number, line in enumerate(lines)]
    bars, top = answer(costs, looks, _TOP + ROW * len(lines) + ROW // 2, _MEASURES)
    entries, top = legend(LEGEND, top + ROW)
    plots = [_curve(told.survey), *([tradeoff_plot(costs, looks)] if sentence(costs) else [])]
    drawn, top = placed(plots, top)
    return document(_title(told), top, [*texts, *bars, *entries, *drawn])


def _page(told: Told) -> str:
    costs, looks = _costs(told)
    lines = "".join(f"<li>{key(css)}{text}</li>" for css, text in LEGEND.items())
    parts = [
        f'<p class="verdict">{escape(_verdict(told))}</p>',
        answer_table(costs, looks, _MEASURES, ranges=_RANGES),
        plot_html(_curve(told.survey)),
        f'<ul class="lines">{lines}</ul>',
        f"<p>{escape(sentence(costs))}</p>{plot_html(tradeoff_plot(costs, looks))}" if sentence(costs) else "",
    ]
    return whole_page(_title(told), f"<section>{''.join(parts)}</section>")


def _title(told: Told) -> str:
    return f"Forecast for {told.name}"


def _verdict(told: Told) -> str:
    return f"{told.sentence} {told.reason}"


def _curve(survey: Survey) -> Plot:
    fits_bytes = survey.memory_bytes_per_s * survey.downtime_limit_ms / MS_PER_S
    return curve_plot(survey.curve(), survey.memory_bytes_per_s, fits_bytes)


def _costs(told: Told) -> tuple[list[Cost], dict[str, int]]:
    """Return what strategies cost, and their looks."""
    costs = [_cost(each, told.survey) for each in told.strategies]
    strategies = (each.strategy for each in told.strategies)
    return costs, looks_of(dict(zip((cost.label for cost in costs), strategies, strict=True)))


def _cost(each: StrategyForecast, survey: Survey) -> Cost:
    runs = each.run_count or 0
    moved = round(each.chance * runs)
    return Cost(
        label=label_of(each.strategy, survey),
        run_count=runs,
        completed_count=moved,
        total_time_ms=_spread(each.total_time_ms, moved),
        downtime_ms=_spread(each.downtime_ms, moved),
        max_throttle_percent=None,
        work_lost_percent=None,
        kept_vcpu_s=_kept(each, survey, moved),
        trouble="" if each.chance == 1 else f"moved in {each.chance:.0%} of the runs",
    )


def _kept(each: StrategyForecast, survey: Survey, moved: int) -> Spread | None:
    lost, stop = each.work_lost_vcpu_s, each.downtime_ms
    if lost is None:
        return None
    stopped_s = survey.vcpu_count * stop.p50 / MS_PER_S if stop else 0.0
    return Spread(lost.p50 + stopped_s, lost.p10 + stopped_s, lost.p90 + stopped_s, moved)


def _spread(interval: Interval | None, count: int) -> Spread | None:
    return Spread(interval.p50, interval.p10, interval.p90, count) if interval else None
