"""What the kernel counts of the connections of a migration: what has come back, and what they waited for.

QEMU's source asks the destination for a sign of life at the very beginning (`MIG_CMD_PING`) and gets one as soon as the
destination reads the stream. A peer that has taken a whole guest and has never sent a byte is no QEMU.
Source: the kernel's `include/uapi/linux/inet_diag.h` and `tcp.h`.
"""

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vmferry.client.sock_diag import ALL, ask_kernel, attribute

_ESTABLISHED = 1 << 1
_INFO = 2
"""The attribute INET_DIAG_INFO, which is a struct tcp_info."""
_REQUEST = struct.Struct("=BBBBI48x")
"""struct inet_diag_req_v2: family, protocol, extensions, padding, states; any socket."""
_PORTS = struct.Struct(">HH")
_PORTS_AT, _INODE_AT, _MESSAGE_BYTES = 4, 68, 72
_BYTES_RECEIVED_AT, _BUSY_AT, _WINDOW_CLOSED_AT = 128, 168, 176
"""`tcpi_bytes_received`, `tcpi_busy_time`, `tcpi_rwnd_limited`."""
_COUNTER = struct.Struct("=Q")


@dataclass(frozen=True)
class Connections:
    """What the kernel has counted of the connections of a migration, all together."""

    count: int
    returned_bytes: int
    """Received from the other side."""
    busy_us: int
    """For how long something was on its way, or waited to be sent."""
    window_closed_us: int
    """For how much of that the other side had no room for more."""


def connections(pid: int, uri: str) -> Connections | None:
    """Return what is counted of the connections of a process on this host to `tcp:HOST:PORT`.

    None if that cannot be told: for other kinds of addresses, another host, another network namespace, no connection.
    """
    kind, _, place = uri.partition(":")
    port = place.rpartition(":")[2].partition(",")[0]
    if kind != "tcp" or not port.isdecimal():
        return None
    with suppress(OSError, struct.error):
        inodes = set(_sockets_of(pid))
        counts = [counters for inode, to_port, counters in _connections() if inode in inodes and to_port == int(port)]
        if counts:
            return Connections(len(counts), *map(sum, zip(*counts, strict=True)))
    return None


def returned_bytes(pid: int, uri: str) -> int | None:
    """Return how many bytes have come back so far; None if that cannot be told, as in `connections`."""
    found = connections(pid, uri)
    return found.returned_bytes if found else None


def _sockets_of(pid: int) -> Iterator[int]:
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            kind, _, inode = os.readlink(path).partition(":[")
            if kind == "socket":
                yield int(inode.removesuffix("]"))


def _connections() -> Iterator[tuple[int, int, tuple[int, int, int]]]:
    """Yield inode, peer's port and counters of each TCP connection of this network namespace."""
    for family in (socket.AF_INET, socket.AF_INET6):
        for message in ask_kernel(_REQUEST.pack(family, socket.IPPROTO_TCP, 1 << (_INFO - 1), 0, _ESTABLISHED), ALL):
            inode = int.from_bytes(message[_INODE_AT:_MESSAGE_BYTES], "little")
            info = attribute(message[_MESSAGE_BYTES:], _INFO)
            if info and len(info) >= _WINDOW_CLOSED_AT + _COUNTER.size:
                counters = [
                    _COUNTER.unpack_from(info, at)[0] for at in (_BYTES_RECEIVED_AT, _BUSY_AT, _WINDOW_CLOSED_AT)
                ]
                yield inode, _PORTS.unpack_from(message, _PORTS_AT)[1], (counters[0], counters[1], counters[2])
