"""Certificates of a lab, made once for all tests."""

import atexit
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from vmferry.transport.lab_ca import LabCa
from vmferry.transport.tls import TlsClient, TlsServer
from vmferry.transport.tls_credentials import Endpoint, load_credentials

HERE, THERE = "source.lab", "destination.lab"


def _new_directory() -> Path:
    """Return a directory that is removed when this process ends."""
    directory = TemporaryDirectory(prefix="vmferry-tests-")
    atexit.register(directory.cleanup)
    return Path(directory.name)


@cache
def lab() -> Path:
    """Return the directory of a CA that has certified a source and a destination, and others whom it takes back."""
    directory = _new_directory()
    authority = LabCa.open(directory, 30)
    for host in (HERE, THERE, "127.0.0.1", "revoked"):
        authority.certify(host, 30)
    authority.certify("expired", 0)
    authority.revoke("revoked")
    return directory


@cache
def foreign_lab() -> Path:
    """Return the directory of another CA, with the same hosts."""
    directory = _new_directory()
    for host in (HERE, THERE):
        LabCa.open(directory, 30).certify(host, 30)
    return directory


def secured_client() -> TlsClient:
    """Return how the source speaks with the destination."""
    return TlsClient(load_credentials(str(lab() / HERE), Endpoint.CLIENT), THERE)


def secured_server() -> TlsServer:
    """Return how the destination receives."""
    return TlsServer(load_credentials(str(lab() / THERE), Endpoint.SERVER))
