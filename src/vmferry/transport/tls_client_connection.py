"""The end of a connection with TLS that has connected: in a migration the source's, which sends much.

What is sent is encrypted from where it lies, and goes into the socket record by record.
"""

import select
import socket
import ssl
from collections.abc import Iterator

from vmferry.errors import ChannelError, MigrationError
from vmferry.transport.tls_connection import CALL_BYTES, RECORD_BYTES, TlsConnection
from vmferry.transport.tls_failure import failure

_WRITE_BYTES = 1 << 18


class TlsClientConnection(TlsConnection):
    """Has those methods of a socket that a channel uses."""

    def __init__(self, connection: ssl.SSLSocket, other: str) -> None:
        super().__init__(connection)
        self._tls = connection
        self.waits_for = select.POLLIN
        """The poll events to wait for while hands are being shaken."""
        self._other = other
        self._secured = False
        self._broken = False

    def shake_hands(self) -> bool:
        """Go on with the handshake as far as that is possible without waiting; return whether it is done.

        Raises PeerError if the other side is not who it should be, and ChannelError if it is gone.
        """
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self.waits_for = select.POLLIN
            return False
        except ssl.SSLWantWriteError:
            self.waits_for = select.POLLOUT
            return False
        except OSError as error:
            raise self._failure(error) from error
        self._secured = True
        return True

    def sendmsg(self, views: list[memoryview]) -> int:
        """Send the beginning of the views, and return how many bytes. Raises BlockingIOError if that has to wait."""
        if not self._secured:
            raise ChannelError(f"there is no TLS with {self._other}")
        sent = 0
        try:
            for piece in _pieces(views):
                sent += self._tls.send(piece)
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            if not sent:
                raise BlockingIOError from None
        except OSError as error:
            raise self._failure(error) from error
        return sent

    def recvmsg_into(self, views: list[memoryview]) -> tuple[int]:
        """Fill the beginning of the first view; 0 bytes are the end. Raises BlockingIOError if there is nothing yet."""
        if self._broken:  # what still comes is taken, so that the other side gets to read why
            return (len(socket.socket.recv(self._tls, len(views[0]))),)
        try:
            return (self._tls.recv_into(views[0]),)
        except ssl.SSLEOFError:
            return (0,)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> MigrationError:
        """Return what is told of an error, which is the connection's end."""
        self._broken, self._secured = True, False
        return failure(error, self._other)


def _pieces(views: list[memoryview]) -> Iterator[memoryview | bytearray]:
    """Yield what to give to TLS at a time. From the beginning of any piece on, the pieces are the same.

    Less than a record holds is collected, for each record costs a call or two of the kernel.
    """
    left_bytes = CALL_BYTES
    small = bytearray()
    for view in views:
        if small and len(small) + len(view) > RECORD_BYTES:
            yield small
            small = bytearray()
        if len(view) > RECORD_BYTES:
            yield from (view[start : start + _WRITE_BYTES] for start in range(0, len(view), _WRITE_BYTES))
        else:
            small += view
        left_bytes -= len(view)
        if left_bytes <= 0:
            break
    if small:
        yield small
