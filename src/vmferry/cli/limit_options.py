"""The options that tell what a migration may cost; a command gets them as `limits`, and as `pace`."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from vmferry.cli.types import DURATION_MS, GUEST_LOSS
from vmferry.convergence.limits import Limits, OnLimit
from vmferry.errors import UsageError
from vmferry.units import NS_PER_MS, GuestLoss

_OPTIONS = (
    click.option("--finish-by", "--deadline", "finish_by", type=DURATION_MS,
                 help="How long the migration may take, such as 10min. --deadline is the same."),
    click.option("--max-guest-loss", type=GUEST_LOSS, help="Most of the guest's work to take: 30%, or vCPU time: 90s."),
    click.option("--gentle", is_flag=True,
                 help="With 'planned': rather take long than slow the guest."),
    click.option("--fast", is_flag=True, help="With 'planned': be there soon, whatever the guest loses."),
    click.option("--max-throttle", type=click.IntRange(1, 99), help="Never slow the guest by more percent."),
    click.option("--max-downtime", type=DURATION_MS,
                 help="Longest downtime to allow; 'planned' and 'switchover' may go so far."),
    click.option("--on-limit", type=click.Choice([str(choice) for choice in OnLimit]), default="cancel",
                 show_default=True,
                 help="What to do when time or guest loss are over their limit, or with 'planned' as soon as "
                 "it is clear that they, or the downtime, will be."),
)  # fmt: skip


def limit_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command."""

    @wraps(command)
    def with_limits(*arguments: Any, **values: Any) -> Any:
        limits, pace = _limits(values), _pace(values)
        return command(*arguments, limits=limits, pace=pace, **values)

    for option in reversed(_OPTIONS):
        with_limits = option(with_limits)
    return with_limits


def _pace(values: dict[str, Any]) -> str | None:
    """Take the pace out of the values of a command's options. Raises UsageError for two."""
    chosen = [name for name in ("gentle", "fast") if values.pop(name)]
    if len(chosen) > 1:
        raise UsageError("--gentle and --fast are opposites; give one of them")
    return chosen[0] if chosen else None


def _limits(values: dict[str, Any]) -> Limits:
    """Take the limits out of the values of a command's options."""
    finish_by_ms: int | None = values.pop("finish_by")
    loss: GuestLoss | None = values.pop("max_guest_loss")
    return Limits(
        deadline_ns=None if finish_by_ms is None else finish_by_ms * NS_PER_MS,
        max_guest_loss_percent=loss.percent if loss else None,
        max_guest_loss_ns=loss.vcpu_ns if loss else None,
        max_throttle_percent=values.pop("max_throttle"),
        max_downtime_ms=values.pop("max_downtime"),
        on_limit=OnLimit(values.pop("on_limit")),
    )
