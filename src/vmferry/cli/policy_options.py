"""The options that name a policy, and its settings, in every command that makes migrations converge."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click

from vmferry.convergence.variants import VARIANTS
from vmferry.errors import UsageError
from vmferry.simulation.own_variants import policy_variant
from vmferry.simulation.scenario import Scenario

SETTING_PREFIX = "policy."
_POLICY = "NAME|FILE.py:CLASS|MODULE:CLASS"
_Command = Callable[..., Any]


def policy_option(help: str, *, repeatable: bool = False) -> Callable[[_Command], _Command]:
    """Return a decorator that adds `--policy`, as `policies` if it may be repeated, else as `policy`."""
    name = "policies" if repeatable else "policy"
    help = f"{help} `vmferry policy list` shows those that there are."
    return click.option("--policy", name, multiple=repeatable, metavar=_POLICY, help=help)


variants_option = click.option(
    "--variant",
    "variants",
    multiple=True,
    metavar="NAME",
    help=f"Only this; repeatable: {', '.join(VARIANTS)}, or one that the scenario defines.",
)
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


def choose(
    scenarios: Iterable[Scenario], variants: Sequence[str], policies: Sequence[str], settings: Iterable[str]
) -> list[Scenario]:
    """Return the scenarios with the variants that a command is to simulate. Raises UsageError.

    The settings are those of the policies, or else of the variants of a scenario's own that were chosen.
    """
    values = policy_settings(settings)
    own = [policy_variant(policy, values) for policy in policies]
    chosen = [scenario.choosing(variants, own) for scenario in scenarios]
    if policies or not values:
        return chosen
    return [scenario.with_settings({f"{SETTING_PREFIX}{name}": values[name] for name in values}) for scenario in chosen]
