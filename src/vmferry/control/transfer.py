"""How pages travel: over how many connections, how compressed, with which credentials. Set where both sides need it.

Our own VMs agree on that by themselves. QEMU's sides must both have the capability `multifd`, the same compression and
credentials; its destination takes `multifd` only before it listens (since release 8), so one that was started with
`-incoming defer` is told to listen when all is set.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from vmferry.control.changes import Change
from vmferry.control.driven_vm import DrivenVm
from vmferry.control.leftovers import Later, Leftovers
from vmferry.control.migration_order import Order
from vmferry.control.ports import Ports
from vmferry.control.promises import Promises
from vmferry.control.settings import Settings
from vmferry.errors import CommandError, UsageError

MULTIFD, CHANNELS, COMPRESSION, CREDENTIALS = "multifd", "multifd-channels", "multifd-compression", "tls-creds"
_SET = "migrate-set-parameters"


@dataclass(frozen=True)
class Changes:
    """What one side needs to be told."""

    capabilities: dict[str, bool]
    parameters: dict[str, object]

    def make(self, settings: Settings, where: str) -> None:
        """Make them. Raises UsageError if the VM `where` refuses one."""
        try:
            for name, state in self.capabilities.items():
                settings.set_capability(name, state)
            settings.set_parameters(self.parameters)
        except CommandError as error:
            hint = "; start a QEMU that waits with -incoming defer" if "before incoming starts" in str(error) else ""
            raise UsageError(f"{where} refuses what the transfer needs: {error}{hint}") from error


def prepare_transfer(
    ports: Ports,
    driven: DrivenVm,
    order: Order,
    settings: Settings,
    stack: ExitStack,
    later: Later,
    guard: Promises,
) -> None:
    """Set both sides up as is ordered; `settings` and `stack` put it back, or `guard` does. Raises UsageError."""
    is_ours = driven.converges_responsively
    here = changes_for(driven, order)
    if order.uri is None and (here.capabilities or here.parameters):
        raise UsageError("channels and compression are set before a migration begins; they cannot be changed now")
    if not is_ours:
        _prepare_there(ports, order, here, stack, later, guard)
    here.make(settings, "the source")


def changes_for(driven: DrivenVm, order: Order) -> Changes:
    """Return what a VM needs for the channels and the compression that are ordered. Raises UsageError."""
    capabilities: dict[str, bool] = {}
    parameters: dict[str, object] = {}
    if order.channels is not None:
        capabilities[MULTIFD] = order.channels > 0
    if order.channels:
        _require(MULTIFD in driven.capabilities, f"{driven.name} cannot send over several connections (multifd)")
        parameters[CHANNELS] = order.channels
    if order.compression is not None:
        words = driven.schema.words(driven.schema.argument_types(_SET).get(COMPRESSION, ""))
        known = COMPRESSION in driven.parameters and (not words or order.compression in words)
        _require(known, f"{driven.name} compresses by {' or '.join(words) or 'nothing'}, not by '{order.compression}'")
        is_wide = capabilities.get(MULTIFD, driven.capabilities.get(MULTIFD, False))
        _require(is_wide or order.compression == "none", "pages are compressed on channels; add --channels N")
        parameters[COMPRESSION] = order.compression
    return Changes(capabilities, parameters)


def _prepare_there(ports: Ports, order: Order, here: Changes, stack: ExitStack, later: Later, guard: Promises) -> None:
    """Set the destination of a QEMU up for what its source is told."""
    credentials = order.parameters.get(CREDENTIALS)
    if order.destination is None:
        _require(
            not here.capabilities and not here.parameters,
            "both sides of a QEMU's migration must have the same channels and compression; add --destination-qmp",
        )
        if credentials:
            ports.tell("tls-creds is set at the source; the destination must have been given its own")
        return
    if not (here.capabilities or here.parameters or credentials):
        return
    monitor = order.destination.monitor
    driven = DrivenVm.ask(monitor)
    there = changes_for(driven, order)
    if credentials and not driven.parameters.get(CREDENTIALS):
        there.parameters[CREDENTIALS] = credentials
    if there.capabilities or there.parameters:
        leave = _unless_gone(Leftovers(monitor, ports.warn, later))
        there.make(stack.enter_context(Settings(monitor, ports.clock, driven, leave, guard)), "the destination")
        if order.uri is not None and "status" not in monitor.execute("query-migrate"):
            _listen(order, order.uri)


def _listen(order: Order, uri: str) -> None:
    """Tell a destination that waits to be told where it is to listen."""
    assert order.destination
    try:
        order.destination.monitor.execute("migrate-incoming", {"uri": uri})
    except CommandError as error:
        raise UsageError(f"the destination cannot listen at '{uri}': {error}") from error


def _unless_gone(leftovers: Leftovers) -> Callable[[list[Change], bool], None]:
    """A destination that does not answer has ended with its migration, as QEMU's do when one fails."""
    return lambda changes, refused: leftovers.leave(changes, refused) if refused else None


def _require(condition: bool, text: str) -> None:
    if not condition:
        raise UsageError(text)
