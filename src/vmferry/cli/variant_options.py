"""The options that choose among the variants of scenarios, in the commands that simulate several."""

from collections.abc import Iterable, Sequence

import click

from vmferry.cli.policy_options import SETTING_PREFIX, policy_settings
from vmferry.convergence.variants import ALL_VARIANTS
from vmferry.simulation.own_variants import policy_variant
from vmferry.simulation.scenario import Scenario

variants_option = click.option(
    "--variant",
    "variants",
    multiple=True,
    metavar="NAME",
    help=f"Only this; repeatable: {', '.join(ALL_VARIANTS)}, or one that the scenario defines; all for all of them.",
)


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
