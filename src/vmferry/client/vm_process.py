"""Which process of this host is the VM behind a monitor.

What the monitor says is no proof, since whoever serves it may lie. Proofs are the kernel's: who listens at a unix
socket (SO_PEERCRED, unix(7)) and holds the very socket that our connection ends in (UNIX_DIAG_PEER, sock_diag(7)), and
for a domain of libvirt which process was started with its UUID.
"""

import os
import socket
import struct
from itertools import pairwise

from vmferry.client.processes import PROC, status_field
from vmferry.client.sock_diag import ONE, ask_kernel, attribute
from vmferry.errors import HostError

_CREDENTIALS = struct.Struct("3i")
"""`struct ucred`: pid, uid, gid."""

_REQUEST = struct.Struct("=BBHIIIII")
"""`struct unix_diag_req`: family, protocol, padding, states, inode, what to show, cookie."""
_ANSWER_BYTES = 16
"""`struct unix_diag_msg`; attributes follow."""
_SHOW_PEER, _PEER = 4, 2
_ANY = 0xFFFFFFFF


def process_behind(connection: socket.socket) -> int:
    """Return the process that serves the other end of a connection which it has accepted.

    QEMU itself listens, also if it has put itself into the background, dropped its rights or was given the socket.
    Raises HostError if that is another host, or a process that only seems to.
    """
    if connection.family != socket.AF_UNIX:
        raise HostError(
            "the monitor does not show that the VM runs on this host; give a unix socket, or a domain of libvirt here"
        )
    pid = listener_of(connection)
    if not pid:
        raise HostError("the monitor is served from another container, whose processes are not seen here")
    if not _holds(pid, _other_end(connection)):
        raise HostError(
            f"process {pid} began to listen at the monitor, but another one serves it; give QEMU a -qmp of its own"
        )
    return pid


def listener_of(connection: socket.socket) -> int:
    """Return the process that began to listen where a unix socket is connected to; 0 if it is not seen here."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid: int = _CREDENTIALS.unpack(credentials)[0]
    return pid


def process_of_domain(thread_id: int, uuid: str) -> int:
    """Return the process of that thread, if it was started as the domain with this UUID. Raises HostError if not."""
    process = PROC / (status_field(PROC / str(thread_id), "Tgid") or "none")
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        words = []
    user_ids = status_field(process, "Uid").split()
    # Anybody can start a program that runs as another user with these words.
    if (b"-uuid", uuid.encode()) not in pairwise(words) or len(set(user_ids)) != 1:
        raise HostError("the domain does not run on this host, or its threads are not those of its process")
    return int(process.name)


def _holds(pid: int, inode: int) -> bool:
    """Tell whether a process has a socket open."""
    try:
        files = list((PROC / str(pid) / "fd").iterdir())
    except FileNotFoundError:
        return False
    except OSError as error:
        raise HostError(
            f"the open files of process {pid} may not be seen: {error.strerror}; run as root or as its user"
        ) from error
    return any(_target(str(file)) == f"socket:[{inode}]" for file in files)


def _target(link: str) -> str:
    try:
        return os.readlink(link)
    except OSError:  # closed meanwhile
        return ""


def _other_end(connection: socket.socket) -> int:
    """Return the inode of the socket that a connected unix socket is connected to."""
    inode = os.fstat(connection.fileno()).st_ino
    request = _REQUEST.pack(socket.AF_UNIX, 0, 0, _ANY, inode, _SHOW_PEER, _ANY, _ANY)
    try:
        peers = [attribute(answer[_ANSWER_BYTES:], _PEER) for answer in ask_kernel(request, ONE)]
    except OSError as error:
        raise HostError(f"the kernel does not tell who serves the monitor: {error.strerror or error}") from error
    for peer in filter(None, peers):
        return int.from_bytes(peer, "little")
    raise HostError("the kernel does not tell who serves the monitor (it needs CONFIG_UNIX_DIAG)")
