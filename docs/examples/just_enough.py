"""A policy that slows the guest just as much as it must, and lets it go again."""

from collections.abc import Iterable
from typing import Annotated, ClassVar

import msgspec

from vmferry.convergence.actions import Action, Throttle
from vmferry.convergence.sensing import Body, View


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What users can set."""

    share: Annotated[int, msgspec.Meta(ge=1, le=99, description="what may be dirtied of what is sent, in %")] = 50
    most: Annotated[int, msgspec.Meta(ge=1, le=99, description="the highest throttle, in %")] = 99


class JustEnough:
    """Lets the guest run so much that it dirties a share of what is sent."""

    Settings: ClassVar[type] = Settings
    needs: ClassVar[Body] = Body.THROTTLE

    def look(self, view: View, settings: Settings) -> Iterable[Action]:
        """Decide anew at the end of each period, as if the guest dirtied in proportion to its CPU time."""
        period = view.period
        if period is None or not period.dirty_bytes:
            return ()
        may_dirty_bytes = period.sent_bytes * settings.share // 100
        cpu_percent = (100 - period.throttle_percent) * may_dirty_bytes // period.dirty_bytes
        percent = max(0, min(settings.most, 100 - cpu_percent))
        return [Throttle(percent=percent, reason=f"the guest is let run {100 - percent} % of the time")]
