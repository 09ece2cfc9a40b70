"""The ways to compress pages, in QEMU's words."""

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
