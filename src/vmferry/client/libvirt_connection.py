"""A connection to libvirt that keeps nobody waiting for long: libvirt itself has no limit of time for a call.

Keep-alive messages find out that libvirtd stands still, or that the host it is on is gone.
"""

import functools
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import libvirt

from vmferry.client.bounded_calls import BoundedCalls, Returned
from vmferry.client.qmp_client import HURRIED_TIMEOUT_S
from vmferry.errors import MonitorError

_OPEN_TIMEOUT_S = 5.0
"""How long connecting may take. Over ssh, which may ask for a password, it may take as long as any call."""
_KEEP_ALIVE = 2, 3
"""Seconds between two messages, and how many may go unanswered: a call to a libvirtd that stands still fails in 8 s."""


class LibvirtConnection:
    """Makes calls to libvirt; after one that was not answered in time, none any more."""

    def __init__(self, uri: str, timeout_s: float, while_waiting: Callable[[], None] = lambda: None) -> None:
        """Connect to libvirt at a URI, or at its default if that is empty. No call may take longer than `timeout_s`.

        `while_waiting` is called at least every 100 ms; what it raises ends the waiting. Raises MonitorError.
        """
        self.where = f"libvirt at '{uri}'" if uri else "libvirt at its default URI"
        self._while_waiting = while_waiting
        self._timeout_s = timeout_s if "+ssh:" in uri else min(timeout_s, _OPEN_TIMEOUT_S)
        self._calls = BoundedCalls("libvirt calls")
        _prepare_libvirt()
        try:
            self.raw: Any = self.call("at all", lambda: libvirt.open(uri or None))
        except libvirt.libvirtError as error:
            raise MonitorError(f"cannot reach {self.where}: {error}") from error
        self._timeout_s = timeout_s
        with suppress(libvirt.libvirtError):  # a driver of libvirt's inside this process has none
            self.call("whether it knows keep-alive", lambda: self.raw.setKeepAlive(*_KEEP_ALIVE))

    @property
    def alive(self) -> bool:
        """False once libvirtd has closed the connection, or stands still."""
        with suppress(libvirt.libvirtError):
            return not self._calls.hang and bool(self.raw.isAlive())
        return False

    def call(self, what: str, function: Callable[[], Returned]) -> Returned:
        """Return what a call returns; `what` says for people what it asks.

        Raises libvirtError as the call does, and MonitorError if it takes too long.
        """
        try:
            return self._calls.make(function, self._timeout_s, self._while_waiting)
        except TimeoutError:
            limit = f"in {self._timeout_s:g} s"
            raise MonitorError(f"{self.where} does not answer {what} {limit}; does libvirtd stand still?") from None

    def hurry(self) -> None:
        """Wait only briefly for calls from now on."""
        self._timeout_s = min(self._timeout_s, HURRIED_TIMEOUT_S)

    def close(self) -> None:
        """Close the connection; one that hangs is left to the end of this process."""
        self.hurry()
        with suppress(libvirt.libvirtError, MonitorError):
            self.call("the end of the connection", self.raw.close)
        self._calls.end()


@functools.cache
def _prepare_libvirt() -> None:
    """Keep libvirt from printing errors, which are exceptions as well, and take care of events and keep-alives."""
    libvirt.registerErrorHandler(lambda *_: None, None)
    libvirt.virEventRegisterDefaultImpl()
    threading.Thread(target=_dispatch_events, name="libvirt events", daemon=True).start()


def _dispatch_events() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()
