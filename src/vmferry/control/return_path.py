"""What has come back from the other side of QEMU's migration, as the kernel counts it.

QEMU's source asks the destination for a sign of life at the very beginning (`MIG_CMD_PING`) and gets one as soon as the
destination reads the stream. A peer that has taken a whole guest and has never sent a byte is no QEMU.
Source: the kernel's `include/uapi/linux/inet_diag.h` and `tcp.h`.
"""

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from vmferry.client.sock_diag import ALL, ask_kernel, attribute

_ESTABLISHED = 1 << 1
_INFO = 2
"""The attribute INET_DIAG_INFO, which is a struct tcp_info."""
_REQUEST = struct.Struct("=BBBBI48x")
"""struct inet_diag_req_v2: family, protocol, extensions, padding, states; any socket."""
_PORTS = struct.Struct(">HH")
_PORTS_AT, _INODE_AT, _MESSAGE_BYTES = 4, 68, 72
_BYTES_RECEIVED_AT = 128
_COUNTER = struct.Struct("=Q")


def returned_bytes(pid: int, uri: str) -> int | None:
    """Return how many bytes a process on this host has received over its connection to `tcp:HOST:PORT`.

    None if that cannot be told: for other kinds of addresses, another host, another network namespace, no connection.
    """
    kind, _, place = uri.partition(":")
    port = place.rpartition(":")[2].partition(",")[0]
    if kind != "tcp" or not port.isdecimal():
        return None
    with suppress(OSError, struct.error):
        inodes = set(_sockets_of(pid))
        counts = [count for inode, to_port, count in _connections() if inode in inodes and to_port == int(port)]
        return sum(counts) if counts else None
    return None


def _sockets_of(pid: int) -> Iterator[int]:
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            kind, _, inode = os.readlink(path).partition(":[")
            if kind == "socket":
                yield int(inode.removesuffix("]"))


def _connections() -> Iterator[tuple[int, int, int]]:
    """Yield inode, peer's port and bytes received of each TCP connection of this network namespace."""
    for family in (socket.AF_INET, socket.AF_INET6):
        for message in ask_kernel(_REQUEST.pack(family, socket.IPPROTO_TCP, 1 << (_INFO - 1), 0, _ESTABLISHED), ALL):
            inode = int.from_bytes(message[_INODE_AT:_MESSAGE_BYTES], "little")
            info = attribute(message[_MESSAGE_BYTES:], _INFO)
            if info and len(info) >= _BYTES_RECEIVED_AT + _COUNTER.size:
                [count] = _COUNTER.unpack_from(info, _BYTES_RECEIVED_AT)
                yield inode, _PORTS.unpack_from(message, _PORTS_AT)[1], count
