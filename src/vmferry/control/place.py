"""Where a driver works: what it needs of the world beside the VM's monitor and a clock."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from vmferry.client.monitor import Monitor
from vmferry.control.guard import Guard
from vmferry.control.leftovers import Later, by_process
from vmferry.control.means import KINDS, Kinds
from vmferry.control.promises import Promises


@dataclass(frozen=True)
class Place:
    """This host, or one that is modelled."""

    guard: Callable[[Monitor, Callable[[str], object], Monitor | None], AbstractContextManager[Promises]]
    """Keeps what is promised, at the end of the context or if the driver is gone; it goes to these monitors."""
    means: Kinds
    """Slow a guest."""
    put_back_later: Later


HERE = Place(guard=Guard, means=KINDS, put_back_later=by_process)
"""The host on which the driver runs."""
