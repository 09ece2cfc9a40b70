"""TLS 1.3 over a connected socket, with both sides authenticated by certificates.

What goes wrong is told in one line on each side: the side that refuses says why, and the other one says what it was
told. In TLS 1.3 a client has shaken hands before the server has looked at its certificate, so what the server says of
it comes with the first answer.
"""

import select
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from vmferry.errors import ChannelError, MigrationError, PeerError, UsageError
from vmferry.transport.sockets import wait_briefly

_HANDSHAKE = 0x16
"""The first byte of a client that speaks TLS: a handshake record (RFC 8446, section 5.1)."""
_RECORD_BYTES = 1 << 14
"""What a record holds at most; less than that is collected, for each record costs a call or two of the kernel."""
_WRITE_BYTES = 1 << 18
_CALL_BYTES = 1 << 20
"""How much one call passes on at most, more or less, so that its caller can look up now and then."""

_NO_TLS = frozenset(
    {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "BAD_RECORD_TYPE"}
)
_REASONS = {
    "UNSUPPORTED_PROTOCOL": "it speaks no TLS 1.3",
    "TLSV1_ALERT_PROTOCOL_VERSION": "it speaks no TLS 1.3",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it has no certificate",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it asks for a certificate of ours",
    "TLSV1_ALERT_UNKNOWN_CA": "it refuses our certificate, as it does not know its CA",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it refuses our certificate, which has expired",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "it refuses our certificate, which was revoked",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it refuses our certificate, which may be of another name",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it refuses our certificate",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "it refuses our certificate, which is for another purpose",
}
"""By OpenSSL's names, the commonest reasons as an operator reads them."""
_FLAWS = {
    **dict.fromkeys((18, 19, 20, 21), "another CA than ours (ca-cert.pem) has certified it"),
    10: "it has expired",
    12: "the list of revoked certificates (ca-crl.pem) has expired",
    23: "it was revoked",
    26: "it is for another purpose",
}
"""By OpenSSL's numbers (`x509_vfy.h`), what is wrong with a certificate."""


@dataclass(frozen=True)
class TlsServer:
    """How a side that is connected to speaks TLS: with which credentials, and with whom, empty for every name."""

    context: ssl.SSLContext
    allowed_names: frozenset[str] = frozenset()

    def wrap(self, connection: socket.socket) -> "TlsConnection":
        """Return what shakes hands with whoever has connected as soon as something is read.

        Raises ChannelError if it is gone, and closes the connection then.
        """
        try:
            connection.getpeername()  # of one that is reset already `wrap_socket` would make something that leaks
            wrapped = self.context.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=False
            )
        except OSError as error:
            connection.close()
            raise ChannelError(f"the connection is lost: {error.strerror or error}") from error
        return TlsConnection(wrapped, "the source", self.check)

    def check(self, certificate: Mapping[str, Any]) -> None:
        """Raise PeerError if a certificate, as `getpeercert` returns it, has no name that is allowed."""
        names = _names_in(certificate)
        if self.allowed_names and self.allowed_names.isdisjoint(names):
            called = " and ".join(f"'{name}'" for name in names) or "nobody"
            raise PeerError(f"its certificate is that of {called}, whom tls-authz does not allow")


@dataclass(frozen=True)
class TlsClient:
    """How a side that connects speaks TLS: with which credentials, and what the other certificate must be for."""

    context: ssl.SSLContext
    hostname: str
    other: str = "the destination"

    def wrap(self, connection: socket.socket, while_blocked: Callable[[], None]) -> "TlsConnection":
        """Return the connection when hands are shaken, or close it.

        Raises PeerError or ChannelError that says why, or what `while_blocked` raises.
        """
        with ExitStack() as on_failure:
            on_failure.callback(connection.close)
            secured = TlsConnection(self._wrapped(connection), self.other)
            on_failure.callback(secured.close)
            while not secured.shake_hands():
                wait_briefly(secured, secured.waits_for)
                while_blocked()
            on_failure.pop_all()
        return secured

    def _wrapped(self, connection: socket.socket) -> ssl.SSLSocket:
        try:
            return self.context.wrap_socket(
                connection, server_hostname=self.hostname, do_handshake_on_connect=False, suppress_ragged_eofs=False
            )
        except ValueError as error:
            raise UsageError(f"'{self.hostname}' is no name that a certificate could have (tls-hostname)") from error
        except OSError as error:
            raise ChannelError(f"the connection is lost: {error.strerror or error}") from error


