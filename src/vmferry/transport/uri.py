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
