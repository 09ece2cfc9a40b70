"""The plot of what several ways to migrate a guest cost, as a part of a static picture: time against work."""

from collections.abc import Iterator, Mapping, Sequence

from vmferry.report.panels import linear_ticks
from vmferry.report.svg_parts import LEFT, RIGHT, WIDTH, grid_line, text_at
from vmferry.report.tradeoff import Cost, unbeaten

TRADEOFF_HEIGHT = 260
TITLE = "vCPU seconds for which the guest was kept from working"
_ROOM = 1.12
_MS_PER_S = 1000
_SIDES = ((0, -16), (17, 0), (-17, 0), (0, 17), (17, -14), (17, 14), (-17, -14), (-17, 14))
"""Where the middle of a point's number may stand, the best place first."""
_ENOUGH = 22.0

Place = tuple[float, float]


def tradeoff_plot(costs: Sequence[Cost], colours: Mapping[str, str], top: float) -> list[str]:
    """Return the elements of the plot below `top`; points have the numbers of their costs, counted from 1."""
    points = {number: cost for number, cost in enumerate(costs, 1) if cost.is_comparable}
    scale = _Scale([cost.pair for cost in points.values()], top)
    places = {number: scale.place(*cost.pair) for number, cost in points.items()}
    best = unbeaten(points.values())
    parts = [*scale.frame(), _front([scale.place(*cost.pair) for cost in best])]
    taken = list(places.values())
    for number, cost in points.items():
        others = [place for place in taken if place != places[number]]
        side = _free_side(places[number], others)
        taken.append(_moved(places[number], side))
        parts += _point(number, places[number], side, colours[cost.label], filled=cost in best)
    return parts


class _Scale:
    """Where a pair of costs lies."""

    def __init__(self, pairs: Sequence[tuple[float, float]], top: float) -> None:
        self._top = top
        self._most_s = max(time_ms for time_ms, _ in pairs) / _MS_PER_S * _ROOM or 1
        self._most_vcpu_s = max(vcpu_s for _, vcpu_s in pairs) * _ROOM or 1

    def place(self, time_ms: float, vcpu_s: float) -> Place:
        """Return the place of a point."""
        return self._x(time_ms / _MS_PER_S), self._y(vcpu_s)

    def frame(self) -> Iterator[str]:
        """Yield title, grid and ticks."""
        bottom = self._top + TRADEOFF_HEIGHT
        yield text_at(LEFT, self._top - 10, TITLE, 'class="panel"')
        for vcpu_s, text in linear_ticks(self._most_vcpu_s, 5):
            yield grid_line(LEFT, self._y(vcpu_s), WIDTH - RIGHT, self._y(vcpu_s))
            yield text_at(LEFT - 8, self._y(vcpu_s) + 5, text, 'text-anchor="end"')
        for seconds, text in linear_ticks(self._most_s, 6):
            yield grid_line(self._x(seconds), self._top, self._x(seconds), bottom)
            yield text_at(self._x(seconds), bottom + 19, f"{text} s", 'text-anchor="middle"')

    def _x(self, seconds: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * seconds / self._most_s, 1)

    def _y(self, vcpu_s: float) -> float:
        return round(self._top + TRADEOFF_HEIGHT * (1 - vcpu_s / self._most_vcpu_s), 1)


def _front(places: Sequence[Place]) -> str:
    """Join those that no other beats, by steps: what lies above is beaten."""
    (x, y), *others = places
    steps = "".join(f"H{x}V{y}" for x, y in others)
    return f'<path d="M{x} {y}{steps}" fill="none" stroke="#7f868c" stroke-dasharray="5 4"/>'


def _point(number: int, place: Place, side: Place, colour: str, *, filled: bool) -> Iterator[str]:
    x, y = place
    fill = colour if filled else "#fff"
    yield f'<circle cx="{x}" cy="{y}" r="5" stroke="{colour}" stroke-width="2" fill="{fill}"/>'
    number_x, number_y = _moved(place, side)
    yield text_at(number_x, number_y + 5, str(number), 'text-anchor="middle"')


def _free_side(place: Place, taken: Sequence[Place]) -> Place:
    """Return where a point's number has enough room beside what is there, or else the most."""
    return max(_SIDES, key=lambda side: (min(_distance(_moved(place, side), taken), _ENOUGH), -_SIDES.index(side)))


def _moved(place: Place, side: Place) -> Place:
    return round(place[0] + side[0], 1), round(place[1] + side[1], 1)


def _distance(place: Place, taken: Sequence[Place]) -> float:
    return min((abs(place[0] - x) + abs(place[1] - y) for x, y in taken), default=_ENOUGH)
