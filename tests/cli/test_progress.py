"""What is shown while a migration goes on."""

import io
import os
import pty
import subprocess
import sys

import pytest
from rich.console import Console

from tests.report.test_series import COURSE, journal
from vmferry.cli.progress import progress_view, show_result
from vmferry.control.asking.progress import Progress
from vmferry.control.asking.result import Arrival, ArrivalState, Result
from vmferry.control.telling.outlook import Outlook
from vmferry.report.journal_runs import run_series

RAM = {"remaining": (1 << 50) - 1, "total": 1 << 50, "transferred": 1, "mbps": 99_999.9, "page-size": 4096, "normal": 1}
MOST = RAM | {"dirty-pages-rate": 10**7, "dirty-sync-count": 123_456}


@pytest.mark.parametrize("status", ["pre-switchover", "active", "setup", "wait-unplug"])
@pytest.mark.parametrize("ram", [{}, MOST])
@pytest.mark.parametrize(
    "outlook",
    [
        Outlook(99, converges=True, least_s=359_999.0, most_s=3_599_999.0, downtime_s=1999.9, lost_s=359_999.9),
        Outlook(None, converges=False, least_s=359_999.0, most_s=None, needed_percent=99),
        Outlook(50, converges=None, least_s=359_999.0, most_s=None),
        Outlook(None, converges=None, least_s=None, most_s=None, lost_s=None),
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


@pytest.mark.parametrize(
    ("left_ms", "least_s", "most_s", "text"),
    [
        (243_000, 10.0, 20.0, "deadline in 4 min 3 s: in time, as it goes"),
        (15_000, 10.0, 20.0, "deadline in 15 s"),
        (15_000, 10.0, None, "deadline in 15 s"),
        (5_000, 10.0, 20.0, "deadline in 5 s: too soon"),
        (5_000, None, None, "deadline in 5 s"),
        (-2_500, 10.0, 20.0, "deadline passed 2.5 s ago"),
    ],
)
def test_how_near_the_deadline_is_is_told(left_ms: int, least_s: float | None, most_s: float | None, text: str) -> None:
    outlook = Outlook(50, converges=True, least_s=least_s, most_s=most_s)
    answer = {"status": "active", "total-time": 10_000, "ram": MOST}
    console = Console(width=80, file=io.StringIO())
    console.print(progress_view(Progress.from_qmp(answer), outlook, left_ms + 10_000))
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines()[3].rstrip() == text


WARNING = """
import sys
from vmferry.cli.progress import screen
from vmferry.cli.tables import warn
with screen(300, quiet=sys.argv[1] == "quiet"):
    warn("max-bandwidth is not put back")
"""


@pytest.mark.parametrize("view", ["quiet", "live"])
def test_what_is_wrong_is_told_at_a_terminal_whatever_is_shown_there(view: str) -> None:
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", WARNING, view], stderr=theirs, timeout=60, check=True)
    assert b"vmferry: max-bandwidth is not put back\r\n" in os.read(ours, 4096)
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize(
    ("state", "title"),
    [
        (ArrivalState.VERIFIED, "Migration completed"),
        (ArrivalState.UNVERIFIED, "Migration completed, as far as the source tells"),
    ],
)
def test_a_guest_that_may_not_have_arrived_has_not_simply_completed(
    capsys: pytest.CaptureFixture[str], state: ArrivalState, title: str
) -> None:
    last = Progress.from_qmp({"status": "completed"})
    result = Result(last, None, arrival=Arrival(state, "nobody", "who knows"))
    show_result(result, run_series(journal(*COURSE), "").outcome)
    assert capsys.readouterr().out.splitlines()[0].strip() == title
