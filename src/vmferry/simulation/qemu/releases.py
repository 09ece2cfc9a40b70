"""Releases of QEMU and what a driver sees of their differences.

Parameters, capabilities and texts are those of Debian's QEMU 7.2.22 and 10.0.2, as they answer on their monitors.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from vmferry.errors import UsageError

_COMMON_PARAMETERS: Mapping[str, object] = {
    "announce-initial": 50,
    "announce-max": 550,
    "announce-rounds": 5,
    "announce-step": 100,
    "throttle-trigger-threshold": 50,
    "cpu-throttle-initial": 20,
    "cpu-throttle-increment": 10,
    "cpu-throttle-tailslow": False,
    "max-cpu-throttle": 99,
    "tls-creds": "",
    "tls-hostname": "",
    "tls-authz": "",
    "max-bandwidth": 128 << 20,
    "max-postcopy-bandwidth": 0,
    "downtime-limit": 300,
    "x-checkpoint-delay": 20_000,
    "multifd-channels": 2,
    "multifd-compression": "none",
    "multifd-zlib-level": 1,
    "multifd-zstd-level": 1,
    "xbzrle-cache-size": 64 << 20,
}
_COMMON_CAPABILITIES = (
    *("xbzrle", "rdma-pin-all", "auto-converge", "zero-blocks", "events", "postcopy-ram", "x-colo", "release-ram"),
    *("return-path", "pause-before-switchover", "multifd", "dirty-bitmaps", "postcopy-blocktime"),
    *("late-block-activate", "x-ignore-shared", "validate-uuid", "background-snapshot", "zero-copy-send"),
    "postcopy-preempt",
)


@dataclass(frozen=True, kw_only=True)
class Release:
    """One release, as it is when it starts."""

    name: str
    version: tuple[int, int, int]
    parameters: Mapping[str, object]
    capabilities: tuple[str, ...]
    measures_milliseconds: bool
    """True if `calc-dirty-rate` takes milliseconds (since 8.2); else whole seconds."""
    syncs_periodically: bool
    """True if auto-converge syncs within iterations, too (since 9.2)."""
    tells_device: bool
    """True if every migration goes through the state `device` (since 10.0)."""


RELEASES = {
    release.name: release
    for release in (
        Release(
            name="qemu-7.2",
            version=(7, 2, 22),
            parameters=_COMMON_PARAMETERS,
            capabilities=(*_COMMON_CAPABILITIES, "compress", "block"),
            measures_milliseconds=False,
            syncs_periodically=False,
            tells_device=False,
        ),
        Release(
            name="qemu-10",
            version=(10, 0, 2),
            parameters={
                **_COMMON_PARAMETERS,
                "avail-switchover-bandwidth": 0,
                "x-vcpu-dirty-limit-period": 1000,
                "vcpu-dirty-limit": 1,
                "mode": "normal",
                "zero-page-detection": "multifd",
                "direct-io": False,
                "multifd-qatzip-level": 1,
            },
            capabilities=(*_COMMON_CAPABILITIES, "switchover-ack", "dirty-limit", "mapped-ram"),
            measures_milliseconds=True,
            syncs_periodically=True,
            tells_device=True,
        ),
    )
}
"""The releases by name."""


def find_release(name: str) -> Release:
    """Return the release of that name. Raises UsageError that names those there are."""
    if name not in RELEASES:
        raise UsageError(f"no QEMU '{name}' is modelled; there are: {', '.join(RELEASES)}")
    return RELEASES[name]
