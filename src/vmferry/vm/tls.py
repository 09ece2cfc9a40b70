"""TLS for the migrations of a VM, as its parameters ask for it."""

from vmferry.errors import UsageError
from vmferry.settings.parameters import MigrationParameters
from vmferry.transport.sockets import is_beyond_this_host
from vmferry.transport.tls import TlsClient, TlsServer
from vmferry.transport.tls_credentials import Endpoint, load_credentials
from vmferry.transport.uri import Address, TcpAddress


def source_tls(parameters: MigrationParameters, address: Address) -> TlsClient | None:
    """Return how to speak with a destination; None if that is in clear. Raises UsageError."""
    if not parameters.tls_creds:
        _refuse_others(parameters)
        return None
    hostname = parameters.tls_hostname or (address.host if isinstance(address, TcpAddress) else "")
    if not hostname:
        raise UsageError(f"'{address}' does not say whose certificate the destination is to have; set tls-hostname")
    return TlsClient(load_credentials(parameters.tls_creds, Endpoint.CLIENT), hostname)


def destination_tls(parameters: MigrationParameters) -> TlsServer | None:
    """Return how to receive sources; None if that is in clear. Raises UsageError."""
    if not parameters.tls_creds:
        _refuse_others(parameters)
        return None
    return TlsServer(load_credentials(parameters.tls_creds, Endpoint.SERVER), parameters.allowed_names)


def what_is_missing(address: Address, *, token: bool) -> str | None:
    """Return what it means to listen there, numerically, without TLS; None if nobody else can reach that."""
    if not is_beyond_this_host(address):
        return None
    who = "who knows the token can send a guest, but" if token else "whoever reaches it can send a guest, and"
    return f"{address} is open to other hosts without TLS: {who} all memory crosses the network in clear (docs/tls.md)"


def _refuse_others(parameters: MigrationParameters) -> None:
    """Raise UsageError if a parameter asks for TLS, and others do not."""
    for name, value in (("tls-hostname", parameters.tls_hostname), ("tls-authz", parameters.tls_authz)):
        if value:
            raise UsageError(f"{name} is set and tls-creds is not; set tls-creds to the directory of the certificates")
