"""Parameters of QEMU 10.1 that mean nothing to vmferry: known, reported at their defaults, not to be changed.

They belong to post-copy, other compressions, dirty limits, COLO, CPR, block migration and network
announcements. Clients that set them to what they are anyway must not fail.
"""

from enum import StrEnum

from vmferry.settings.parameter_spec import InertParameter, range_error
from vmferry.settings.qapi_types import UINT64_MAX, UNSIGNED_MAX


class ZeroPageDetection(StrEnum):
    """Which thread looks for zero pages."""

    NONE = "none"
    LEGACY = "legacy"
    MULTIFD = "multifd"


class MigMode(StrEnum):
    """Whether the guest moves to another process at all."""

    NORMAL = "normal"
    CPR_REBOOT = "cpr-reboot"
    CPR_TRANSFER = "cpr-transfer"


def _inert(name: str, qapi_type: str, default: object, help: str, refusal: str = "") -> InertParameter:
    shown = f"'{default}'" if isinstance(default, str) else str(default).lower()
    refusal = refusal or f"Parameter '{name}' expects {shown}, the only value that is supported here"
    return InertParameter(name=name, qapi_type=qapi_type, default=default, help=help, refusal=refusal)


def _number(
    name: str,
    qapi_type: str,
    default: int,
    help: str,
    allowed: tuple[int, int] | None = None,
    unit: str = "",
    error: str = "",
) -> InertParameter:
    minimum, maximum = allowed or (0, UNSIGNED_MAX[qapi_type])
    return InertParameter(
        name=name,
        qapi_type=qapi_type,
        default=default,
        help=help,
        refusal=f"Parameter '{name}' expects {default}, the only value that is supported here",
        unit=unit,
        minimum=minimum,
        maximum=maximum,
        range_error=error or range_error(name, f"a value between {minimum} and {maximum}"),
    )


INERT_PARAMETERS: dict[str, InertParameter] = {
    spec.name: spec
    for spec in (
        _number("announce-initial", "size", 50, "delay before the first announcement", (0, 100_000), "ms"),
        _number("announce-max", "size", 550, "longest delay between announcements", (0, 100_000), "ms"),
        _number("announce-rounds", "size", 5, "number of announcements", (0, 1000)),
        _number(
            "announce-step", "size", 100, "growth of the delay between announcements", (1, 10_000), "ms",
            range_error("announce-step", "a value between 0 and 10000"),  # QEMU says so and refuses 0
        ),
        _number("max-postcopy-bandwidth", "size", 0, "rate limit of post-copy, 0 for none", unit="bytes/second"),
        _number("x-checkpoint-delay", "uint32", 20_000, "time between two COLO checkpoints", unit="ms"),
        _number("multifd-zlib-level", "uint8", 1, "level of zlib compression", (0, 9)),
        _number("multifd-qatzip-level", "uint8", 1, "level of QATzip compression", (1, 9)),
        _inert("zero-page-detection", "enum", ZeroPageDetection.MULTIFD, "which thread looks for zero pages"),
        _inert(
            "block-bitmap-mapping", "list", [], "aliases of block nodes and bitmaps",
            "Invalid mapping given for block-bitmap-mapping: there are no bitmaps here",
        ),
        _number(
            "x-vcpu-dirty-limit-period", "uint64", 1000, "how often dirty limits are adapted", (1, 1000), "ms",
            "Parameter 'x-vcpu-dirty-limit-period' expects a value between 1 and 1000",
        ),
        _number(
            "vcpu-dirty-limit", "uint64", 1, "dirty rate that dirty limits leave to a vCPU", (1, UINT64_MAX), "MB/s",
            "Parameter 'vcpu_dirty_limit' must be greater than 1 MB/s",
        ),
        _inert("mode", "enum", MigMode.NORMAL, "whether the guest moves to another process at all"),
        _inert(
            "direct-io", "bool", False, "bypass the page cache when writing to files",
            "No build-time support for direct-io",
        ),
    )
}  # fmt: skip
"""Every inert parameter by its QMP name."""
