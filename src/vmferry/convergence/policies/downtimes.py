"""What the policies that move the downtime limit have in common: kinds of settings, and the action in words."""

from typing import Annotated

import msgspec

from vmferry.convergence.actions import SetDowntimeLimit
from vmferry.convergence.limits import MAX_DOWNTIME_MS
from vmferry.units import NS_PER_MS

Milliseconds = Annotated[int, msgspec.Meta(ge=1, le=MAX_DOWNTIME_MS)]
Seconds = Annotated[int, msgspec.Meta(ge=0, le=86_400)]


def set_downtime(limit_ms: int, why: str) -> SetDowntimeLimit:
    """Return the action, whose reason begins with the new limit."""
    return SetDowntimeLimit(limit_ns=limit_ms * NS_PER_MS, reason=f"downtime limit {limit_ms} ms: {why}")
