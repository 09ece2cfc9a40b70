"""What both ends of a connection with TLS have: the socket below it."""

import socket
from typing import Any

RECORD_BYTES = 1 << 14
"""What a record of TLS holds at most (RFC 8446, section 5.1)."""
CALL_BYTES = 1 << 20
"""How much one call passes on at most, more or less, so that its caller can look up now and then."""


class TlsConnection:
    """An end of a connection; it owns the socket, which is connected and does not block."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.family = connection.family

    def fileno(self) -> int:
        """Return the socket's descriptor, for poll."""
        return self.socket.fileno()

    def getpeername(self) -> Any:
        """Return the address of the other side."""
        return self.socket.getpeername()

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()
