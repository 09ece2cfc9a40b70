"""The picture of a forecast: the guest's dirty curve, and what each strategy costs."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from vmferry.cli.pictures import write_whole
from vmferry.report.dirty_curve_svg import CURVE_HEIGHT, LEGEND_HEIGHT, curve_plot
from vmferry.report.figures import count_text, time_text
from vmferry.report.panels import colours_of
from vmferry.report.svg_parts import LEFT, PANEL_GAP, ROW, document, text_at
from vmferry.report.tradeoff import Cost, sentence
from vmferry.report.tradeoff_svg import TRADEOFF_HEIGHT, tradeoff_plot
from vmferry.study.forecast import StrategyForecast
from vmferry.study.survey import Survey
from vmferry.study.told import Told, label_of

_TOP = 56
_CHARACTERS = 72
_MS_PER_S = 1000


def write_forecast(path: Path, told: Told) -> None:
    """Write an SVG picture, or an HTML page that holds it if the name does not end in `.svg`. Raises UsageError."""
    picture = forecast_picture(told)
    if path.suffix != ".svg":
        title = escape(f"Forecast for {told.name}")
        picture = f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title>\n{picture}</html>\n'
    write_whole(path, picture)


def forecast_picture(told: Told) -> str:
    """Return the picture as SVG."""
    survey = told.survey
    costs = [_cost(each, survey) for each in told.strategies]
    colours = colours_of({cost.label: each.strategy for cost, each in zip(costs, told.strategies, strict=True)})
    parts = []
    top = _TOP
    for text in [*textwrap.wrap(f"It {told.verdict} converge. {told.reason}", _CHARACTERS)]:
        parts.append(text_at(LEFT, top, text))
        top += ROW
    top += ROW
    fits_bytes = survey.bandwidth_bytes_per_s * survey.downtime_limit_ms / _MS_PER_S
    parts += curve_plot(survey.curve(), survey.bandwidth_bytes_per_s, fits_bytes, top)
    top += CURVE_HEIGHT + LEGEND_HEIGHT
    parts += _entries(costs, colours, top)
    top += ROW * len(costs) + PANEL_GAP // 2
    if sentence(costs):
        parts += tradeoff_plot(costs, colours, top)
        top += TRADEOFF_HEIGHT + PANEL_GAP // 2
    return document(f"Forecast for {told.name}", top, parts)


def _cost(each: StrategyForecast, survey: Survey) -> Cost:
    kept = None
    if each.work_lost_vcpu_s and each.downtime_ms:
        kept = each.work_lost_vcpu_s.p50 + survey.vcpu_count * each.downtime_ms.p50 / _MS_PER_S
    elif each.work_lost_vcpu_s:
        kept = each.work_lost_vcpu_s.p50
    return Cost(
        label=label_of(each.strategy, survey),
        total_time_ms=each.total_time_ms.p50 if each.total_time_ms else None,
        downtime_ms=each.downtime_ms.p50 if each.downtime_ms else None,
        max_throttle_percent=None,
        work_lost_percent=None,
        kept_vcpu_s=kept,
        trouble="" if each.chance == 1 else f"moved in {each.chance:.0%} of the runs",
    )


def _entries(costs: Sequence[Cost], colours: Mapping[str, str], top: float) -> Iterator[str]:
    for number, cost in enumerate(costs):
        y = top + ROW * number
        yield f'<path stroke="{colours[cost.label]}" stroke-width="4" d="M{LEFT} {y - 5}h24"/>'
        told = f"{time_text(cost.total_time_ms)}, {count_text(cost.kept_vcpu_s)} vCPU s"
        yield text_at(LEFT + 32, y, f"{number + 1} {cost.label}: {cost.trouble or told}")
