"""Has other limits kept than those that a migration began with: by our decisions, and by what its VM was told."""

from dataclasses import replace

from vmferry.control.asking.driven_vm import DrivenVm
from vmferry.control.body import DriverBody
from vmferry.control.deciding import STALL_TIMEOUT, divided
from vmferry.control.migration_order import Order, settled
from vmferry.control.undoing.settings import Settings
from vmferry.convergence.limits import Limits
from vmferry.convergence.policies.registry import registered_name
from vmferry.settings.parameters import MigrationParameters


def own_parameters(driven: DrivenVm, order: Order) -> dict[str, object]:
    """Return the parameters of a VM that converges by its own means."""
    variant = order.variant.named(registered_name) if order.variant and driven.converges_responsively else {}
    wanted = order.limits.applied_to({**variant, **order.parameters}, driven.parameters)
    if not driven.converges_responsively:
        wanted.pop(STALL_TIMEOUT, None)
    return wanted


class LimitKeeper:
    """Keeps the limits of one migration, whose parameters were set for those that it began with."""

    def __init__(
        self, driven: DrivenVm, asked: Order, settings: Settings, body: DriverBody, *, is_decided_by_us: bool
    ) -> None:
        """`asked` is the order as it was given, of which goals are no part yet."""
        self._driven = driven
        self._asked = asked
        self._settings = settings
        self._body = body
        self._is_decided_by_us = is_decided_by_us
        self._set = self._divided(asked.limits)[1]
        """What is set in the VM now."""

    def keep(self, limits: Limits) -> None:
        """Keep these from now on. Raises UsageError for what cannot be kept, MigrationError if it has ended."""
        limits.check()
        parameters, wanted = self._divided(limits)
        before = {name: self._driven.parameters[name] for name in self._set if name in self._driven.parameters}
        changed = {name: value for name, value in {**before, **wanted}.items() if self._set.get(name) != value}
        self._settings.set_wanted(changed)
        self._set = wanted
        self._body.obey(parameters.rules(limits))

    def _divided(self, limits: Limits) -> tuple[MigrationParameters, dict[str, object]]:
        """Return what our decisions obey, and what is for the VM."""
        order = settled(self._driven, replace(self._asked, limits=limits))
        if self._is_decided_by_us:
            return divided(self._driven, order)
        return MigrationParameters(), own_parameters(self._driven, order)
