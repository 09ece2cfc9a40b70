"""A migration that is steered from outside, as long as that is possible."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Self

from vmferry.client.monitor import Monitor
from vmferry.control.drive import POLL_INTERVAL_NS, Progress
from vmferry.control.means import Means
from vmferry.control.steer import Steering
from vmferry.errors import CommandError, HostError, MigrationError, MonitorError
from vmferry.migration.ports import Clock

_STOP_POLL_NS = 10_000_000
"""How often to look whether the guest is being stopped; the downtime may be that much longer."""


class Steered:
    """Steers as long as it can, and then lets the migration go on. A context manager that ends the throttle."""

    def __init__(
        self,
        monitor: Monitor,
        clock: Clock,
        steering: Steering,
        means: Means,
        parameters: Mapping[str, object],
        tell: Callable[[str], None],
    ) -> None:
        self.means = means
        self.parameters = parameters
        """Those that our decisions obey."""
        self._monitor = monitor
        self._clock = clock
        self._steering = steering
        self._tell = tell
        self._over = False
        """True once nothing is steered any more."""
        self._released = False

    def complete(self, progress: Progress) -> Progress:
        """Add the throttle that is in force and the newest dirty rate, of which QEMU knows nothing."""
        return replace(
            progress,
            throttle_percent=max(progress.throttle_percent or 0, 0 if self._over else self.means.in_force_percent),
            dirty_bytes_per_s=self._steering.dirty_bytes_per_s or progress.dirty_bytes_per_s,
        )

    def observe(self, progress: Progress) -> Progress:
        """Steer, and return the progress with the throttle that is in force from now on."""
        if not self._over:
            try:
                self.means.hold()
                self._steering.observe(progress, self._clock.now_ns())
            except MigrationError:
                pass  # it has ended meanwhile, as the next poll will find
            except (HostError, CommandError) as error:
                self.stop()
                self._tell(f"the migration goes on without being steered: {error}")
        return self.complete(progress)

    def pause(self, wait_ns: Callable[[int], None]) -> None:
        """Wait until the next poll, and let the guest run as soon as QEMU wants to stop it for the switchover.

        QEMU waits for each vCPU to notice that it is to stop, and one that is out of quota notices nothing.
        """
        end_ns = self._clock.now_ns() + POLL_INTERVAL_NS
        while (left_ns := end_ns - self._clock.now_ns()) > 0:
            if self._over or not self.means.in_force_percent or not self.means.throttle.delays_stop:
                wait_ns(left_ns)  # or less: the source has said something
                break
            if self._monitor.execute("query-status")["status"] == "finish-migrate":
                self.stop()
            else:
                wait_ns(min(left_ns, _STOP_POLL_NS))

    def stop(self) -> bool:
        """End the throttle, and steer no more. Harmless if it is so.

        Returns whether the throttle has ended; otherwise it is for the guard to end it.
        """
        if not self._over:
            self._over = True
            with suppress(HostError, MonitorError, OSError):
                self.means.release()
                self._released = True
        return self._released

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
