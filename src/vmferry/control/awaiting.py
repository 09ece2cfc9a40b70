"""Finding the migration that somebody else began, or is about to begin."""

from vmferry.cancel import CancelToken
from vmferry.client.manager import MIGRATION
from vmferry.client.monitor import Monitor
from vmferry.control.asking.progress import POLL_INTERVAL_NS, ask
from vmferry.errors import UsageError
from vmferry.migration.ports import Clock


def await_migration(monitor: Monitor, clock: Clock, cancel: CancelToken, *, wait: bool) -> None:
    """Return when a migration runs. One that a manager such as libvirt prepares is waited for, others with `wait` only.

    QEMU calls it a migration as well when libvirt saves a domain or makes a snapshot of it, which is not for us.
    Raises UsageError that says what there is instead, MonitorError, and CancelledError.
    """
    while True:
        cancel.check()
        progress = ask(monitor)
        job = monitor.manager.job() if monitor.manager else None
        if progress.running and job in (None, MIGRATION):
            return
        if not wait and job != MIGRATION:
            raise UsageError(f"no migration is running ({_instead(job, progress.status)}); --wait waits for one")
        clock.sleep_ns(POLL_INTERVAL_NS)


def _instead(job: str | None, status: str) -> str:
    return f"the manager's job is '{job}'" if job else f"the last is '{status}'"
