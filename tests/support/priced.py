"""The price list of a guest for which nothing else is worked out."""

from collections.abc import Callable

from vmferry.study.forecast import carried_out, first_stuck
from vmferry.study.prices import Prices, prices
from vmferry.study.strategies import NO_THROTTLE
from vmferry.study.survey import Survey


def priced(survey: Survey, is_enough: Callable[[], bool] = lambda: False) -> Prices:
    """Return its price list."""
    runs = carried_out(survey, (NO_THROTTLE,))
    return prices(survey, first_stuck(runs[NO_THROTTLE]), is_enough)
