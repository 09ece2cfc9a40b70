"""The measures of our SVG pictures, and what all their parts are made of."""

from collections.abc import Iterable
from html import escape

from vmferry.report.journal_runs import clean_text

WIDTH = 640
LEFT, RIGHT = 74, 26
"""Margins of a panel."""
PANEL_HEIGHT, PANEL_GAP = 160, 60
ROW = 22
_STYLE = (
    "text{font:15px sans-serif;fill:#1c2126}.title{font-size:19px;font-weight:bold}.panel{font-weight:bold}"
    ".grid{stroke:#d9dee3}.line{fill:none;stroke-width:2;stroke-linejoin:round}.faint{opacity:.3;stroke-width:1}"
)


def document(title: str, height: float, parts: Iterable[str]) -> str:
    """Return the picture that these elements make."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">',
        f'<style>{_STYLE}</style><rect width="100%" height="100%" fill="#fff"/>',
        text_at(LEFT, 28, clean_text(title), 'class="title"'),
    )
    return "\n".join([*head, *parts, "</svg>", ""])


def grid_line(x1: float, y1: float, x2: float, y2: float) -> str:
    """Return a line of a grid."""
    return f'<path class="grid" d="M{x1} {y1}L{x2} {y2}"/>'


def text_at(x: float, y: float, text: str, attributes: str = "") -> str:
    """Return a text, whose characters may be any."""
    return f'<text x="{x}" y="{y}" {attributes}>{escape(text)}</text>'
