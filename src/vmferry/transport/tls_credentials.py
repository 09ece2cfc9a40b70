"""The directory that the parameter `tls-creds` names: who we are, and whose word we take for who others are.

Its files have QEMU's names (`crypto/tlscredsx509.c`): `ca-cert.pem`, `ca-crl.pem` if certificates were revoked,
`server-cert.pem` and `server-key.pem` for a side that is connected to, `client-cert.pem` and `client-key.pem` for one
that connects. Both sides must have a certificate, and speak TLS 1.3.
"""

import os
import ssl
import stat
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

from vmferry.errors import UsageError

CA_CERT, CA_CRL = "ca-cert.pem", "ca-crl.pem"
_PSK = "keys.psk"


class Endpoint(StrEnum):
    """Which end of a connection."""

    CLIENT = "client"
    SERVER = "server"

    @property
    def cert(self) -> str:
        """The name of the file with its certificate."""
        return f"{self}-cert.pem"

    @property
    def key(self) -> str:
        """The name of the file with its private key."""
        return f"{self}-key.pem"


def load_credentials(directory: str, endpoint: Endpoint) -> ssl.SSLContext:
    """Return what makes connections with the credentials in a directory.

    Raises UsageError that names the file that is missing, damaged, open to others, or does not belong to the others.
    """
    folder = Path(directory)
    if (folder / _PSK).exists() and not (folder / CA_CERT).exists():
        raise UsageError(
            f"'{folder}' holds pre-shared keys, which Python cannot use safely; make certificates with `vmferry certs`"
        )
    context = _context_of(endpoint)
    context.verify_mode = ssl.CERT_REQUIRED
    _load(folder / CA_CERT, context.load_verify_locations)
    if (folder / CA_CRL).exists():
        _load(folder / CA_CRL, context.load_verify_locations)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    _load_own(folder, endpoint, context)
    return context


def load_server(directory: str) -> ssl.SSLContext:
    """Return what answers whoever connects, as the server of the credentials in a directory, without asking who it is.

    Raises UsageError as `load_credentials` does.
    """
    context = _context_of(Endpoint.SERVER)
    _load_own(Path(directory), Endpoint.SERVER, context)
    return context


def _context_of(endpoint: Endpoint) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if endpoint is Endpoint.SERVER else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if endpoint is Endpoint.SERVER:
        context.num_tickets = 0  # nobody resumes a session here, and a ticket would be in the way of a first message
    return context


def _load_own(folder: Path, endpoint: Endpoint, context: ssl.SSLContext) -> None:
    """Take the certificate of an endpoint, and its key."""
    cert, key = _regular(folder / endpoint.cert), _regular(folder / endpoint.key)
    _check_private(key)
    _load(key, lambda _: context.load_cert_chain(cert, key, lambda: _refuse_password(key)))


def _load(path: Path, load: Callable[[str], object]) -> None:
    try:
        load(str(_regular(path)))
    except ssl.SSLError as error:
        reason = (error.reason or "not in PEM format").lower().replace("_", " ")
        raise UsageError(f"cannot use the TLS credentials in '{path}': {reason}") from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _regular(path: Path) -> Path:
    """Return the path of a regular file: a FIFO would hold us up."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(mode):
        raise UsageError(f"the TLS credentials '{path}' are not a regular file")
    return path


def _check_private(path: Path) -> None:
    mode = path.stat().st_mode
    if mode & 0o077:
        raise UsageError(f"the private key '{path}' is open to others (mode {mode & 0o777:04o}); chmod 600 it")


def _refuse_password(path: Path) -> str:
    raise UsageError(f"the private key '{path}' is encrypted; nobody is here to be asked for its password")


def _unreadable(path: Path, error: OSError) -> UsageError:
    reason = error.strerror or os.strerror(error.errno or 0)
    return UsageError(f"cannot read the TLS credentials '{path}': {reason}; `vmferry certs` makes some")
