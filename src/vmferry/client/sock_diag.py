"""Asks the kernel about sockets of this network namespace: sock_diag(7), `include/uapi/linux/sock_diag.h`."""

import socket
import struct
from collections.abc import Iterator

_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY = 4, 20
ONE, ALL = 0x1, 0x301
"""Flags of a request: NLM_F_REQUEST, and NLM_F_REQUEST | NLM_F_DUMP for every socket that it fits."""
_HEADER = struct.Struct("=IHHII")
"""`struct nlmsghdr`: length, type, flags, sequence, port."""
_ATTRIBUTE = struct.Struct("=HH")
"""`struct nlattr`: length, type."""
_ANSWER_BYTES = 1 << 16
_TIMEOUT_S = 2.0


def ask_kernel(request: bytes, flags: int) -> Iterator[bytes]:
    """Send a request and yield the answers, one for each socket, without their headers. Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(_TIMEOUT_S)
        kernel.send(_HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, flags, 0, 0) + request)
        while True:
            data = kernel.recv(_ANSWER_BYTES)
            while data:
                length, kind, *_ = _HEADER.unpack_from(data)
                if kind != _SOCK_DIAG_BY_FAMILY:  # the end, or an error
                    return
                yield data[_HEADER.size : length]
                data = data[_aligned(length) :]
            if flags == ONE:
                return


def attribute(data: bytes, wanted: int) -> bytes | None:
    """Return the value of the attribute of that type, of those that follow an answer; None if it is not there."""
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if length < _ATTRIBUTE.size:
            break
        if kind == wanted:
            return data[_ATTRIBUTE.size : length]
        data = data[_aligned(length) :]
    return None


def _aligned(length: int) -> int:
    return (length + 3) & ~3
