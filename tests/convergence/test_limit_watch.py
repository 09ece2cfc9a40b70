"""What a migration may cost. What happens when it costs more is in tests/end_to_end/test_stock_qemu.py."""

import pytest

from vmferry.convergence.actions import Cancel, SwitchOver, Tell
from vmferry.convergence.limit_watch import LimitWatch, Spent, judge
from vmferry.convergence.limits import Limits, OnLimit

S = 1_000_000_000
CURRENT = {"max-cpu-throttle": 99, "cpu-throttle-initial": 50, "downtime-limit": 300}


@pytest.mark.parametrize(
    ("limits", "given", "changed"),
    [
        (Limits(), {"downtime-limit": 500}, {"downtime-limit": 500}),
        (Limits(max_downtime_ms=1000), {}, {}),
        (Limits(max_downtime_ms=200), {}, {"downtime-limit": 200}),
        (Limits(max_downtime_ms=200), {"downtime-limit": 100}, {"downtime-limit": 100}),
        (Limits(max_downtime_ms=200), {"downtime-limit": 500}, {"downtime-limit": 200}),
        (Limits(max_throttle_percent=30), {}, {"max-cpu-throttle": 30, "cpu-throttle-initial": 30}),
        (
            Limits(max_throttle_percent=80),
            {"cpu-throttle-initial": 20},
            {"max-cpu-throttle": 80, "cpu-throttle-initial": 20},
        ),
    ],
)
def test_parameters_stay_within_limits(limits: Limits, given: dict[str, object], changed: dict[str, object]) -> None:
    assert limits.applied_to(given, CURRENT) == changed


def halved(elapsed_s: float, *, is_known: bool = True) -> Spent:
    """Four vCPUs were slowed by 50 % from the beginning."""
    elapsed_ns = round(elapsed_s * S)
    return Spent(
        elapsed_ns=elapsed_ns, possible_ns=elapsed_ns, taken_ns=elapsed_ns // 2, vcpu_count=4, is_known=is_known
    )


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ({"deadline_ns": 9 * S}, "finish-by: 10 s of 9 s"),
        ({"max_guest_loss_percent": 45.0}, "max guest loss: 50 % of 45 %"),
        ({"max_guest_loss_ns": 19 * S}, "max guest loss: 20 s of vCPUs of 19 s of vCPUs"),
    ],
)
@pytest.mark.parametrize(
    ("on_limit", "action"), [(OnLimit.CANCEL, Cancel), (OnLimit.SWITCHOVER, SwitchOver), (OnLimit.CONTINUE, Tell)]
)
def test_a_limit_that_is_hit_is_acted_on_once(
    limit: dict[str, float], expected: str, on_limit: OnLimit, action: type[Cancel | SwitchOver | Tell]
) -> None:
    watch, limits = LimitWatch(), Limits(**limit, on_limit=on_limit)  # type: ignore[arg-type]
    answers = [watch.look(limits, halved(seconds)) for seconds in (0.5, 10, 11)]
    assert answers == [None, action(reason=f"{expected}: {on_limit}"), None]


def test_what_is_within_its_limits_is_left_alone() -> None:
    watch = LimitWatch()
    limits = Limits(deadline_ns=10 * S, max_guest_loss_percent=50.0, max_guest_loss_ns=20 * S)
    assert [watch.look(limits, halved(seconds)) for seconds in range(11)] == [None] * 11


def test_a_share_of_the_first_second_says_nothing() -> None:
    assert LimitWatch().look(Limits(max_guest_loss_percent=1.0), halved(0.9)) is None


@pytest.mark.parametrize(("bound", "kept"), [(60.0, None), (40.0, False)])
def test_what_was_lost_before_anybody_looked_is_unknown(bound: float, kept: bool | None) -> None:
    [verdict] = judge(Limits(max_guest_loss_percent=bound), halved(10, is_known=False))
    assert verdict.kept is kept


def test_limits_that_take_the_place_of_one_that_was_over_are_watched_as_well() -> None:
    watch = LimitWatch()
    first = Limits(deadline_ns=5 * S, on_limit=OnLimit.CONTINUE)
    assert isinstance(watch.look(first, halved(6)), Tell)
    assert watch.look(first, halved(7)) is None
    other = Limits(deadline_ns=10 * S, on_limit=OnLimit.CANCEL)
    assert watch.look(other, halved(8)) is None
    assert isinstance(watch.look(other, halved(11)), Cancel)
