"""The one table of migration parameters; QMP, HMP, the command line and the docs are made from it.

Names, types, defaults, ranges and texts are QEMU's (`migration/options.c`, `qapi/migration.json`).
The field `max_bandwidth` is the QMP parameter `max-bandwidth`. Parameters that QEMU does not have
say so in their help; those that only experiments change begin with `x-`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import msgspec

from vmferry.convergence.brain import Rules
from vmferry.convergence.limits import MAX_DOWNTIME_MS, NO_LIMITS, Limits
from vmferry.convergence.policies.registry import find_policy
from vmferry.convergence.watcher import BackgroundSync, WatchTimes
from vmferry.errors import UsageError
from vmferry.settings.choices import MultiFdCompression, Rearm
from vmferry.settings.inert_parameters import INERT_PARAMETERS
from vmferry.settings.parameter_spec import ParameterSpec, range_error
from vmferry.settings.qapi_types import UINT64_MAX
from vmferry.units import NS_PER_MS

_COMPRESSIONS = (MultiFdCompression.NONE, MultiFdCompression.ZSTD, MultiFdCompression.AUTO)
_DOWNTIMES_UNTIL_TIMEOUT = 10
_MIN_SWITCHOVER_TIMEOUT_MS = 10_000
_MIN_LINK_PATIENCE_MS = 500
_PERIODS_OF_LINK_PATIENCE = 2


def _integer(
    default: int,
    qapi_type: str,
    help: str,
    minimum: int = 0,
    maximum: int = UINT64_MAX,
    phrase: str = "",
    unit: str = "",
) -> Any:
    return field(
        default=default,
        metadata={
            "qapi_type": qapi_type,
            "help": help,
            "minimum": minimum,
            "maximum": maximum,
            "phrase": phrase or f"an integer in the range of {minimum} to {maximum}",
            "unit": unit,
        },
    )


def _other(default: object, qapi_type: str, help: str) -> Any:
    return field(default=default, metadata={"qapi_type": qapi_type, "help": help})


@dataclass(frozen=True, kw_only=True)
class MigrationParameters:
    """The values in force; immutable, a change makes a new one."""

    throttle_trigger_threshold: int = _integer(
        50, "uint8", "share of the sent bytes that a period may dirty before it counts as high", 1, 100
    )
    cpu_throttle_initial: int = _integer(20, "uint8", "first step of the CPU throttle", 1, 99)
    cpu_throttle_increment: int = _integer(10, "uint8", "further steps of the CPU throttle", 1, 99)
    cpu_throttle_tailslow: bool = _other(False, "bool", "make smaller steps near the end of the ladder")
    cpu_responsive_throttle: bool = _other(
        False, "bool", "throttle as soon as the dirty ratio stays high, too (the seed)"
    )
    cpu_throttle_writers: bool = _other(
        False,
        "bool",
        "slow the vCPUs that dirty memory and not the others, as much as has the same effect (not in QEMU)",
    )
    max_cpu_throttle: int = _integer(
        99, "uint8", "the CPU throttle never exceeds this", 1, 99,
        phrase="an integer in the range of cpu_throttle_initial to 99",
    )  # fmt: skip
    max_bandwidth: int = _integer(128 << 20, "size", "rate limit while the guest runs, 0 for none", unit="bytes/second")
    avail_switchover_bandwidth: int = _integer(
        0, "size", "bandwidth to plan the switchover with, 0 to use what is measured", unit="bytes/second"
    )
    downtime_limit: int = _integer(
        300, "uint64", "the guest may be stopped this long", 0, MAX_DOWNTIME_MS,
        phrase="an integer in the range of 0 to (2000 * 1000) ms", unit="ms",
    )  # fmt: skip
    switchover_timeout: int = _integer(
        0, "uint64", "a guest that was stopped this long and is not handed over runs on where it was; "
        "0 for ten times downtime-limit, or what the rest is expected to take if that is more, but at least 10 s "
        "(not in QEMU)",
        0, 2_000_000, unit="ms",
    )  # fmt: skip
    multifd_channels: int = _integer(
        2, "uint8", "over how many connections pages go if the capability multifd is on", 1, 255,
        phrase="a value between 1 and 255",
    )  # fmt: skip
    multifd_compression: MultiFdCompression = _other(
        MultiFdCompression.NONE,
        "enum",
        "how pages are compressed, over any number of connections: not, by zstd, or by whichever of the two is faster "
        "as measured (auto, not in QEMU)",
    )
    multifd_zstd_level: int = _integer(
        1, "uint8", "level of zstd compression", 0, 20, phrase="a value between 0 and 20"
    )
    xbzrle_cache_size: int = _integer(
        64 << 20, "size", "how much of what was sent is kept if the capability xbzrle is on, to send only what changes",
        4096, phrase="a power of two no less than the target page size", unit="bytes",
    )  # fmt: skip
    stall_timeout: int = _integer(
        120_000, "uint64", "a migration whose link has stood still this long while the guest runs is given up; "
        "0 for never (not in QEMU)",
        0, 2_000_000, unit="ms",
    )  # fmt: skip
    background_sync: BackgroundSync = _other(
        BackgroundSync.PRESERVE,
        "enum",
        "what auto-converge does inside long iterations: nothing, the seed's background sync, "
        "or QEMU 9.2's periodic sync (not in QEMU)",
    )
    convergence_policy: str = _other(
        "auto-converge", "str", "name of the policy that decides the throttle (not in QEMU)"
    )
    policy_settings: str = _other(
        "", "str", "settings of that policy, where they are no parameters: name=value,name=value (not in QEMU)"
    )
    verify: bool = _other(
        False,
        "bool",
        "compare a digest of all memory on both sides before the hand-over, whatever that costs (not in QEMU)",
    )
    auto_verify: bool = _other(
        True, "bool", "do so where it fits into downtime-limit beside the rest, as measured (not in QEMU)"
    )
    token_file: str = _other(
        "", "str", "file with a secret that both sides must know; no secret if empty (not in QEMU)"
    )
    tls_creds: str = _other(
        "", "StrOrNull", "directory with the certificates for TLS, by QEMU's file names; no TLS if empty"
    )
    tls_hostname: str = _other(
        "", "StrOrNull", "name that the certificate of the destination must be for; empty for its host in the URI"
    )
    tls_authz: str = _other(
        "",
        "StrOrNull",
        "names of which a source's certificate must have one: name,name; empty for all",
    )
    x_evaluation_period: int = _integer(
        1000,
        "uint64",
        "shortest time between two evaluations of dirty syncs (not in QEMU)",
        1,
        2_000_000,
        unit="ms",
    )
    x_watch_interval: int = _integer(
        1000,
        "uint64",
        "how often to look whether a background sync is due (not in QEMU)",
        1,
        2_000_000,
        unit="ms",
    )
    x_background_sync_interval: int = _integer(
        5000, "uint64", "time without an evaluation that calls for a background sync (not in QEMU)",
        1, 2_000_000, unit="ms",
    )  # fmt: skip

    x_dirty_log_rearm: Rearm = _other(
        Rearm.LATE,
        "enum",
        "when a written page is logged anew: late, just before it is sent, or early, at every sync, after which a page "
        "that is written while it waits is sent twice (not in QEMU)",
    )

    def changed(self, values: Mapping[str, object]) -> "MigrationParameters":
        """Return a copy with the parameters of these QMP names set; or UsageError, and nothing is."""
        checked = {name: find_parameter(name).check(value) for name, value in values.items()}
        ours: dict[str, Any] = {PARAMETERS[name].attribute: checked[name] for name in checked if name in PARAMETERS}
        merged = replace(self, **ours)
        merged._check_together()
        return merged

    def as_qmp(self) -> dict[str, object]:
        """Return every value under its QMP name."""
        return {name: getattr(self, spec.attribute) for name, spec in PARAMETERS.items()}

    def rules(self, limits: Limits = NO_LIMITS) -> Rules:
        """Return the values that the brain and its policy obey."""
        return Rules(
            evaluation_period_ns=self.x_evaluation_period * NS_PER_MS,
            max_throttle_percent=self.max_cpu_throttle,
            policy_settings=self._policy_settings(),
            limits=limits,
        )

    @property
    def downtime_limit_ns(self) -> int:
        """How long the guest may be stopped."""
        return self.downtime_limit * NS_PER_MS

    def switchover_timeout_ns(self, rest_ns: int = 0) -> int:
        """How long a stopped guest waits to be handed over, where sending the rest is expected to take so long."""
        downtime_ns = max(self.downtime_limit_ns, rest_ns)
        derived_ns = max(_DOWNTIMES_UNTIL_TIMEOUT * downtime_ns, _MIN_SWITCHOVER_TIMEOUT_MS * NS_PER_MS)
        return self.switchover_timeout * NS_PER_MS or derived_ns

    @property
    def stall_timeout_ns(self) -> int:
        """How long a link that stands still is waited for; 0 for ever."""
        return self.stall_timeout * NS_PER_MS

    @property
    def link_patience_ns(self) -> int:
        """How long nothing may be sent before the link counts as standing still."""
        return max(_PERIODS_OF_LINK_PATIENCE * self.x_evaluation_period, _MIN_LINK_PATIENCE_MS) * NS_PER_MS

    @property
    def allowed_names(self) -> frozenset[str]:
        """The names in `tls-authz`."""
        return frozenset(name.strip() for name in self.tls_authz.split(",") if name.strip())

    def watch_times(self) -> WatchTimes:
        """Return the constants of time of the background-sync watcher."""
        return WatchTimes(
            look_interval_ns=self.x_watch_interval * NS_PER_MS,
            sync_interval_ns=self.x_background_sync_interval * NS_PER_MS,
        )

    def _check_together(self) -> None:
        if self.max_cpu_throttle < self.cpu_throttle_initial:
            raise UsageError(PARAMETERS["max-cpu-throttle"].range_error)
        if self.multifd_compression not in _COMPRESSIONS:
            raise UsageError(
                f"Parameter 'multifd-compression' does not support '{self.multifd_compression}' here; "
                f"use {', '.join(_COMPRESSIONS)}"
            )
        if self.xbzrle_cache_size.bit_count() != 1:
            raise UsageError(PARAMETERS["xbzrle-cache-size"].range_error)
        self._policy_settings()

    def _policy_settings(self) -> msgspec.Struct:
        ours = {field.name: getattr(self, field.name) for field in fields(self)}
        return find_policy(self.convergence_policy).settings(self.policy_settings, ours)


def _make_spec(attribute: str, default: object, metadata: Mapping[str, Any]) -> ParameterSpec:
    name = attribute.replace("_", "-")
    row = {key: value for key, value in metadata.items() if key != "phrase"}
    error = range_error(name, metadata.get("phrase", ""))
    return ParameterSpec(name=name, default=default, range_error=error, **row)


PARAMETERS: dict[str, ParameterSpec] = {
    spec.name: spec for spec in (_make_spec(f.name, f.default, f.metadata) for f in fields(MigrationParameters))
}
"""Every parameter that has an effect, by its QMP name, in the order of the table."""


def find_parameter(name: str) -> ParameterSpec:
    """Return the row of that QMP name, inert ones included. Raises UsageError for an unknown name."""
    spec = PARAMETERS.get(name) or INERT_PARAMETERS.get(name)
    if not spec:
        raise UsageError(f"Parameter '{name}' is unexpected")
    return spec
