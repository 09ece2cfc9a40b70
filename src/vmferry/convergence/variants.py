"""The variants that are compared everywhere: a variant is a name for a set of migration parameters."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from vmferry.convergence.policies.registry import BUILT_IN, DIGEST_CHARACTERS
from vmferry.convergence.watcher import BackgroundSync
from vmferry.errors import UsageError

POLICY, POLICY_SETTINGS = "convergence-policy", "policy-settings"
"""The parameters that name a policy and give it settings."""
BACKGROUND_SYNC = "background-sync"
DEFAULT_POLICY = "auto-converge"
_DEFAULTS: Mapping[str, object] = {
    POLICY: DEFAULT_POLICY,
    POLICY_SETTINGS: "",
    BACKGROUND_SYNC: BackgroundSync.PRESERVE,
}


@dataclass(frozen=True)
class Variant:
    """How a migration is made to converge."""

    name: str
    settings: Mapping[str, object] = field(default_factory=dict)
    """The parameters that it stands for, by their QMP names."""
    auto_converge: bool = True
    """Whether the capability of that name is on; without it nobody decides."""

    @property
    def background_sync(self) -> BackgroundSync:
        """What it does inside long iterations."""
        return BackgroundSync(str(self.settings.get(BACKGROUND_SYNC, BackgroundSync.PRESERVE)))

    @property
    def is_qemus(self) -> bool:
        """True if a QEMU before 9.2 does the same by itself."""
        return (
            self.background_sync is BackgroundSync.OFF and self.settings.get(POLICY, DEFAULT_POLICY) == DEFAULT_POLICY
        )

    def named(self, resolve: Callable[[str], str]) -> dict[str, object]:
        """Return the settings, with the name of the policy, if there is one, as `resolve` gives it."""
        return {name: resolve(str(value)) if name == POLICY else value for name, value in self.settings.items()}


def auto_converge_variant(name: str, background_sync: BackgroundSync, *, responsive: bool) -> Variant:
    """Return a variant of auto-converge, QEMU's or the patch series'."""
    return Variant(name, {BACKGROUND_SYNC: background_sync.value, "cpu-responsive-throttle": responsive})


VARIANTS = {
    variant.name: variant
    for variant in (
        auto_converge_variant("original", BackgroundSync.OFF, responsive=False),
        auto_converge_variant("background-sync", BackgroundSync.PRESERVE, responsive=False),
        auto_converge_variant("background-sync+responsive-throttle", BackgroundSync.PRESERVE, responsive=True),
        auto_converge_variant("periodic-sync", BackgroundSync.MERGE, responsive=False),
    )
}
"""The variants of the patch series and of QEMU >= 9.2, by name."""


VARIANT_PARAMETERS = frozenset(VARIANTS["original"].settings) | {POLICY, POLICY_SETTINGS}
"""The parameters that tell variants from each other."""


def field_variant(
    name: str, policy: str, background_sync: BackgroundSync = BackgroundSync.OFF, settings: str = ""
) -> Variant:
    """Return a variant of another system's policy."""
    return Variant(name, {"background-sync": background_sync.value, POLICY: policy, POLICY_SETTINGS: settings})


FIELD_VARIANTS = {
    variant.name: variant
    for variant in (
        field_variant("kubevirt", "kubevirt"),
        field_variant("kubevirt-disruptive", "kubevirt", settings="allow_workload_disruption=true"),
        field_variant("ovirt", "ovirt"),
        field_variant("ovirt-suspend", "ovirt", settings="last_downtime=5000"),
        field_variant("nova", "nova"),
        field_variant("proxmox", "proxmox", BackgroundSync.MERGE),
        field_variant("pause-resume", "pause-resume"),
    )
}
"""How other systems do it, by name; run where they are asked for. Proxmox has a QEMU that makes background syncs."""

PLANNED = field_variant("planned", "planned", BackgroundSync.PRESERVE)
"""Ours that plans ahead instead of reacting."""

ALL_VARIANTS = {**VARIANTS, PLANNED.name: PLANNED, **FIELD_VARIANTS}
"""Those that make a guest converge, by name."""

NO_AUTO_CONVERGE = Variant("no-auto-converge", auto_converge=False)
"""What they are compared with: the guest is not slowed."""


SHORT_NAMES = {
    "background": "background-sync",
    "responsive": "background-sync+responsive-throttle",
    "periodic": "periodic-sync",
}
"""Names that people may write for longer ones."""


def full_name(name: str) -> str:
    """Return the name of a variant, for which a short one may stand."""
    return SHORT_NAMES.get(name, name)


def find_variant(name: str) -> Variant:
    """Return the variant of that name, which may be a short one. Raises UsageError for an unknown one."""
    name = full_name(name)
    if name == NO_AUTO_CONVERGE.name:
        return NO_AUTO_CONVERGE
    if name not in ALL_VARIANTS:
        raise UsageError(f"no variant '{name}'; there are: {', '.join((*ALL_VARIANTS, NO_AUTO_CONVERGE.name))}")
    return ALL_VARIANTS[name]


def label_of(parameters: Mapping[str, object], digest: str | None = None) -> str:
    """Return the name of the variant that these parameters make, or else what tells their policy from others.

    `digest` is that of the policy's source, if it is known. A policy of somebody's own has it in its label.
    """
    named = {**_DEFAULTS, **parameters}
    for variant in ALL_VARIANTS.values():
        if all(named.get(name) == value for name, value in {**_DEFAULTS, **variant.settings}.items()):
            return variant.name
    policy = str(named[POLICY])
    if policy == DEFAULT_POLICY:
        return "unnamed variant"
    if policy not in BUILT_IN and "@" not in policy and digest:
        policy = f"{policy}@{digest[:DIGEST_CHARACTERS]}"
    settings = [setting for setting in str(named[POLICY_SETTINGS]).split(",") if setting]
    if named[BACKGROUND_SYNC] != BackgroundSync.PRESERVE or (policy in ALL_VARIANTS and not settings):
        settings.append(f"{BACKGROUND_SYNC}={named[BACKGROUND_SYNC]}")
    return f"{policy} ({', '.join(settings)})" if settings else policy
