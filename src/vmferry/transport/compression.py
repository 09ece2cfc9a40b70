"""Packs the pages of a batch by zstd, in the thread that sends them, and unpacks them.

A guest writes its pages while they are packed, and zstd refers back to what it has read before: pages that did not
change could come out wrong because of one that did. So it is given a copy that stands still.
"""

import threading
import time
from collections.abc import Callable, Sequence

import zstandard

from vmferry.errors import PeerError
from vmferry.migration.compression import CompressionFigures, CompressionTrial
from vmferry.settings.choices import MultiFdCompression
from vmferry.wire.format import MAX_PACKED_BYTES


class Compression:
    """That of one migration, shared by its channels. `how` is zstd or auto."""

    def __init__(self, how: MultiFdCompression, level: int, now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._level = level
        self._now_ns = now_ns
        self._trial = CompressionTrial(now_ns()) if how is MultiFdCompression.AUTO else None
        self._lock = threading.Lock()
        self._plain_bytes = self._compressed_bytes = 0

    def packer(self) -> "Packer":
        """Return what packs for one thread."""
        return Packer(self, self._level)

    @property
    def on(self) -> bool:
        """Whether to pack the next batch."""
        return self._trial is None or self._trial.on

    def moved(self, plain_bytes: int, wire_bytes: int, *, packed: bool) -> None:
        """Take note that a batch was sent; `packed` tells whether that was tried: what does not shrink stays plain."""
        with self._lock:
            if packed:
                self._plain_bytes += plain_bytes
                self._compressed_bytes += wire_bytes
            if self._trial:
                self._trial.moved(self._now_ns(), compressed=packed, plain_bytes=plain_bytes, wire_bytes=wire_bytes)

    def figures(self) -> CompressionFigures:
        """Return what was done so far."""
        with self._lock:
            rates = self._trial.bytes_per_s if self._trial else {}
            return CompressionFigures(
                on=self.on,
                plain_bytes=self._plain_bytes,
                compressed_bytes=self._compressed_bytes,
                choices=self._trial.choices if self._trial else 0,
                plain_bytes_per_s=rates.get(False),
                compressed_bytes_per_s=rates.get(True),
            )


class Packer:
    """Packs for one thread."""

    def __init__(self, compression: Compression, level: int) -> None:
        self._compression = compression
        self._zstd = zstandard.ZstdCompressor(level=level)
        self._tried = False

    def pack(self, views: Sequence[memoryview]) -> bytes | None:
        """Return the packed bytes; None if they are not to be packed, or would be no fewer."""
        plain = sum(len(view) for view in views)
        self._tried = self._compression.on and 0 < plain <= MAX_PACKED_BYTES
        if not self._tried:
            return None
        packed = self._zstd.compress(b"".join(views))
        return packed if len(packed) < plain else None

    def sent(self, plain_bytes: int, wire_bytes: int) -> None:
        """Take note that the bytes of the last batch are on the wire."""
        self._compression.moved(plain_bytes, wire_bytes, packed=self._tried)


def unpack(packed: bytes | bytearray, views: Sequence[memoryview]) -> None:
    """Fill the views with what was packed. Raises PeerError if that is anything but exactly their size.

    The size is checked before anything is unpacked, and no more than that is ever written.
    """
    size_bytes = sum(len(view) for view in views)
    try:
        if zstandard.frame_content_size(packed) != size_bytes:
            raise PeerError(f"the peer sent packed pages of another size than the {size_bytes} bytes that were due")
        plain = memoryview(zstandard.ZstdDecompressor().decompress(packed, allow_extra_data=False))
    except zstandard.ZstdError as error:
        raise PeerError(f"the peer sent packed pages that are damaged: {error}") from None
    for view in views:
        view[:], plain = plain[: len(view)], plain[len(view) :]
