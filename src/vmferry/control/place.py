"""Where a driver works: what it needs of the world beside the VM's monitor and a clock."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from vmferry.client.monitor import Monitor
from vmferry.control.asking.driven_vm import DrivenVm
from vmferry.control.asking.survey import used_bytes
from vmferry.control.slowing.means import KINDS, Kinds
from vmferry.control.undoing.guard import Guard
from vmferry.control.undoing.leftovers import Later, by_process
from vmferry.control.undoing.promises import Promises

SLOWEST_SCAN_NS = 3700.0
"""What a page took on the slowest host that was seen: 97 of 100 GiB took 92 s."""


@dataclass(frozen=True)
class Place:
    """This host, or one that is modelled."""

    guard: Callable[[Monitor, Callable[[str], object], Monitor | None], AbstractContextManager[Promises]]
    """Keeps what is promised, at the end of the context or if the driver is gone; it goes to these monitors."""
    means: Kinds
    """Slow a guest."""
    put_back_later: Later
    used_bytes: Callable[[Monitor, DrivenVm, int], int | None]
    """Tells how much of its memory of that size a guest has touched; None if nobody here knows."""
    scan_ns_per_zero_page: float
    """How long a VM may take to read a page that nobody has touched."""


HERE = Place(
    guard=Guard, means=KINDS, put_back_later=by_process, used_bytes=used_bytes, scan_ns_per_zero_page=SLOWEST_SCAN_NS
)
"""The host on which the driver runs."""
