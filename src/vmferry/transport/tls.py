"""TLS 1.3 over a connected socket, with both sides authenticated by certificates.

What goes wrong is told in one line on each side: the side that refuses says why, and the other one says what it was
told. In TLS 1.3 a client has shaken hands before the server has looked at its certificate, so what the server says of
it comes with the first answer.
"""

import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from vmferry.errors import ChannelError, PeerError, UsageError
from vmferry.transport.sockets import wait_briefly
from vmferry.transport.tls_client_connection import TlsClientConnection
from vmferry.transport.tls_server_connection import TlsServerConnection


@dataclass(frozen=True)
class TlsServer:
    """How a side that is connected to speaks TLS: with which credentials, and with whom, empty for every name."""

    context: ssl.SSLContext
    allowed_names: frozenset[str] = frozenset()

    def wrap(self, connection: socket.socket) -> TlsServerConnection:
        """Return what shakes hands with whoever has connected as soon as something is read."""
        return TlsServerConnection(connection, self.context, self.check)

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

    def wrap(self, connection: socket.socket, while_blocked: Callable[[], None]) -> TlsClientConnection:
        """Return the connection when hands are shaken, or close it.

        Raises PeerError or ChannelError that says why, or what `while_blocked` raises.
        """
        with ExitStack() as on_failure:
            on_failure.callback(connection.close)
            secured = TlsClientConnection(self._wrapped(connection), self.other)
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


def _names_in(certificate: Mapping[str, Any]) -> list[str]:
    """Return the names that a certificate, which was checked, is for."""
    subject = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    others = [value for kind, value in certificate.get("subjectAltName", ()) if kind in ("DNS", "IP Address")]
    return list(dict.fromkeys(subject + others))
