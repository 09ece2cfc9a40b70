"""TLS for one client of a monitor, between asyncio's streams and whoever reads and writes messages.

asyncio's own TLS drops the connection when a handshake fails, before the client has been told why; this tells it.
"""

import asyncio
import ssl
from contextlib import suppress
from typing import Any, Self

from vmferry.errors import ChannelError
from vmferry.transport.tls import TlsServer
from vmferry.transport.tls_failure import failure

_HANDSHAKE_S = 10.0
_READ_BYTES = 1 << 16
_CLIENT = "the client"


class TlsStream:
    """Has the methods of a `StreamReader` and a `StreamWriter` that a monitor uses, and the connection to a client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tls: TlsServer) -> None:
        self._reader = reader
        self._writer = writer
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = tls.context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    @classmethod
    async def open(cls, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tls: TlsServer) -> Self:
        """Shake hands and return the stream. Raises PeerError or ChannelError that says why that cannot be."""
        stream = cls(reader, writer, tls)
        try:
            async with asyncio.timeout(_HANDSHAKE_S):
                await stream._shake_hands()
        except TimeoutError as error:
            raise ChannelError(f"no TLS with {_CLIENT}: it took too long") from error
        except OSError as error:
            raise failure(error, _CLIENT) from error
        finally:
            stream._pass_on()  # also what a client is refused for
        tls.check(stream._tls.getpeercert() or {})
        return stream

    @property
    def transport(self) -> Any:
        """That of the connection beneath."""
        return self._writer.transport

    async def read(self, size_bytes: int) -> bytes:
        """Return the next bytes, none at the end of the stream. Raises OSError."""
        while True:
            try:
                return self._tls.read(size_bytes)
            except ssl.SSLWantReadError:
                self._pass_on()
                if not await self._feed():
                    return b""

    def write(self, data: bytes) -> None:
        """Send bytes, as soon as the client takes them. A broken connection is noticed by who reads."""
        with suppress(OSError):
            if data:
                self._tls.write(data)
                self._pass_on()

    async def drain(self) -> None:
        """Wait until the client has taken most of what was written."""
        await self._writer.drain()

    def is_closing(self) -> bool:
        """Return whether nothing can be written any more."""
        return self._writer.is_closing()

    def close(self) -> None:
        """Hang up when all is sent."""
        self._writer.close()

    async def wait_closed(self) -> None:
        """Wait for that."""
        await self._writer.wait_closed()

    async def _shake_hands(self) -> None:
        while True:
            try:
                return self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._pass_on()
                if not await self._feed():
                    raise ConnectionResetError("the client closed the connection") from None

    async def _feed(self) -> bool:
        """Wait for bytes from the client, and return whether there were any."""
        data = await self._reader.read(_READ_BYTES)
        self._incoming.write(data)
        return bool(data)

    def _pass_on(self) -> None:
        self._writer.write(self._outgoing.read())