class TlsConnection:
    """Has those methods of a connected, non-blocking socket that a channel uses; owns the socket.

    Nothing is read or written in clear but to a client that speaks no TLS, so that it can be told so.
    """

    def __init__(
        self,
        connection: ssl.SSLSocket,
        other: str,
        check: Callable[[Mapping[str, Any]], None] = lambda certificate: None,
    ) -> None:
        """`check` raises if there is something about the other side's certificate that TLS does not mind."""
        self.socket = connection
        self.family = connection.family
        self.waits_for = select.POLLIN
        """The poll events to wait for while hands are being shaken."""
        self._other = other
        self._check = check
        self._is_tls = not connection.server_side
        self._secured = self._in_clear = False
        self._deaf = False
        """Whether nothing that comes is listened to any more."""

    def fileno(self) -> int:
        """Return the socket's descriptor, for poll."""
        return self.socket.fileno()

    def getpeername(self) -> Any:
        """Return the address of the other side."""
        return self.socket.getpeername()

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()

    def shake_hands(self) -> bool:
        """Go on with the handshake as far as that is possible without waiting; return whether it is done.

        Raises PeerError if the other side is not who it should be, and ChannelError if it is gone.
        """
        if self._secured:
            return True
        try:
            self._look_for_tls()
            self.socket.do_handshake()
        except (ssl.SSLWantReadError, BlockingIOError):
            self.waits_for = select.POLLIN
            return False
        except ssl.SSLWantWriteError:
            self.waits_for = select.POLLOUT
            return False
        except OSError as error:
            raise self._failure(error) from error
        self._secured = self._deaf = True
        self._check(self.socket.getpeercert() or {})
        self._deaf = False
        return True

    def sendmsg(self, views: list[memoryview]) -> int:
        """Send the beginning of the views, and return how many bytes. Raises BlockingIOError if that has to wait."""
        if self._in_clear:
            return socket.socket.sendmsg(self.socket, views)
        if not self._secured:
            raise ChannelError(f"there is no TLS with {self._other}")
        sent = 0
        try:
            for piece in _pieces(views):
                sent += self.socket.send(piece)
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            if not sent:
                raise BlockingIOError from None
        except OSError as error:
            raise self._failure(error) from error
        return sent

    def recvmsg_into(self, views: list[memoryview]) -> tuple[int]:
        """Fill the beginning of the views; 0 bytes are the end. Raises BlockingIOError if there is nothing yet.

        What comes after a failed handshake is taken, so that the other side gets to read why, but not given to anybody.
        """
        if self._deaf:
            return (len(socket.socket.recv(self.socket, len(views[0]))),)
        if not self.shake_hands():
            raise BlockingIOError
        received = 0
        try:
            for view in views:
                while view and received < _CALL_BYTES:
                    taken = self.socket.recv_into(view)
                    if not taken:
                        return (received,)
                    view, received = view[taken:], received + taken
        except ssl.SSLEOFError:
            return (received,)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            if not received:
                raise BlockingIOError from None
        except OSError as error:
            if not received:  # else it comes again
                raise self._failure(error) from error
        return (received,)

    def _look_for_tls(self) -> None:
        """Raise PeerError if a client speaks something else; it is answered in clear from now on."""
        if self._is_tls:
            return
        first = socket.socket.recv(self.socket, 1, socket.MSG_PEEK)
        if first and first[0] != _HANDSHAKE:
            self._deaf = self._in_clear = True
            raise PeerError("without TLS nobody is received here (tls-creds)")
        self._is_tls = True

    def _failure(self, error: OSError) -> MigrationError:
        """Return what is told of an error, which is the connection's end."""
        self._deaf, self._secured = True, False
        return failure(error, self._other)


def failure(error: OSError, other: str) -> MigrationError:
    """Return what is told of a connection with TLS that broke, in one line; `other` is who is at the other end."""
    if isinstance(error, ssl.SSLCertVerificationError):
        flaw = _FLAWS.get(error.verify_code, error.verify_message)
        return PeerError(f"no TLS with {other}: its certificate is refused: {flaw}")
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return ChannelError(f"no TLS with {other}: it closed the connection")
    if isinstance(error, ssl.SSLError):
        return PeerError(f"no TLS with {other}: {_reason(error)}")
    return ChannelError(f"the connection is lost: {error.strerror or error}")


def _reason(error: ssl.SSLError) -> str:
    name = error.reason or "UNKNOWN"
    if name in _NO_TLS:
        return "it speaks none (tls-creds)"
    return _REASONS.get(name) or name.lower().replace("_", " ")


def _names_in(certificate: Mapping[str, Any]) -> list[str]:
    """Return the names that a certificate, which was checked, is for."""
    subject = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    others = [value for kind, value in certificate.get("subjectAltName", ()) if kind in ("DNS", "IP Address")]
    return list(dict.fromkeys(subject + others))


def _pieces(views: list[memoryview]) -> Iterator[memoryview | bytearray]:
    """Yield what to give to TLS at a time. From the beginning of any piece on, the pieces are the same."""
    left_bytes = _CALL_BYTES
    small = bytearray()
    for view in views:
        if small and len(small) + len(view) > _RECORD_BYTES:
            yield small
            small = bytearray()
        if len(view) > _RECORD_BYTES:
            yield from (view[start : start + _WRITE_BYTES] for start in range(0, len(view), _WRITE_BYTES))
        else:
            small += view
        left_bytes -= len(view)
        if left_bytes <= 0:
            break
    if small:
        yield small
