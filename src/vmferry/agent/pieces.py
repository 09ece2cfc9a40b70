"""A journal in pieces that are kept as they come: one zstd frame of JSON lines. Every beginning of it can be read."""

from collections.abc import Iterable

import msgspec
import zstandard

from vmferry.errors import UsageError
from vmferry.migration.events import Lost
from vmferry.migration.journal import Entry

MAX_UNKEPT_BYTES = 16 << 20
"""How much waits to be kept, compressed, while the database does not take it."""


class Pieces:
    """Compresses the entries of one journal."""

    def __init__(self) -> None:
        self._frame = zstandard.ZstdCompressor(level=3).compressobj()
        self._encoder = msgspec.json.Encoder()
        self._unkept = bytearray()
        self._dropped = 0

    def add(self, entries: Iterable[Entry]) -> None:
        """Compress entries; where too much waits already they are counted, and that is told when there is room."""
        entries = list(entries)
        if not entries:
            return
        if len(self._unkept) > MAX_UNKEPT_BYTES:
            self._dropped += len(entries)
            return
        if self._dropped:
            entries.insert(0, Entry(entries[0].time_ns, Lost(count=self._dropped)))
            self._dropped = 0
        self._unkept += self._frame.compress(b"".join(self._encoder.encode(entry) + b"\n" for entry in entries))
        self._unkept += self._frame.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)

    def unkept(self) -> bytes:
        """Return what is to be kept next; nothing if all is."""
        return bytes(self._unkept)

    def kept(self, size_bytes: int) -> None:
        """Take note that the first bytes of `unkept` are safe."""
        del self._unkept[:size_bytes]


def read_pieces(pieces: Iterable[bytes]) -> list[Entry]:
    """Return the entries in the pieces of one journal, from its first on. Raises UsageError if they are none."""
    frame = zstandard.ZstdDecompressor().decompressobj()
    try:
        text = b"".join(frame.decompress(piece) for piece in pieces)
        return [msgspec.json.decode(line, type=Entry) for line in text.splitlines()]
    except (zstandard.ZstdError, msgspec.DecodeError) as error:
        raise UsageError(f"what the database has is no journal: {error}") from error
