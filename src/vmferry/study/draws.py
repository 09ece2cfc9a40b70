"""What is possible where something was only measured: guests, links and hosts that a forecast draws."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

_CURVE_ERROR, _LINK_ERROR, _SCAN_ERROR = 0.10, 0.05, 1.0
"""Standard deviations, as shares: how far two measurements of a steady guest and of a link differ, and how far the
logarithms of hosts differ."""


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One of the guests, links and hosts that are possible, by factors of what was measured."""

    number: int = 0
    written: float = 1.0
    link: float = 1.0
    scan: float = 1.0
    haste: float = 0.5
    """How fast the guest writes what the shortest window found, on a scale from as fast as that window shows, 0, to as
    fast as its vCPUs can, 1."""
    start: float = 0.0
    """Where in its bursts and calms the guest is when it begins to migrate: which share of them has passed."""


def possible_draws(count: int, hurry: float = 1.0) -> Iterator[Draw]:
    """Yield what was measured; then what is easiest to move and what is hardest, and then all that lies between.

    They are quantiles of the errors, each in an order of its own. `hurry` is how many times faster than the shortest
    window shows the guest may write.
    """
    yield Draw()
    others = sorted(_others(count - 1), key=lambda draw: draw.written / draw.link * hurry**draw.haste)
    yield from others[:1]
    yield from others[:0:-1]


def _others(count: int) -> Iterator[Draw]:
    normal = NormalDist()
    quantiles = [normal.inv_cdf((number + 0.5) / count) for number in range(count)]
    random = np.random.default_rng(1)
    for number, (written, link, scan, haste, start) in enumerate(
        zip(*(random.permutation(quantiles) for _ in range(5)), strict=True), 1
    ):
        yield Draw(
            number=number,
            written=max(0.1, 1 + _CURVE_ERROR * written),
            link=max(0.1, 1 + _LINK_ERROR * link),
            scan=math.exp(_SCAN_ERROR * scan),
            haste=normal.cdf(haste),
            start=normal.cdf(start),
        )
