"""Bars of what labels cost: the answer to who is the fastest, and at whose cost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vmferry.report.figures import Spread, count_text, percent_text, spread_text, time_text
from vmferry.report.tradeoff import Cost

BAR_HEIGHT = 14
RANGES = "Bars are medians of runs that completed; lines across them and brackets go from the least to the greatest."


@dataclass(frozen=True)
class BarFigure:
    """A cost that bars show."""

    heading: str
    of_what: str
    """Follows its figure where there is no heading."""
    of: Callable[[Cost], Spread | None]
    text: Callable[[float], str]

    def told(self, cost: Cost) -> str:
        """Return what a label came to."""
        return spread_text(self.of(cost), self.text) if cost.completed_count else "none completed"

    def bars(self, costs: Sequence[Cost], looks: Sequence[int], limit: float | None = None) -> list[str]:
        """Return a bar for each label, all on one scale, with a line at a limit, if there is one."""
        spreads = [self.of(cost) for cost in costs]
        most = max([*(spread.high for spread in spreads if spread), limit or 0]) or 1
        return [_bar(spread, most, look, limit) for spread, look in zip(spreads, looks, strict=True)]


TOTAL_TIME = BarFigure("total time", "", lambda cost: cost.total_time_ms, time_text)
WORK_LOST = BarFigure("guest's work lost", " of its work lost", lambda cost: cost.work_lost_percent, percent_text)
KEPT = BarFigure("vCPU seconds kept from work", " vCPU s kept from work", lambda cost: cost.kept_vcpu_s, count_text)
MEASURES = (TOTAL_TIME, WORK_LOST)


def _bar(spread: Spread | None, most: float, look: int, limit: float | None) -> str:
    parts = []
    if spread:
        width, y = _share(spread.median, most), BAR_HEIGHT / 2
        parts.append(f'<rect class="fill k{look}" y="1" width="{width}" height="{BAR_HEIGHT - 2}"/>')
        if spread.high > spread.low:
            ends = f'x1="{_share(spread.low, most)}" x2="{_share(spread.high, most)}"'
            parts.append(f'<line class="whisker" {ends} y1="{y}" y2="{y}"/>')
    if limit is not None:
        x = _share(limit, most)
        parts.append(f'<line class="limit" x1="{x}" x2="{x}" y1="0" y2="{BAR_HEIGHT}"/>')
    return "".join(parts)


def _share(value: float, most: float) -> str:
    return f"{100 * value / most:.2f}%"
