"""What may be asked for: the parameters of the API's endpoints, each with its bounds."""

from typing import Annotated

import msgspec

from vmferry.agent.remembered_run import RememberedRun
from vmferry.convergence.limits import MAX_DOWNTIME_MS

MAX_ROWS = 1000
_MAX_MS = 1 << 52
_MAX_BYTES_PER_S = 1 << 50
_Text = Annotated[str, msgspec.Meta(max_length=256)]
_Moment = Annotated[int, msgspec.Meta(ge=0, le=_MAX_MS)]


class HistoryQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which migrations to look for; what is empty or left out is any."""

    vm: _Text = ""
    """A pattern of names with `*` and `?`, or a UUID."""
    status: _Text = ""
    """How they ended or how far they are; `unknown` if nobody saw the end."""
    host: _Text = ""
    policy: _Text = ""
    """A pattern of the policy or variant that decided, or would have."""
    since_ms: _Moment | None = None
    """Only what began then or later: milliseconds since the Unix epoch."""
    until_ms: _Moment | None = None
    """Only what began before then."""
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_ROWS)] = 200


class ForecastTerms(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a migration may use; what is left out is as the VM's parameters say."""

    bandwidth_bytes_per_s: Annotated[int, msgspec.Meta(ge=1, le=_MAX_BYTES_PER_S)] | None = None
    downtime_limit_ms: Annotated[int, msgspec.Meta(ge=1, le=MAX_DOWNTIME_MS)] | None = None


class NoBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An empty object, or nothing."""


class HistoryRow(RememberedRun, frozen=True, kw_only=True):
    """A migration that is remembered."""

    state: str
    """How it ended; its last status if it goes on, and `unknown` if nobody saw its end."""
