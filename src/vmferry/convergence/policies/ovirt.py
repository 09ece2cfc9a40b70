"""oVirt's schedule: the downtime limit rises with the iterations, and when there are no more steps it is given up.

It is looked at from time to time. Where a new iteration has begun since the last look, at most one step is made, and
only if enough iterations are over. QEMU's auto-converge is on beside it, as in all of oVirt's own policies.

Source: vdsm's lib/vdsm/virt/migration.py (`MonitorThread`), and the value of oVirt engine's `MigrationPolicies`:
"Minimal downtime", and with `last_downtime=5000` "Suspend workload if needed".
"""

from collections.abc import Iterable, Iterator
from typing import Annotated, ClassVar

import msgspec

from vmferry.convergence.actions import Action, Cancel
from vmferry.convergence.limits import MAX_DOWNTIME_MS
from vmferry.convergence.policies.auto_converge import AutoConverge, AutoConvergeSettings
from vmferry.convergence.policies.downtimes import Milliseconds, set_downtime
from vmferry.convergence.sensing import Body, View
from vmferry.units import NS_PER_S

SCHEDULE = ((1, 150), (2, 200), (3, 300), (4, 400), (6, 500))
"""Iterations that have to be over, and the downtime limit in ms from then on."""
_ANY = -1


class OVirtSettings(AutoConvergeSettings, frozen=True, kw_only=True):
    """The settings of oVirt's schedule; those of auto-converge are migration parameters."""

    initial_downtime: Annotated[Milliseconds, msgspec.Meta(description="downtime limit at the beginning, in ms")] = 100
    last_downtime: Annotated[
        int,
        msgspec.Meta(ge=0, le=MAX_DOWNTIME_MS, description="last step before it is given up, in ms; 0 for none"),
    ] = 0
    monitor_interval: Annotated[int, msgspec.Meta(ge=1, le=3600, description="time between two looks, in s")] = 10


class OVirt:
    """oVirt's: the downtime limit rises with the iterations, beside auto-converge, until it is given up."""

    Settings: ClassVar[type] = OVirtSettings
    needs: ClassVar[Body] = Body.THROTTLE | Body.DOWNTIME_LIMIT

    def __init__(self) -> None:
        self._auto_converge = AutoConverge()
        self._next_look_ns: int | None = None
        self._first_iteration: int | None = None
        self._seen_iteration = 0
        self._steps_made = 0

    def look(self, view: View, settings: OVirtSettings) -> Iterable[Action]:
        """Let auto-converge decide, and look at the schedule if that is due."""
        yield from self._auto_converge.look(view, settings)
        if self._next_look_ns is None:
            self._next_look_ns = view.elapsed_ns + settings.monitor_interval * NS_PER_S
            yield set_downtime(settings.initial_downtime, "the migration begins")
        elif view.elapsed_ns >= self._next_look_ns:
            self._next_look_ns = view.elapsed_ns + settings.monitor_interval * NS_PER_S
            yield from self._look_at(view.sensed.iteration_count, settings)

    def _look_at(self, iteration_count: int, settings: OVirtSettings) -> Iterator[Action]:
        if self._first_iteration is None:
            self._first_iteration = self._seen_iteration = iteration_count
        if iteration_count <= self._seen_iteration:
            return
        self._seen_iteration = iteration_count
        over = iteration_count - self._first_iteration
        left = schedule(settings)[self._steps_made :]
        if left and left[0][0] < over:
            self._steps_made += 1
            yield _step(left[0][1], over)


def schedule(settings: OVirtSettings) -> list[tuple[int, int | None]]:
    """Return how many iterations each step waits for, and its downtime limit in ms; None is to give up."""
    last = [(_ANY, settings.last_downtime)] if settings.last_downtime else []
    return [*SCHEDULE, *last, (_ANY, None)]


def _step(limit_ms: int | None, over: int) -> Action:
    why = f"{over} iterations did not do"
    return Cancel(reason=f"{why}, and there are no more steps") if limit_ms is None else set_downtime(limit_ms, why)
