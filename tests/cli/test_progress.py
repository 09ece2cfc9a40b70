"""What is shown while a migration goes on."""

import io

import pytest
from rich.console import Console

from vmferry.cli.progress import progress_view
from vmferry.control.drive import Progress
from vmferry.control.forecast import Outlook

RAM = {"remaining": (1 << 50) - 1, "total": 1 << 50, "transferred": 1, "mbps": 99_999.9, "page-size": 4096, "normal": 1}
MOST = RAM | {"dirty-pages-rate": 10**7, "dirty-sync-count": 123_456}


@pytest.mark.parametrize("status", ["pre-switchover", "active", "setup", "wait-unplug"])
@pytest.mark.parametrize("ram", [{}, MOST])
@pytest.mark.parametrize(
    "outlook",
    [
        Outlook(99, converges=True, least_s=359_999.0, most_s=3_599_999.0),
        Outlook(None, converges=False, least_s=359_999.0, most_s=None),
        Outlook(50, converges=None, least_s=359_999.0, most_s=None),
        Outlook(None, converges=None, least_s=None, most_s=None),
    ],
)
def test_no_line_breaks_at_80_columns(status: str, ram: dict[str, object], outlook: Outlook) -> None:
    answer = {"status": status, "total-time": 359_999_900, "ram": ram, "cpu-throttle-percentage": 99}
    console = Console(width=80, file=io.StringIO())
    console.print(progress_view(Progress.from_qmp(answer), outlook))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(status)
    assert lines[1].startswith("remaining")
    assert lines[2].startswith("throttle")
