"""Proxmox VE's way: the downtime limit is doubled whenever the rest to be sent has grown more than five times.

There is no end to it but QEMU's highest limit, so it always comes to an end where the link carries anything. QEMU's
auto-converge is on beside it.

Source: PVE/QemuMigrate.pm (`phase2`) and PVE/QemuServer's `set_migration_caps`, of Proxmox VE's qemu-server. It asks
once per second, and ten times per second once less remains than what is sent between two answers on average. XBZRLE,
which Proxmox also turns on, is not there in our engine.
"""

from collections.abc import Iterable
from typing import Annotated, ClassVar

import msgspec

from vmferry.convergence.actions import Action
from vmferry.convergence.limits import MAX_DOWNTIME_MS
from vmferry.convergence.policies.auto_converge import AutoConverge, AutoConvergeSettings
from vmferry.convergence.policies.downtimes import Milliseconds, set_downtime
from vmferry.convergence.sensing import Body, Sensed, View
from vmferry.units import NS_PER_S

_LOOK_INTERVAL_NS = NS_PER_S
_LAST_LOOK_INTERVAL_NS = NS_PER_S // 10


class ProxmoxSettings(AutoConvergeSettings, frozen=True, kw_only=True):
    """The settings of Proxmox; those of auto-converge are migration parameters."""

    migrate_downtime: Annotated[Milliseconds, msgspec.Meta(description="downtime limit at the beginning, in ms")] = 100
    tolerated_regressions: Annotated[
        int, msgspec.Meta(ge=0, le=1000, description="how often more may remain than before")
    ] = 5


class Proxmox:
    """Proxmox VE's: the downtime limit is doubled when the rest has grown often, beside auto-converge."""

    Settings: ClassVar[type] = ProxmoxSettings
    needs: ClassVar[Body] = Body.THROTTLE | Body.DOWNTIME_LIMIT

    def __init__(self) -> None:
        self._auto_converge = AutoConverge()
        self._limit_ms = 0
        self._interval_ns = _LOOK_INTERVAL_NS
        self._next_look_ns = 0
        self._looks = 0
        self._sent_bytes = 0
        self._remaining_bytes = 0
        self._regressions = 0

    def look(self, view: View, settings: ProxmoxSettings) -> Iterable[Action]:
        """Let auto-converge decide, and count if that is due."""
        yield from self._auto_converge.look(view, settings)
        if not self._limit_ms:
            self._limit_ms, self._next_look_ns = settings.migrate_downtime, view.elapsed_ns + self._interval_ns
            yield set_downtime(self._limit_ms, "the migration begins")
        elif view.elapsed_ns >= self._next_look_ns:
            self._count(view.sensed)
            self._next_look_ns = view.elapsed_ns + self._interval_ns
            if self._regressions > settings.tolerated_regressions:
                self._regressions, self._limit_ms = 0, min(2 * self._limit_ms, MAX_DOWNTIME_MS)
                yield set_downtime(self._limit_ms, f"the rest grew {settings.tolerated_regressions + 1} times")

    def _count(self, sensed: Sensed) -> None:
        """Take notice of an answer, unless nothing was sent since the one before."""
        self._looks += 1
        average_bytes = self._sent_bytes / self._looks
        if sensed.sent_bytes == self._sent_bytes:
            return
        if sensed.remaining_bytes < average_bytes:
            self._interval_ns = _LAST_LOOK_INTERVAL_NS
        grown = self._remaining_bytes and sensed.remaining_bytes > self._remaining_bytes
        self._regressions += bool(grown) or not sensed.remaining_bytes
        self._sent_bytes, self._remaining_bytes = sensed.sent_bytes, sensed.remaining_bytes
