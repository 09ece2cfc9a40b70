"""The plot of what several ways to migrate a guest cost: time against work."""

from collections.abc import Mapping, Sequence

from vmferry.report.axes import plain_axis
from vmferry.report.figures import count_text, time_text
from vmferry.report.plot import TOP, Area, Plot, text_at
from vmferry.report.tradeoff import Cost, unbeaten
from vmferry.units import MS_PER_S

TITLE = "Work the guest missed, vCPU seconds"
_HEIGHT = 260
_ROOM = 1.12
_LIKELY_WIDTH = 540.0
"""In pixels, for finding room for the numbers; what it will be is not known."""
_SIDES = ((0, -16), (17, 0), (-17, 0), (0, 17), (17, -14), (17, 14), (-17, -14), (-17, 14))
"""Where the middle of a point's number may stand, the best place first."""
_ENOUGH = 22.0

Place = tuple[float, float]


def tradeoff_plot(costs: Sequence[Cost], looks: Mapping[str, int]) -> Plot:
    """Return the plot, in which points have the numbers of their costs, counted from 1.

    Those that no other beats are filled, and joined by steps: what lies above is beaten.
    """
    points = {number: cost for number, cost in enumerate(costs, 1) if cost.is_comparable}
    most_ms = max(cost.pair[0] for cost in points.values()) or 1
    axis = plain_axis(max(cost.pair[1] for cost in points.values()))
    area = Area(axis=axis, width=_ROOM * most_ms / MS_PER_S, height=_HEIGHT)
    best = unbeaten(points.values())
    area.steps([_seconds(cost) for cost in best], "front")
    places = {number: _place(area, cost) for number, cost in points.items()}
    taken = list(places.values())
    for number, cost in points.items():
        css = "peak" if cost in best else "ring"
        area.dot(_seconds(cost), f"{css} k{looks[cost.label]}", _tip(cost))
        side = _free_side(places[number], [place for place in taken if place != places[number]])
        taken.append(_moved(places[number], side))
        number_y = area.y(cost.pair[1]) + side[1] + 5
        area.parts.append(
            text_at(area.share(_seconds(cost)[0]), number_y, str(number), f'dx="{side[0]}" text-anchor="middle"')
        )
    return area.plot(TITLE)


def _seconds(cost: Cost) -> tuple[float, float]:
    time_ms, vcpu_s = cost.pair
    return time_ms / MS_PER_S, vcpu_s


def _tip(cost: Cost) -> str:
    time_ms, vcpu_s = cost.pair
    return f"{cost.label}: {time_text(time_ms)}, {count_text(vcpu_s)} vCPU s"


def _place(area: Area, cost: Cost) -> Place:
    """Return where a point lies, in pixels, if the plot is as wide as is likely."""
    seconds, vcpu_s = _seconds(cost)
    return _LIKELY_WIDTH * seconds / area.width, area.y(vcpu_s) - TOP


def _free_side(place: Place, taken: Sequence[Place]) -> Place:
    """Return where a point's number has enough room beside what is there, or else the most."""
    return max(_SIDES, key=lambda side: (min(_distance(_moved(place, side), taken), _ENOUGH), -_SIDES.index(side)))


def _moved(place: Place, side: Place) -> Place:
    return place[0] + side[0], place[1] + side[1]


def _distance(place: Place, taken: Sequence[Place]) -> float:
    return min((abs(place[0] - x) + abs(place[1] - y) for x, y in taken), default=_ENOUGH)
