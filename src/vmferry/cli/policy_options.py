"""The options that name a policy, and its settings, in every command that makes migrations converge."""

from collections.abc import Callable, Iterable
from typing import Any

import click

from vmferry.convergence.variants import POLICY, POLICY_SETTINGS, Variant, find_variant
from vmferry.errors import UsageError
from vmferry.experiment.own_variants import OwnVariant, policy_variant
from vmferry.settings.policy_parameters import settings_text

SETTING_PREFIX = "policy."
_POLICY = "NAME|FILE.py:CLASS|MODULE:CLASS"
_Command = Callable[..., Any]


def policy_option(help: str, *, repeatable: bool = False) -> Callable[[_Command], _Command]:
    """Return a decorator that adds `--policy`, as `policies` if it may be repeated, else as `policy`."""
    name = "policies" if repeatable else "policy"
    help = f"{help} `vmferry policy list` shows those that there are."
    return click.option("--policy", name, multiple=repeatable, metavar=_POLICY, help=help)


settings_option = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="policy.NAME=VALUE",
    help="A setting of the policy; repeatable. `vmferry policy show` tells which there are.",
)


def policy_settings(settings: Iterable[str]) -> dict[str, str]:
    """Return the values that were given by `--set`, by name. Raises UsageError."""
    values: dict[str, str] = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        name = key.removeprefix(SETTING_PREFIX)
        if name == key or not name or not value or name in values:
            raise UsageError(f"--set {setting}: write policy.NAME=VALUE, and each name once")
        values[name] = value
    return values


def settings_of(policy: str | None, settings: Iterable[str]) -> dict[str, str]:
    """Return the settings of the policy that is named. Raises UsageError if none is."""
    values = policy_settings(settings)
    if values and not policy:
        raise UsageError("--set sets the policy that --policy names; give that, too")
    return values


def own_variants(policy: str | None, settings: Iterable[str]) -> list[OwnVariant]:
    """Return the variant of the policy that is named, if one is. Raises UsageError."""
    values = settings_of(policy, settings)
    return [policy_variant(policy, values)] if policy else []


def require_one_way(policy: str | None, *variants: object) -> None:
    """Raise UsageError if a policy is named and a variant, too."""
    if policy and any(variants):
        raise UsageError("--variant and --policy both say what makes the guest converge; give one of them")


def named_policy(policy: str | None, variant: str | None, settings: Iterable[str]) -> Variant | None:
    """Return what a command is to use that takes either a policy, as its user names it, or a variant; None if neither.

    Raises UsageError.
    """
    require_one_way(policy, variant)
    values = settings_of(policy, settings)
    if policy:
        return Variant(policy, {POLICY: policy, POLICY_SETTINGS: settings_text(values)})
    return find_variant(variant) if variant else None
