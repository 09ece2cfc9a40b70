"""The plot of a guest's dirty curve beside what the link carries in the same time."""

import numpy as np

from vmferry.convergence.curve import DirtyCurve
from vmferry.report.axes import bytes_axis
from vmferry.report.plot import Area, Plot
from vmferry.report.series import Series, Shape
from vmferry.units import NS_PER_S

TITLE = "Distinct memory the guest writes"
LEGEND = {"guest": "the guest; dots were measured", "carried": "the link carries", "fits": "fits the downtime limit"}
"""What the lines are, by their CSS classes."""
_HEIGHT = 220
_ROOM = 1.1
_POINTS = 120


def curve_plot(curve: DirtyCurve, bytes_per_s: float, fits_bytes: float) -> Plot:
    """Return the plot; `fits_bytes` is what may be left when the guest moves."""
    points = tuple(curve.points)
    longest_s = max(point.duration_ns for point in points) / NS_PER_S * _ROOM
    seconds = np.linspace(0.0, longest_s, _POINTS)
    written = curve.distinct_bytes(seconds * NS_PER_S)
    most_bytes = max(float(written[-1]), fits_bytes, 1.0) * _ROOM
    link_s = min(longest_s, most_bytes / bytes_per_s)
    area = Area(axis=bytes_axis(most_bytes), width=longest_s, height=_HEIGHT)
    area.line(Series(seconds, written), Shape.LINE, "guest")
    area.line(Series.of([(0, 0), (link_s, link_s * bytes_per_s)]), Shape.LINE, "carried")
    area.line(Series.of([(0, fits_bytes), (longest_s, fits_bytes)]), Shape.LINE, "fits")
    for point in points:
        area.dot((point.duration_ns / NS_PER_S, point.distinct_bytes), "dot guest")
    return area.plot(TITLE)
