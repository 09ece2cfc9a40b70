"""A fork of cloud-hypervisor's: the whole VM is paused and resumed in turn, longer from iteration to iteration.

It asks for no figures: after the whole memory and four times what was dirtied meanwhile, the throttle begins at 10 %,
and it rises by 10 % with every second iteration. Our throttle stops all vCPUs together as well, in slices of 10 ms
where theirs are of 100 ms, so the same percentages are told to it.

Source: the description of pull request 13 of cyberus-technology/cloud-hypervisor, "vCPU throttling/auto-converge".
Cloud-hypervisor itself slows no guest.
"""

from collections.abc import Iterable
from typing import Annotated, ClassVar

import msgspec

from vmferry.convergence.actions import Action, Throttle
from vmferry.convergence.sensing import Body, View

_MAX_PERCENT = 99
_Count = Annotated[int, msgspec.Meta(ge=1, le=1000)]


class PauseResumeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """None of them can be set in the original."""

    after: Annotated[_Count, msgspec.Meta(description="iterations after the first one that go by before it begins")] = 4
    every: Annotated[_Count, msgspec.Meta(description="iterations from one step to the next")] = 2
    step: Annotated[int, msgspec.Meta(ge=1, le=_MAX_PERCENT, description="how much more at each step, in %")] = 10


class PauseResume:
    """A fork of cloud-hypervisor's: the throttle goes by the number of the iteration alone."""

    Settings: ClassVar[type] = PauseResumeSettings
    needs: ClassVar[Body] = Body.THROTTLE

    def look(self, view: View, settings: PauseResumeSettings) -> Iterable[Action]:
        """Step up where an iteration begins that calls for it."""
        percent = throttle_percent(view.sensed.iteration_count, settings)
        if view.iteration_began and percent > view.throttle_percent:
            yield Throttle(percent=percent, reason=f"iteration {view.sensed.iteration_count} begins: {percent} %")


def throttle_percent(iteration_count: int, settings: PauseResumeSettings) -> int:
    """Return the throttle during an iteration, the first of which sends the whole memory."""
    late = iteration_count - 2 - settings.after
    return 0 if late < 0 else min(_MAX_PERCENT, settings.step * (1 + late // settings.every))
