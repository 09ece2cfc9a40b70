"""The settings of KubeVirt's policy, with KubeVirt's defaults.

Source: KubeVirt's enhancement proposals 291 and 248 (migration-hyperparameters.md).
"""

from typing import Annotated

import msgspec

from vmferry.convergence.policies.downtimes import Milliseconds, Seconds

QEMU_DOWNTIME_MS = 300
"""QEMU's own limit, which KubeVirt begins with where there is no ramp."""

Percent = Annotated[int, msgspec.Meta(ge=0, le=99)]
Factor = Annotated[float, msgspec.Meta(ge=1, le=100)]


class KubeVirtSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Named as KubeVirt's, written in our way, with the unit at the end."""

    max_downtime_ms: Annotated[Milliseconds, msgspec.Meta(description="the highest downtime limit, in ms")] = 900
    downtime_tuning: Annotated[bool, msgspec.Meta(description="ramp the downtime limit up")] = True
    initial_ms: Annotated[Milliseconds, msgspec.Meta(description="where the ramp begins, in ms")] = 150
    steps: Annotated[int, msgspec.Meta(ge=1, le=1000, description="equal steps of the ramp")] = 7
    start_after_iteration: Annotated[
        int, msgspec.Meta(ge=1, le=1000, description="the iteration from which on the first step is waited for")
    ] = 3
    cooldown_s: Annotated[Seconds, msgspec.Meta(description="time before each step, in s")] = 10
    stall_detection: Annotated[bool, msgspec.Meta(description="end a migration that has stalled")] = True
    stall_progress_timeout_s: Annotated[
        Seconds, msgspec.Meta(description="how old what an iteration is compared with has to be, in s")
    ] = 40
    stall_margin_percent: Annotated[Percent, msgspec.Meta(description="what counts as no less, or as little")] = 4
    patience_window_decay_factor: Annotated[
        float, msgspec.Meta(ge=0, le=1, description="how much shorter a good moment is waited for each time")
    ] = 0.5
    ewma_alpha: Annotated[float, msgspec.Meta(gt=0, le=1, description="weight of the newest bandwidth")] = 0.4
    precopy_possible_factor: Annotated[
        Factor, msgspec.Meta(description="how far above the highest downtime the rest may be")
    ] = 1.5
    switchover_timeout_s: Annotated[Seconds, msgspec.Meta(description="time to move once it is allowed to, in s")] = 60
    completion_timeout_per_gib_s: Annotated[
        Seconds, msgspec.Meta(description="time for all, in seconds per GiB of memory")
    ] = 150
    completion_timeout_factor: Annotated[
        Factor, msgspec.Meta(description="how often that time may pass if it moves then")
    ] = 2.0
    allow_workload_disruption: Annotated[
        bool, msgspec.Meta(description="stop the guest for as long as it takes rather than give up")
    ] = False
