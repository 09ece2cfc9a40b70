"""Capabilities and parameters of a VM: changed for one migration, put back after it.

Only what still holds our own value is put back, as somebody else may have changed it meanwhile. QEMU refuses changes of
capabilities as long as a migration runs, and one that was cancelled while it connects may run on for minutes; what
cannot be put back is named, with the command that does it.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Self

from vmferry.client.monitor import Monitor
from vmferry.control.asking.driven_vm import DrivenVm
from vmferry.control.asking.progress import ask
from vmferry.control.undoing.changes import Change, put_back
from vmferry.control.undoing.promises import Promises
from vmferry.errors import CommandError, MigrationError, MonitorError, UsageError, VmLeftError
from vmferry.migration.ports import Clock
from vmferry.units import NS_PER_MS

_TRIES = 10
_TRY_INTERVAL_NS = 100 * NS_PER_MS


def _restored_by_manager(monitor: Monitor) -> frozenset[str]:
    """Return the parameters that the VM's manager will put back by itself, if a migration of its own runs.

    Raises MigrationError if that has ended meanwhile: what we found was of that migration, and nobody knows what was
    before it.
    """
    manager = monitor.manager
    if manager is None or not manager.migrates:
        return frozenset()
    if not (progress := ask(monitor)).running:
        raise MigrationError(f"the migration has ended meanwhile, as '{progress.status}'; nothing is changed any more")
    return manager.restores


_UNEXPECTED = re.compile(r"Parameter '([\w-]+)' is unexpected")
"""What QEMU says of a parameter that it does not have."""

Leave = Callable[[list[Change], bool], None]
"""Takes what is left as we set it, and whether the VM answers but refuses, as QEMU does while it migrates."""


class Settings:
    """Changes what it is told to and nothing else. A context manager that puts back what it has changed."""

    def __init__(
        self,
        monitor: Monitor,
        clock: Clock,
        driven: DrivenVm,
        leave: Leave | None = None,
        guard: Promises | None = None,
    ) -> None:
        """`leave` gets what could not be put back in the end; `guard` puts back what is changed if we are gone."""
        self._monitor = monitor
        self._clock = clock
        self._driven = driven
        self._leave = leave or (lambda changes, refused: None)
        self._guard = guard
        self._changes: dict[tuple[bool, str], Change] = {}
        self._promises: list[int] = []

    def set_parameters(self, values: Mapping[str, object], *, until_gone: bool = False) -> None:
        """Set parameters, those `until_gone` only for as long as we are there: the guard does not wait with them.

        Raises CommandError if the VM refuses one; then none is set. MigrationError as `_restored_by_manager`.
        """
        if values:
            restored = _restored_by_manager(self._monitor)
            changes = [
                Change(name, self._driven.parameters[name], value, restored=name in restored)
                for name, value in values.items()
                if name in self._driven.parameters
            ]
            self._promise(changes, until_gone=until_gone)
            self._change(changes, "migrate-set-parameters", dict(values))

    def set_wanted(self, values: Mapping[str, object]) -> None:
        """Set parameters that somebody wants. Raises UsageError if the VM refuses one; then none is set."""
        try:
            self.set_parameters(values)
        except CommandError as error:
            if unexpected := _UNEXPECTED.fullmatch(str(error)):
                raise UsageError(f"{self._driven.name} has no parameter '{unexpected[1]}'; leave it out") from error
            raise UsageError(f"the VM refuses a parameter: {error}") from error

    def set_capability(self, name: str, state: bool) -> None:
        """Set a capability unless it is so already. Raises CommandError, for instance while a migration runs."""
        if self.capabilities.get(name, False) != state:
            change = Change(name, self._driven.capabilities.get(name, False), state, is_capability=True)
            self._promise([change])
            self._change([change], *replace(change, before=state).command())

    @property
    def capabilities(self) -> dict[str, bool]:
        """The VM's capabilities, with what we have changed."""
        changed = {change.name: change.ours for change in self._changes.values() if change.is_capability}
        return self._driven.capabilities | changed

    def give_back(self, parameters: Iterable[str]) -> None:
        """Put these parameters back at once, those that still hold our value; what is refused is put back at the end.

        Raises MonitorError.
        """
        changes = [change for name in parameters if (change := self._changes.get((False, name)))]
        left = put_back(self._monitor, changes)
        for change in changes:
            if change not in left:
                del self._changes[False, change.name]

    def put_back(self) -> None:
        """Put everything back that still holds our value, with some patience; what is left in the end is told."""
        changes, self._changes = list(self._changes.values()), {}
        try:
            left = self._put_back_patiently(changes)
            self._keep_promises()
        except MonitorError:
            self._leave(changes, False)
        else:
            if left:
                self._leave(left, True)

    def _keep_promises(self) -> None:
        if self._guard:
            for promise in self._promises:
                self._guard.kept(promise)

    def _put_back_patiently(self, left: list[Change]) -> list[Change]:
        """Return what the VM refused all the time; nothing if it has migrated."""
        with suppress(VmLeftError):
            for _ in range(_TRIES):
                left = put_back(self._monitor, left)
                if not left:
                    break
                self._clock.sleep_ns(_TRY_INTERVAL_NS)
            return left
        return []

    def _promise(self, changes: list[Change], *, until_gone: bool = False) -> None:
        if not (self._guard and changes):
            return
        if until_gone:
            before = {change.name: change.before for change in changes}
            promise = self._guard.will_set_back(before, {change.name: change.ours for change in changes})
        else:
            promise = self._guard.will_put_back(self._monitor, changes)
        self._promises.append(promise)

    def _change(self, changes: list[Change], command: str, arguments: dict[str, object]) -> None:
        """Carry out a command that makes changes. One that is not answered may have made them, unless it is refused."""
        so_far = dict(self._changes)
        for change in changes:
            key = (change.is_capability, change.name)
            self._changes[key] = replace(so_far.get(key, change), ours=change.ours)
        try:
            self._monitor.execute(command, arguments)
        except CommandError:
            self._changes = so_far
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, MonitorError) or isinstance(error, (CommandError, VmLeftError)):
            self.put_back()
        elif self._changes:  # nobody answers
            self._leave(list(self._changes.values()), False)
