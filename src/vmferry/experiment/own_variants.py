"""Variants that a scenario's file defines: a policy, which may be in a file beside it, and its settings.

The text of such a file goes with the scenario, so that the policy runs wherever the scenario is simulated.
"""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from vmferry.convergence.policies.registry import PolicyKind, PolicySource, load_policy, load_source
from vmferry.convergence.variants import BACKGROUND_SYNC, DEFAULT_POLICY
from vmferry.convergence.watcher import BackgroundSync
from vmferry.errors import UsageError
from vmferry.settings.parameters import MigrationParameters
from vmferry.settings.policy_parameters import policy_label, policy_parameters

_MAX_NAME_CHARACTERS = 100


class OwnVariant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """A variant that is described in a scenario's file, and not one that vmferry has."""

    name: str
    policy: str = DEFAULT_POLICY
    """NAME, MODULE:CLASS or PATH.py:CLASS."""
    settings: dict[str, bool | int | float | str] = {}
    background_sync: BackgroundSync | None = None
    """The kind of background sync; None is that of the scenario's parameters."""
    cpu_throttle_writers: bool | None = None
    """Whether throttles are spread over vCPUs by what each dirties; None is as in the scenario's parameters."""
    digest: str | None = None
    """A digest of the policy's source. A scenario's file leaves it out, and the source as well."""
    source: PolicySource | None = None
    """Where the policy is in a file."""

    def loaded(self, directory: Path) -> "OwnVariant":
        """Return the variant with its policy, a file of which is looked for in a directory. Raises UsageError."""
        if self.source or self.digest:
            raise UsageError("digest and source are those of the policy's file; leave them out")
        if not self.name or len(self.name) > _MAX_NAME_CHARACTERS or not self.name.isprintable():
            raise UsageError(f"name has 1 to {_MAX_NAME_CHARACTERS} characters that can be printed")
        kind = load_policy(self.policy, directory)
        return msgspec.structs.replace(self, digest=kind.digest, source=kind.source)

    def parameters(self) -> dict[str, object]:
        """Return the migration parameters that make it up. Raises UsageError."""
        ways = {
            BACKGROUND_SYNC: None if self.background_sync is None else self.background_sync.value,
            "cpu-throttle-writers": self.cpu_throttle_writers,
        }
        given = {name: value for name, value in ways.items() if value is not None}
        return {**policy_parameters(self._kind(), self.settings), **given}

    def _kind(self) -> PolicyKind:
        """Return the policy, as it was when the scenario was read."""
        kind = load_source(self.source) if self.source else load_policy(self.policy)
        if kind.digest != self.digest:
            raise UsageError(f"the policy '{self.policy}' is another one here than where the scenario was read")
        return kind


def policy_variant(policy: str, settings: Mapping[str, str]) -> OwnVariant:
    """Return the variant of a policy that a user names, under a name that tells it from others. Raises UsageError."""
    variant = OwnVariant(name=policy, policy=policy, settings=dict(settings)).loaded(Path())
    parameters = variant.parameters()
    MigrationParameters().changed(parameters)
    return msgspec.structs.replace(variant, name=policy_label(parameters, variant.digest))
