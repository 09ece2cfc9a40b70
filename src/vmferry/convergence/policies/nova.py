"""OpenStack nova's way: the downtime limit rises in steps as time goes by, until the migration is given up or forced.

The times are in proportion to the guest's memory; less than 2 GiB count as 2. The guest is not slowed: nova asks QEMU
for auto-converge only where an operator permits it.

Source: nova/virt/libvirt/migration.py (`downtime_steps`, `update_downtime`, `should_trigger_timeout_action`) and the
options `live_migration_*` of nova's group `libvirt`, whose defaults and lowest values these are. Where nova hands an
overdue guest to post-copy if that is permitted, this one is stopped and moved, which is what nova does otherwise.
"""

from collections.abc import Iterable, Iterator
from typing import Annotated, ClassVar, Literal

import msgspec

from vmferry.convergence.actions import Action, Cancel, SwitchOver
from vmferry.convergence.limits import MAX_DOWNTIME_MS
from vmferry.convergence.policies.downtimes import set_downtime
from vmferry.convergence.sensing import Body, View
from vmferry.units import GIB, NS_PER_S

_LEAST_GIB = 2.0


class NovaSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Named as nova's options, without their prefix."""

    downtime: Annotated[
        int, msgspec.Meta(ge=100, le=MAX_DOWNTIME_MS, description="the highest downtime limit, in ms")
    ] = 500
    downtime_steps: Annotated[int, msgspec.Meta(ge=3, le=1000, description="steps until it is reached")] = 10
    downtime_delay: Annotated[
        int, msgspec.Meta(ge=3, le=86_400, description="time between two steps, in seconds per GiB of memory")
    ] = 75
    completion_timeout: Annotated[
        int, msgspec.Meta(ge=0, le=86_400, description="time for all, in seconds per GiB of memory; 0 for any")
    ] = 800
    timeout_action: Annotated[
        Literal["abort", "force_complete"], msgspec.Meta(description="what to do when that is over")
    ] = "abort"


class Nova:
    """OpenStack nova's: the downtime limit rises in steps over time, until a timeout."""

    Settings: ClassVar[type] = NovaSettings
    needs: ClassVar[Body] = Body.DOWNTIME_LIMIT | Body.SWITCH_OVER

    def __init__(self) -> None:
        self._limit_ms: int | None = None
        self._timed_out = False

    def look(self, view: View, settings: NovaSettings) -> Iterable[Action]:
        """Look at the time."""
        gib = max(_LEAST_GIB, view.sensed.memory_bytes / GIB)
        elapsed_s = view.elapsed_ns / NS_PER_S
        yield from self._step(elapsed_s, gib, settings)
        timeout_s = int(settings.completion_timeout * gib)
        if 0 < timeout_s < elapsed_s and not self._timed_out:
            self._timed_out = True
            yield _end(timeout_s, settings)

    def _step(self, elapsed_s: float, gib: float, settings: NovaSettings) -> Iterator[Action]:
        passed = [step for step in downtime_steps(settings, gib) if step[0] < elapsed_s]
        if passed and passed[-1][1] != self._limit_ms:
            at_s, self._limit_ms = passed[-1]
            yield set_downtime(self._limit_ms, f"{at_s} s are over")


def downtime_steps(settings: NovaSettings, gib: float) -> list[tuple[int, int]]:
    """Return the time in seconds and the downtime limit in ms of each step, for a guest of that size."""
    delay_s = int(settings.downtime_delay * gib)
    first_ms = settings.downtime / settings.downtime_steps
    increase_ms = (settings.downtime - first_ms) / settings.downtime_steps
    return [(delay_s * step, int(first_ms + increase_ms * step)) for step in range(settings.downtime_steps + 1)]


def _end(timeout_s: int, settings: NovaSettings) -> Action:
    late = f"not completed in {timeout_s} s"
    return Cancel(reason=late) if settings.timeout_action == "abort" else SwitchOver(reason=f"{late}, forced")
