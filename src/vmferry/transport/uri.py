"""Addresses as QEMU writes them: `tcp:host:port`, `tcp:[v6]:port`, `unix:path`."""

import re
from dataclasses import dataclass

from vmferry.errors import UsageError

_TCP = re.compile(r"tcp:(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^:\[\]]*)):(?P<port>[0-9]{1,5})")
_MAX_UNIX_PATH_BYTES = 107


@dataclass(frozen=True)
class TcpAddress:
    """A host and a port; an empty host means every address when listening, this machine when connecting."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp:{host}:{self.port}"


@dataclass(frozen=True)
class UnixAddress:
    """A path in the file system."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


Address = TcpAddress | UnixAddress


def parse_uri(uri: str) -> Address:
    """Return the address. Raises UsageError that names the uri and the allowed forms."""
    if uri.isprintable():  # a null byte or half a character is nothing that the kernel would take
        match = _TCP.fullmatch(uri)
        if match and int(match["port"]) <= 65535:
            return TcpAddress(match["v6"] or match["host"], int(match["port"]))
        if uri.startswith("unix:") and 0 < len(uri.encode()) - len("unix:") <= _MAX_UNIX_PATH_BYTES:
            return UnixAddress(uri.removeprefix("unix:"))
    raise UsageError(
        f"{uri!r} is not an address; write tcp:HOST:PORT with a port up to 65535, "
        f"or unix:PATH with a path up to {_MAX_UNIX_PATH_BYTES} bytes"
    )


@dataclass(frozen=True)
class MonitorAddress:
    """Where a monitor is, and the keys that were given for TLS, each with its values."""

    address: Address
    tls: dict[str, list[str]]

    def __str__(self) -> str:
        return ",".join(
            [str(self.address), *(f"{key}={value}" for key, values in self.tls.items() for value in values)]
        )


def parse_monitor_uri(uri: str, *keys: str) -> MonitorAddress:
    """Return an address that may be followed by ,tls-creds=DIRECTORY and these further keys, if it is one of TCP.

    Raises UsageError that names what is wrong.
    """
    if not uri.startswith("tcp:"):
        return MonitorAddress(parse_uri(uri), {})
    address, *words = uri.split(",")
    tls: dict[str, list[str]] = {}
    for word in words:
        key, is_pair, value = word.partition("=")
        if not is_pair or key not in ("tls-creds", *keys):
            allowed = ", ".join(f"{key}=" for key in ("tls-creds", *keys))
            raise UsageError(f"'{word}' in '{uri}' is not understood; allowed are {allowed}")
        tls.setdefault(key, []).append(value)
    if tls and not tls.get("tls-creds"):
        raise UsageError(f"'{uri}' has no tls-creds=DIRECTORY, and so no TLS")
    return MonitorAddress(parse_uri(address), tls)
