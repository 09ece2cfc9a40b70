"""Lends pages of guest memory to a socket: they are not copied until the peer reads them, into its own memory.

The kernel holds pages that were lent for as long as it takes. One that the guest writes meanwhile arrives as it is
when it is read: newer than when it was lent, never older. Source: vmsplice(2) and splice(2).
"""

import ctypes
import fcntl
import os
from collections.abc import Sequence
from contextlib import suppress

from vmferry.guests.kvm.fd import libc
from vmferry.guests.kvm.vm import memory_address

_PIPE_BYTES = 1 << 20
"""How much is lent at a time. Who is not privileged gets no larger pipe (/proc/sys/fs/pipe-max-size)."""
_SPLICE_F_MOVE, _SPLICE_F_NONBLOCK = 1, 2


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


_vmsplice = libc.vmsplice
_vmsplice.argtypes = [ctypes.c_int, ctypes.POINTER(_Iovec), ctypes.c_size_t, ctypes.c_uint]
_vmsplice.restype = ctypes.c_ssize_t


class PageLender:
    """Lends to one socket. It owns a pipe, which pages pass through; without one, OSError is raised."""

    def __init__(self) -> None:
        self._out, self._in = os.pipe()
        with suppress(OSError):  # then less is lent at a time
            fcntl.fcntl(self._in, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._held_bytes = 0
        """How much is in the pipe, from the beginning of what is lent next."""

    def send(self, descriptor: int, views: Sequence[memoryview]) -> int:
        """Lend the beginning of the views, and return how many bytes; what follows must be lent next.

        Raises BlockingIOError if that has to wait, and another OSError.
        """
        if not self._held_bytes:
            self._held_bytes = self._take(views)
        sent = os.splice(self._out, descriptor, self._held_bytes, flags=_SPLICE_F_MOVE)
        self._held_bytes -= sent
        return sent

    def _take(self, views: Sequence[memoryview]) -> int:
        pieces, room_bytes = [], _PIPE_BYTES
        for view in views:
            pieces.append(_Iovec(memory_address(view), min(len(view), room_bytes)))
            room_bytes -= len(view)
            if room_bytes <= 0:
                break
        # SAFETY: the pieces lie within views of guest memory, of whose pages the kernel takes references of its own.
        taken: int = _vmsplice(self._in, (_Iovec * len(pieces))(*pieces), len(pieces), _SPLICE_F_NONBLOCK)
        if taken < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        return taken

    def close(self) -> None:
        """Close the pipe; what was not sent is given back."""
        for end in (self._out, self._in):
            os.close(end)
