"""How pages travel: over how many connections, how compressed, with which credentials. Set where both sides need it.

Our own VMs agree on that by themselves. QEMU's sides must both have the capability `multifd`, the same compression and
credentials; its destination takes `multifd` only before it listens (since release 8), so one that was started with
`-incoming defer` is told to listen when all is set.
"""

from collections.abc import Callable
from dataclasses import dataclass

from vmferry.client.monitor import Monitor
from vmferry.control.asking.driven_vm import DrivenVm
from vmferry.control.migration_order import Order
from vmferry.control.undoing.settings import Settings
from vmferry.errors import CommandError, UsageError

MULTIFD, CHANNELS, COMPRESSION, CREDENTIALS = "multifd", "multifd-channels", "multifd-compression", "tls-creds"
_SET = "migrate-set-parameters"

OpenSettings = Callable[[Monitor, DrivenVm], Settings]
"""Returns the settings of a VM that are put back in the end."""


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
    driven: DrivenVm, order: Order, settings: Settings, settings_of: OpenSettings, tell: Callable[[str], None]
) -> None:
    """Set both sides up as is ordered, the source by its `settings`. Raises UsageError."""
    here = changes_for(driven, order)
    if order.uri is None and (here.capabilities or here.parameters):
        raise UsageError("channels and compression are set before a migration begins; they cannot be changed now")
    if not driven.converges_responsively:
        _prepare_there(order, here, settings_of, tell)
    here.make(settings, "the source")


def require_credentials(monitor: Monitor, order: Order) -> None:
    """Raise UsageError unless a QEMU has the object that is to be its TLS credentials, or does not tell."""
    name = order.parameters.get(CREDENTIALS)
    if not name:
        return
    try:
        objects = monitor.execute("qom-list", {"path": "/objects"})
    except CommandError:
        return
    if name not in {each["name"] for each in objects}:
        raise UsageError(
            f"QEMU has no object '{name}'; start it with -object tls-creds-x509,id=tls0,dir=DIRECTORY,endpoint=client, "
            "and give --tls-creds tls0"
        )


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


def _prepare_there(order: Order, here: Changes, settings_of: OpenSettings, tell: Callable[[str], None]) -> None:
    """Set the destination of a QEMU up for what its source is told."""
    credentials = order.parameters.get(CREDENTIALS)
    if order.destination is None:
        _require(
            not here.capabilities and not here.parameters,
            "both sides of a QEMU's migration must have the same channels and compression; add --destination-qmp",
        )
        if credentials:
            tell("tls-creds is set at the source; the destination must have been given its own")
        return
    if not (here.capabilities or here.parameters or credentials):
        return
    monitor = order.destination.monitor
    driven = DrivenVm.ask(monitor)
    there = changes_for(driven, order)
    if credentials and not driven.parameters.get(CREDENTIALS):
        there.parameters[CREDENTIALS] = credentials
    if there.capabilities or there.parameters:
        there.make(settings_of(monitor, driven), "the destination")
        if order.uri is not None and "status" not in monitor.execute("query-migrate"):
            _listen(order, order.uri)


def _listen(order: Order, uri: str) -> None:
    """Tell a destination that waits to be told where it is to listen."""
    assert order.destination
    try:
        order.destination.monitor.execute("migrate-incoming", {"uri": uri})
    except CommandError as error:
        raise UsageError(f"the destination cannot listen at '{uri}': {error}") from error


def _require(condition: bool, text: str) -> None:
    if not condition:
        raise UsageError(text)
