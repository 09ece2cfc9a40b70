"""A file descriptor that takes ioctls: the base of the wrappers, one class for each kind of descriptor."""

import ctypes
import errno
import os

from vmferry.errors import HostError
from vmferry.guests.kvm import abi

libc = ctypes.CDLL(None, use_errno=True)

# The C library's ioctl and not fcntl's: fcntl begins anew when a signal arrives, which is what must end KVM_RUN, and
# takes no integers beyond 31 bits.
libc_ioctl = libc.ioctl
libc_ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p]
libc_ioctl.restype = ctypes.c_int


class KvmFd:
    """Owns a descriptor. Every call after `close` raises HostError with EBADF."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        """Close the descriptor; harmless if it is closed."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def get(self, request: int) -> bytes:
        """Make a GET ioctl that fills a structure of fixed size, and return it."""
        structure = bytearray(abi.size_of(request))
        self._ioctl(request, structure)
        return bytes(structure)

    def set(self, request: int, structure: bytes) -> None:
        """Make a SET ioctl with a structure of exactly the right size."""
        assert len(structure) == abi.size_of(request)
        self._ioctl(request, bytearray(structure))

    def _ioctl(self, request: int, argument: int | bytearray | ctypes.Structure = 0) -> int:
        """Make an ioctl and return its value; a buffer or structure is read and written in place. Raises HostError."""
        # SAFETY: the argument lives until the call returns; the caller made it as large as the kernel expects
        # for this request.
        pointer = argument if isinstance(argument, int) else ctypes.addressof(_as_memory(argument))
        result: int
        while (result := libc_ioctl(self.fd, request, pointer)) < 0:
            error = ctypes.get_errno()
            if error != errno.EINTR:
                raise HostError(f"KVM refused {abi.name_of(request)}: {os.strerror(error)}", error)
        return result


def _as_memory(buffer: bytearray | ctypes.Structure) -> ctypes.Structure | ctypes.Array[ctypes.c_char]:
    return buffer if isinstance(buffer, ctypes.Structure) else (ctypes.c_char * len(buffer)).from_buffer(buffer)
