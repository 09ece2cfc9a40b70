"""KubeVirt's way: the downtime limit is ramped up, and a migration that has stalled is ended at a good moment.

The ramp raises the limit in equal steps, one per `cooldown`, from an early iteration on. It does not wait for trouble.
A migration has stalled when an iteration begins with no less to be sent than earlier ones that are more than a window
old. From then on, an iteration that begins with about as little as the best one is the moment to act: if the rest would
fit into the highest downtime, or nearly so, that is allowed and must do within a time limit; if not, the migration is
given up, or the guest is stopped for as long as it takes where its work may be disrupted.

Sources: KubeVirt's enhancement proposals 291 (dynamic downtime tuning) and 248 (stall detection, with the values in
its migration-hyperparameters.md); both are alpha in KubeVirt 1.9. `steps` counts increments, as in its API; the example
in proposal 291 makes one less. KubeVirt does not slow the guest unless it is told to. Its post-copy is left out.
"""

from collections.abc import Iterable, Iterator
from typing import ClassVar

from vmferry.convergence.actions import Action, Cancel
from vmferry.convergence.limits import MAX_DOWNTIME_MS
from vmferry.convergence.policies.downtimes import set_downtime
from vmferry.convergence.policies.kubevirt_settings import QEMU_DOWNTIME_MS, KubeVirtSettings
from vmferry.convergence.policies.kubevirt_stall import SmoothBandwidth, StallDetector
from vmferry.convergence.sensing import Body, View
from vmferry.units import GIB, NS_PER_MS, NS_PER_S, format_duration


class KubeVirt:
    """KubeVirt's: the downtime limit is ramped up until the migration has stalled or is late."""

    Settings: ClassVar[type] = KubeVirtSettings
    needs: ClassVar[Body] = Body.DOWNTIME_LIMIT

    def __init__(self) -> None:
        self._ramp = DowntimeRamp()
        self._stall = StallDetector()
        self._bandwidth = SmoothBandwidth()
        self._deadline_ns: int | None = None
        """The time by which the guest must have moved, once that was made possible."""

    def look(self, view: View, settings: KubeVirtSettings) -> Iterable[Action]:
        """See whether it is time to end it, or else to make a step on the ramp."""
        self._bandwidth.look(view, settings.ewma_alpha)
        if self._deadline_ns is not None:
            return _overdue(view, self._deadline_ns, settings)
        if _completion_timeout_ns(view, settings) < view.elapsed_ns:
            return self._end_late(view, settings)
        if settings.stall_detection and view.iteration_began and self._stall.good_moment(view, settings):
            return self._end_stalled(view, settings)
        return self._ramp.look(view, settings)

    def _end_stalled(self, view: View, settings: KubeVirtSettings) -> Iterator[Action]:
        rest_ns = self._bandwidth.time_ns(view.iteration_remaining_bytes)
        if rest_ns is None or not _in_budget(view, rest_ns, settings):
            return
        needs = f"it has stalled where the rest needs {format_duration(rest_ns)}"
        if settings.allow_workload_disruption:
            yield self._allow(MAX_DOWNTIME_MS, view, f"{needs}, and the guest may be stopped", settings)
        elif rest_ns <= settings.max_downtime_ms * NS_PER_MS * settings.precopy_possible_factor:
            yield self._allow(settings.max_downtime_ms, view, needs, settings)
        else:
            yield Cancel(reason=f"{needs}, too far above {settings.max_downtime_ms} ms")

    def _end_late(self, view: View, settings: KubeVirtSettings) -> Iterator[Action]:
        rest_ns = self._bandwidth.time_ns(view.iteration_remaining_bytes)
        late = f"not completed in {format_duration(_completion_timeout_ns(view, settings))}"
        if settings.allow_workload_disruption and rest_ns is not None and _in_budget(view, rest_ns, settings):
            yield self._allow(MAX_DOWNTIME_MS, view, f"{late}, and the guest may be stopped", settings)
        else:
            yield Cancel(reason=late)

    def _allow(self, limit_ms: int, view: View, why: str, settings: KubeVirtSettings) -> Action:
        self._deadline_ns = view.elapsed_ns + settings.switchover_timeout_s * NS_PER_S
        return set_downtime(limit_ms, why)


class DowntimeRamp:
    """Raises the limit from the initial to the highest downtime, in equal steps."""

    def __init__(self) -> None:
        self._steps_made = -1
        """How many steps were made; -1 before the limit was set at all."""
        self._next_ns: int | None = None

    def look(self, view: View, settings: KubeVirtSettings) -> Iterator[Action]:
        """Set the first limit, and make a step if that is due."""
        if self._steps_made < 0:
            self._steps_made = 0
            yield set_downtime(ramp_ms(0, settings), "the migration begins")
        if not settings.downtime_tuning or view.sensed.iteration_count < settings.start_after_iteration:
            return
        cooldown_ns = settings.cooldown_s * NS_PER_S
        if self._next_ns is None:
            self._next_ns = view.elapsed_ns + cooldown_ns
        elif view.elapsed_ns >= self._next_ns and self._steps_made < settings.steps:
            self._steps_made, self._next_ns = self._steps_made + 1, view.elapsed_ns + cooldown_ns
            yield set_downtime(ramp_ms(self._steps_made, settings), f"step {self._steps_made} of {settings.steps}")


def ramp_ms(step: int, settings: KubeVirtSettings) -> int:
    """Return the downtime limit of a step; 0 is where it begins."""
    most_ms = settings.max_downtime_ms
    first_ms = min(most_ms, settings.initial_ms if settings.downtime_tuning else QEMU_DOWNTIME_MS)
    return first_ms + (most_ms - first_ms) * step // settings.steps


def _completion_timeout_ns(view: View, settings: KubeVirtSettings) -> int:
    return settings.completion_timeout_per_gib_s * NS_PER_S * view.sensed.memory_bytes // GIB


def _in_budget(view: View, rest_ns: int, settings: KubeVirtSettings) -> bool:
    """Tell whether the rest would be sent before the last possible end."""
    last_ns = _completion_timeout_ns(view, settings) * settings.completion_timeout_factor
    return rest_ns <= last_ns - view.elapsed_ns


def _overdue(view: View, deadline_ns: int, settings: KubeVirtSettings) -> Iterator[Action]:
    if view.elapsed_ns >= deadline_ns:
        yield Cancel(reason=f"it has not moved in the {settings.switchover_timeout_s} s in which it was allowed to")
