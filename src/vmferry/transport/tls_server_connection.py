"""The end of a connection with TLS that was connected to: in a migration the destination's, which receives much.

It takes many records from the socket at once, and decrypts them then. OpenSSL by itself would ask the kernel twice for
each record of 16 KiB.
"""

import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from vmferry.errors import ChannelError, MigrationError, PeerError
from vmferry.transport.tls_connection import CALL_BYTES, RECORD_BYTES, TlsConnection
from vmferry.transport.tls_failure import failure

_OTHER = "the source"
_HANDSHAKE = 0x16
"""The first byte of a client that speaks TLS: a handshake record (RFC 8446, section 5.1)."""
_AHEAD_BYTES = 1 << 17
"""How much is taken from the socket at once, of who has proven who it is; of a stranger, what a record holds."""


class TlsServerConnection(TlsConnection):
    """Has those methods of a socket that a channel uses.

    Nothing is read or written in clear but to a client that speaks no TLS, so that it can be told so.
    """

    def __init__(
        self, connection: socket.socket, context: ssl.SSLContext, check: Callable[[Mapping[str, Any]], None]
    ) -> None:
        """`check` raises if there is something about the other side's certificate that TLS does not mind."""
        super().__init__(connection)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._check = check
        self._is_tls = self._secured = self._in_clear = False
        self._deaf = False
        """Whether nothing that comes is listened to any more."""
        self._room = memoryview(bytearray(RECORD_BYTES))
        """For what comes from the socket, encrypted."""
        self._unsent = memoryview(b"")
        self._unsent_holds_bytes = 0
        """How much of what was to be sent is in what is encrypted already and not sent."""
        self._more = False

    @property
    def holds_more(self) -> bool:
        """Whether there may be something to read of which poll knows nothing, as it was taken from the socket."""
        return self._more and not self._deaf

    def shake_hands(self) -> bool:
        """Go on with the handshake as far as that is possible without waiting; return whether it is done.

        Raises PeerError if the other side is not who it should be, and ChannelError if it is gone.
        """
        if self._secured:
            return True
        try:
            self._look_for_tls()
            self._go_on(self._tls.do_handshake)
        except BlockingIOError:
            return False
        except OSError as error:
            raise self._failure(error) from error
        self._secured = self._deaf = True
        self._check(self._tls.getpeercert() or {})
        self._deaf = False
        self._room = memoryview(bytearray(_AHEAD_BYTES))
        return True

    def sendmsg(self, views: list[memoryview]) -> int:
        """Send the beginning of the first view, and return how many bytes. Raises BlockingIOError if that has to wait.

        Then the same is to be sent again.
        """
        if self._in_clear:
            return self.socket.sendmsg(views)
        if not self._secured:
            raise ChannelError(f"there is no TLS with {_OTHER}")
        try:
            if not self._unsent_holds_bytes:
                self._unsent_holds_bytes = self._tls.write(views[0][:RECORD_BYTES])
            self._pass_on()
        except BlockingIOError:
            raise
        except OSError as error:
            raise self._failure(error) from error
        sent, self._unsent_holds_bytes = self._unsent_holds_bytes, 0
        return sent

    def recvmsg_into(self, views: list[memoryview]) -> tuple[int]:
        """Fill the beginning of the views; 0 bytes are the end. Raises BlockingIOError if there is nothing yet.

        What comes after a failed handshake is taken, so that the other side gets to read why, but not given to anybody.
        """
        if self._deaf:
            return (len(self.socket.recv(len(views[0]))),)
        if not self.shake_hands():
            raise BlockingIOError
        received, self._more = 0, False
        try:
            for view in views:
                while view and received < CALL_BYTES:
                    taken = self._go_on(self._tls.read, len(view), view)
                    if not taken:
                        return (received,)
                    view, received = view[taken:], received + taken
        except ssl.SSLEOFError:
            return (received,)
        except OSError as error:
            if received:  # else it comes again
                return (received,)
            if isinstance(error, BlockingIOError):
                raise
            raise self._failure(error) from error
        self._more = True
        return (received,)

    def _look_for_tls(self) -> None:
        """Raise PeerError if a client speaks something else; it is answered in clear from now on."""
        if self._is_tls:
            return
        first = self.socket.recv(1, socket.MSG_PEEK)
        if first and first[0] != _HANDSHAKE:
            self._deaf = self._in_clear = True
            raise PeerError("without TLS nobody is received here (tls-creds)")
        self._is_tls = True

    def _go_on(self, step: Callable[..., Any], *arguments: Any) -> Any:
        """Take a step of TLS, with as much from the socket as it needs. Raises BlockingIOError if that has to wait.

        So it does as well after as much as one call passes on: of that nothing was for the step, and there may be more.
        """
        taken_bytes = 0
        while True:
            try:
                return step(*arguments)
            except ssl.SSLWantReadError:
                if taken_bytes >= CALL_BYTES:
                    raise BlockingIOError from None
                taken_bytes += self._feed()

    def _feed(self) -> int:
        """Give TLS what the socket has, and the other side what TLS answers by itself. Return how many bytes it had."""
        with suppress(BlockingIOError):
            self._pass_on()
        if self._outgoing.pending > RECORD_BYTES:
            raise PeerError(f"no TLS with {_OTHER}: it takes no answers")
        if size_bytes := self.socket.recv_into(self._room):
            self._incoming.write(self._room[:size_bytes])
        else:
            self._incoming.write_eof()
        return size_bytes

    def _pass_on(self) -> None:
        """Send what is encrypted. Raises BlockingIOError if that has to wait."""
        while self._unsent or self._outgoing.pending:
            self._unsent = self._unsent or memoryview(self._outgoing.read())
            self._unsent = self._unsent[self.socket.send(self._unsent) :]

    def _failure(self, error: OSError) -> MigrationError:
        """Return what is told of an error, which is the connection's end; the other side is told by TLS."""
        self._deaf, self._secured = True, False
        with suppress(OSError):
            self._pass_on()
        return failure(error, _OTHER)
