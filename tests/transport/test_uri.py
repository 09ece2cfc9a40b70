"""Addresses as QEMU writes them."""

import pytest

from vmferry.errors import UsageError
from vmferry.transport.uri import TcpAddress, UnixAddress, parse_uri


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("tcp:host:4444", TcpAddress("host", 4444)),
        ("tcp::4444", TcpAddress("", 4444)),
        ("tcp:[::1]:4444", TcpAddress("::1", 4444)),
        ("tcp:0.0.0.0:0", TcpAddress("0.0.0.0", 0)),
        ("unix:/run/in.sock", UnixAddress("/run/in.sock")),
    ],
)
def test_good(uri: str, address: TcpAddress | UnixAddress) -> None:
    assert parse_uri(uri) == address
    assert str(address) == uri


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "tcp:",
        "tcp:host",
        "tcp:host:x",
        "tcp:host:70000",
        "unix:",
        "exec:cat",
        "host:1",
        "unix:" + "a" * 108,
    ],
)
def test_bad(uri: str) -> None:
    with pytest.raises(UsageError, match="is not an address; write tcp:HOST:PORT"):
        parse_uri(uri)
