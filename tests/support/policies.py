"""Policies as users write them: the text of a file outside of the package."""

from pathlib import Path

LADDER = '''
"""Slows the guest by one more step at every period in which it dirties more than a share of what is sent."""

from collections.abc import Iterable
from typing import Annotated, ClassVar

import msgspec

from vmferry.convergence.actions import Action, Throttle
from vmferry.convergence.sensing import Body, View


class LadderSettings(msgspec.Struct, frozen=True, kw_only=True):
    step: Annotated[int, msgspec.Meta(ge=1, le=99, description="how much slower with each step, in percent")] = 30
    share: Annotated[float, msgspec.Meta(gt=0, description="of what is sent, above which a period counts")] = 0.5
    max_cpu_throttle: int = 99


class Ladder:
    """One more step at every busy period."""

    Settings: ClassVar[type] = LadderSettings
    needs: ClassVar[Body] = Body.THROTTLE

    def look(self, view: View, settings: LadderSettings) -> Iterable[Action]:
        period = view.period
        if period is None or period.dirty_bytes <= settings.share * period.sent_bytes:
            return
        percent = min(period.throttle_percent + settings.step, settings.max_cpu_throttle)
        yield Throttle(percent=percent, reason=f"one more step, to {percent} %")
'''

BROKEN = LADDER.replace(
    "        yield Throttle(", "        if percent > 30:\n            1 / 0\n        yield Throttle("
)
"""Fails when it is to slow a guest that it has slowed by 30 % already."""


def write_policy(directory: Path, text: str = LADDER, name: str = "ladder.py") -> str:
    """Write the policy's file and return how users name it."""
    (directory / name).write_text(text)
    return f"{directory / name}:Ladder"
