"""The file with the token that both sides of a migration prove to know."""

import os
import stat

from vmferry.errors import UsageError

_MIN_BYTES = 16
_MAX_BYTES = 4096


def read_token(path: str) -> bytes:
    """Return the token, without white space around it; an empty path means that there is none.

    Raises UsageError if the file is not regular, can be used by others than its owner, or is too short to be a secret.
    """
    if not path:
        return b""
    try:
        token = _read_private(path).strip()
    except OSError as error:
        raise UsageError(f"cannot read the token file '{path}': {error.strerror}") from error
    if not _MIN_BYTES <= len(token) <= _MAX_BYTES:
        raise UsageError(
            f"the token file '{path}' holds {len(token)} bytes, {_MIN_BYTES} to {_MAX_BYTES} are allowed; "
            "make one with: (umask 077; openssl rand -hex 32 > FILE)"
        )
    return token


def _read_private(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO must not hold us up
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            raise UsageError(f"the token file '{path}' is not a regular file")
        if mode & 0o077:
            raise UsageError(f"the token file '{path}' is open to others (mode {mode & 0o777:04o}); chmod 600 it")
        return os.read(fd, _MAX_BYTES + 1)
    finally:
        os.close(fd)
