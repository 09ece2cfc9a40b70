"""The words that parameters take which are a choice among some: QEMU's where it has them."""

from enum import StrEnum


class MultiFdCompression(StrEnum):
    """The values of `multifd-compression`. All but none, zstd and auto are QEMU's alone; QEMU does not have auto."""

    NONE = "none"
    ZLIB = "zlib"
    ZSTD = "zstd"
    QATZIP = "qatzip"
    QPL = "qpl"
    UADK = "uadk"
    AUTO = "auto"


class Rearm(StrEnum):
    """When a page that was written is logged anew: just before it is sent, or at every sync as all that were written.

    QEMU does not have `x-dirty-log-rearm`.
    """

    LATE = "late"
    EARLY = "early"
