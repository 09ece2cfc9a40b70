"""What is said of limits once a migration has ended."""

import pytest

from vmferry.control.asking.progress import Progress
from vmferry.control.asking.result import Result
from vmferry.control.telling.verdicts import verdicts_on
from vmferry.convergence.limit_watch import Spent
from vmferry.convergence.limits import Limits, OnLimit

S = 1_000_000_000
COMPLETED = Result(Progress.from_qmp({"status": "completed", "downtime": 412}), 80)
SPENT = Spent(elapsed_ns=2 * S, possible_ns=2 * S, taken_ns=0, vcpu_count=1, is_known=True)


@pytest.mark.parametrize("on_limit", list(OnLimit))
def test_a_deadline_that_has_moved_the_guest_was_obeyed(on_limit: OnLimit) -> None:
    [verdict] = verdicts_on(COMPLETED, Limits(deadline_ns=S, on_limit=on_limit), SPENT, "")
    assert (verdict.kept, verdict.obeyed) == (False, on_limit is OnLimit.SWITCHOVER)


def test_the_verdict_names_every_limit() -> None:
    limits = Limits(deadline_ns=3 * S, max_throttle_percent=80, max_downtime_ms=300)
    verdicts = list(verdicts_on(COMPLETED, limits, SPENT, "; so"))
    assert [verdict.obeyed for verdict in verdicts] == [True, True, False]
    assert [(verdict.limit, verdict.kept, verdict.text) for verdict in verdicts] == [
        ("finish-by", True, "2 s of 3 s"),
        ("max throttle", True, "80 % of 80 %"),
        ("max downtime", False, "412 ms of 300 ms; so"),
    ]


def test_a_downtime_that_nobody_tells_is_unknown() -> None:
    untold = Result(Progress.from_qmp({"status": "completed"}), 0)
    [verdict] = verdicts_on(untold, Limits(max_downtime_ms=300), SPENT, "")
    assert (verdict.kept, verdict.text) == (None, "not told, 300 ms allowed")
