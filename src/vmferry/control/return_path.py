"""What has come back from the other side of QEMU's migration, as the kernel counts it.

QEMU's source asks the destination for a sign of life at the very beginning (`MIG_CMD_PING`) and gets one as soon as the
destination reads the stream. A peer that has taken a whole guest and has never sent a byte is no QEMU.
Source: the kernel's `include/uapi/linux/inet_diag.h` and `tcp.h`, sock_diag(7).
"""

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_DUMP_REQUEST = 0x301
"""NLM_F_REQUEST | NLM_F_DUMP."""
_ESTABLISHED = 1 << 1
_INFO = 2
"""INET_DIAG_INFO, whose attribute is a struct tcp_info."""
_HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence, port."""
_REQUEST = struct.Struct("=BBBBI48x")
"""struct inet_diag_req_v2: family, protocol, extensions, padding, states; any socket."""
_PORTS = struct.Struct(">HH")
_PORTS_AT, _INODE_AT, _MESSAGE_BYTES = 4, 68, 72
_ATTRIBUTE = struct.Struct("=HH")
_BYTES_RECEIVED_AT = 128
_COUNTER = struct.Struct("=Q")
_ANSWER_BYTES = 1 << 16
_TIMEOUT_S = 2.0


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
    """Yield of each TCP connection of this network namespace its inode, the peer's port, and the bytes received."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
            kernel.settimeout(_TIMEOUT_S)
            request = _REQUEST.pack(family, socket.IPPROTO_TCP, 1 << (_INFO - 1), 0, _ESTABLISHED)
            length = _HEADER.size + len(request)
            kernel.send(_HEADER.pack(length, _SOCK_DIAG_BY_FAMILY, _DUMP_REQUEST, 0, 0) + request)
            for message in _messages(kernel):
                inode = int.from_bytes(message[_INODE_AT:_MESSAGE_BYTES], "little")
                count = _bytes_received(message[_MESSAGE_BYTES:])
                if count is not None:
                    yield inode, _PORTS.unpack_from(message, _PORTS_AT)[1], count


def _messages(kernel: socket.socket) -> Iterator[bytes]:
    """Yield the messages of a dump without their headers."""
    while True:
        data = kernel.recv(_ANSWER_BYTES)
        while data:
            length, kind, *_ = _HEADER.unpack_from(data)
            if kind != _SOCK_DIAG_BY_FAMILY:  # the end, or an error
                return
            yield data[_HEADER.size : length]
            data = data[_aligned(length) :]


def _bytes_received(attributes: bytes) -> int | None:
    while len(attributes) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(attributes)
        if length < _ATTRIBUTE.size:
            break
        if kind == _INFO and length >= _ATTRIBUTE.size + _BYTES_RECEIVED_AT + _COUNTER.size:
            return int(_COUNTER.unpack_from(attributes, _ATTRIBUTE.size + _BYTES_RECEIVED_AT)[0])
        attributes = attributes[_aligned(length) :]
    return None


def _aligned(length: int) -> int:
    return (length + 3) & ~3
