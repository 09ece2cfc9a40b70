"""The measures of our SVG pictures, and what all their parts are made of."""

from html import escape

WIDTH = 640
LEFT, RIGHT = 74, 26
"""Margins of a panel."""
PANEL_HEIGHT, PANEL_GAP = 160, 60
ROW = 22


def grid_line(x1: float, y1: float, x2: float, y2: float) -> str:
    """Return a line of a grid."""
    return f'<path class="grid" d="M{x1} {y1}L{x2} {y2}"/>'


def text_at(x: float, y: float, text: str, attributes: str = "") -> str:
    """Return a text, whose characters may be any."""
    return f'<text x="{x}" y="{y}" {attributes}>{escape(text)}</text>'
