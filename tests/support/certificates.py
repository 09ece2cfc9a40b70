"""Certificates of a lab, made once for all tests."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from vmferry.transport.lab_ca import LabCa
from vmferry.transport.tls import TlsClient, TlsServer
from vmferry.transport.tls_credentials import Endpoint, load_credentials

HERE, THERE = "source.lab", "destination.lab"


@cache
def lab() -> Path:
    """Return the directory of a CA that has certified a source and a destination, and others whom it takes back."""
    directory = Path(mkdtemp(prefix="vmferry-tests-"))
    authority = LabCa.open(directory, 30)
    for host in (HERE, THERE, "127.0.0.1", "revoked"):
        authority.certify(host, 30)
    authority.certify("expired", 0)
    authority.revoke("revoked")
    return directory


@cache
def foreign_lab() -> Path:
    """Return the directory of another CA, with the same hosts."""
    directory = Path(mkdtemp(prefix="vmferry-tests-"))
    for host in (HERE, THERE):
        LabCa.open(directory, 30).certify(host, 30)
    return directory


def secured_client() -> TlsClient:
    """Return how the source speaks with the destination."""
    return TlsClient(load_credentials(str(lab() / HERE), Endpoint.CLIENT), THERE)


def secured_server() -> TlsServer:
    """Return how the destination receives."""
    return TlsServer(load_credentials(str(lab() / THERE), Endpoint.SERVER))
