"""Whether a guest has arrived. That the source says `completed` is no proof: it only says that all was sent.

With the capability `return-path` QEMU's destination tells the source that it has loaded the guest; a source that is
told otherwise, or whose connection ends before, fails and lets the guest run on. The source alone needs the capability.
Where nothing can come back (`exec:`, `fd:`, `file:`), QEMU would wait for it for ever.
"""

from collections.abc import Mapping
from contextlib import suppress

from vmferry.client.manager import Manager
from vmferry.control.arriving.destination import ARRIVAL_TIMEOUT_NS, WAITING, Destination
from vmferry.control.asking.driven_vm import DrivenVm
from vmferry.control.asking.result import Arrival, ArrivalState, Result
from vmferry.control.undoing.settings import Settings
from vmferry.errors import CommandError
from vmferry.units import NS_PER_S

RETURN_PATH = "return-path"
_EVENTS = "events"
_TWO_WAY = ("tcp:", "unix:", "vsock:")
_BY_ITSELF = frozenset({"postcopy-ram", RETURN_PATH})
"""Capabilities, of those in force, that make QEMU's source listen to the destination."""


def ask_for_word(driven: DrivenVm, settings: Settings, uri: str) -> None:
    """Have QEMU's source tell its states, and wait for the destination's word where that can come.

    Others, and old ones, do without.
    """
    if not driven.converges_responsively:
        wanted = [_EVENTS, RETURN_PATH] if uri.startswith(_TWO_WAY) else [_EVENTS]
        for name in wanted:
            if name in driven.capabilities:
                with suppress(CommandError):
                    settings.set_capability(name, True)


def arrival_of(
    result: Result,
    driven: DrivenVm,
    capabilities: Mapping[str, bool],
    manager: Manager | None,
    destination: Destination | None,
) -> Arrival | None:
    """Judge a migration; None if it has not completed. Waits a little for a destination that can be asked."""
    if not result.completed:
        return None
    if manager and manager.migrates:
        return _told_by_manager(manager, result)
    if driven.converges_responsively:
        return Arrival(ArrivalState.VERIFIED, "protocol", "the destination has taken it over")
    if destination:
        return _told_by(destination)
    if any(capabilities.get(name) for name in _BY_ITSELF):
        return Arrival(ArrivalState.VERIFIED, RETURN_PATH, "the destination has told the source")
    return Arrival(
        ArrivalState.UNVERIFIED,
        "nobody",
        "nothing came back from the destination; look whether it runs there (migrate --destination-qmp does)",
    )


def _told_by_manager(manager: Manager, result: Result) -> Arrival:
    if result.vm_left or manager.completion().arrived:
        return Arrival(ArrivalState.VERIFIED, manager.name, f"{manager.name} says so")
    return Arrival(ArrivalState.UNVERIFIED, "nobody", f"{manager.name} does not say whether the guest has arrived")


def _told_by(destination: Destination) -> Arrival:
    match destination.await_guest():
        case None:
            return Arrival(
                ArrivalState.UNVERIFIED,
                "nobody",
                "the destination's monitor is gone; its stderr or log says why. "
                "If it does not run there, cont lets it run on here",
            )
        case status if status == WAITING:
            return Arrival(
                ArrivalState.UNVERIFIED,
                "destination",
                "the destination still waits for a guest, or loads it, "
                f"{ARRIVAL_TIMEOUT_NS / NS_PER_S:g} s after it was sent. "
                "If it goes on so, end it, and cont lets the guest run on here",
            )
        case status if destination.is_owed_cont:
            return Arrival(
                ArrivalState.UNVERIFIED,
                "destination",
                f"the destination is '{status}', and was not let run; cont there does it",
            )
        case status:
            return Arrival(ArrivalState.VERIFIED, "destination", f"the destination is '{status}'")
