"""The variants that are compared everywhere: a variant is a name for a set of migration parameters."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from vmferry.convergence.watcher import BackgroundSync
from vmferry.errors import UsageError

POLICY, POLICY_SETTINGS = "convergence-policy", "policy-settings"
"""The parameters that name a policy and give it settings."""
DEFAULT_POLICY = "auto-converge"


@dataclass(frozen=True)
class Variant:
    """How a migration is made to converge; auto-converge is on in all of them."""

    name: str
    settings: Mapping[str, object] = field(default_factory=dict)
    """The parameters that make it up, by their QMP names."""

    @property
    def background_sync(self) -> BackgroundSync:
        """What it does inside long iterations."""
        return BackgroundSync(str(self.settings.get("background-sync", BackgroundSync.PRESERVE)))


def auto_converge_variant(name: str, background_sync: BackgroundSync, *, responsive: bool) -> Variant:
    """Return a variant of auto-converge, QEMU's or the patch series'."""
    return Variant(name, {"background-sync": background_sync.value, "cpu-responsive-throttle": responsive})


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


def find_variant(name: str) -> Variant:
    """Return the variant of that name. Raises UsageError for an unknown one."""
    if name not in VARIANTS:
        raise UsageError(f"no variant '{name}'; there are: {', '.join(VARIANTS)}")
    return VARIANTS[name]


def label_of(parameters: Mapping[str, object]) -> str:
    """Return the name of the variant that these parameters make, or else that of their policy."""
    policy = parameters.get(POLICY, DEFAULT_POLICY)
    named = {POLICY: policy, **parameters}
    for variant in VARIANTS.values():
        wanted = {POLICY: DEFAULT_POLICY, **variant.settings}
        if all(named.get(name) == value for name, value in wanted.items()):
            return variant.name
    return "unnamed variant" if policy == DEFAULT_POLICY else str(policy)
