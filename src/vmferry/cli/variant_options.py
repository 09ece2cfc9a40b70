"""The options that choose among the variants of scenarios, in the commands that simulate several."""

from collections.abc import Iterable, Sequence

import click

from vmferry.cli.policy_options import SETTING_PREFIX, policy_settings
from vmferry.convergence.variants import ALL_VARIANTS
from vmferry.experiment.experiment import Experiment
from vmferry.experiment.own_variants import policy_variant
from vmferry.simulation.qemu.releases import RELEASES

driven_option = click.option(
    "--driven",
    type=click.Choice(list(RELEASES)),
    help="Run the guest in a modelled QEMU, and have the driver of `migrate` make it converge from outside.",
)
variants_option = click.option(
    "--variant",
    "variants",
    multiple=True,
    metavar="NAME",
    help=f"Only this; repeatable: {', '.join(ALL_VARIANTS)}, or one that the scenario defines; all for all of them.",
)


def choose(
    scenarios: Iterable[Experiment],
    variants: Sequence[str],
    policies: Sequence[str],
    settings: Iterable[str],
    driven: str | None = None,
) -> list[Experiment]:
    """Return the scenarios with the variants that a command is to simulate, and the QEMU. Raises UsageError.

    The settings are those of the policies, or else of the variants of a scenario's own that were chosen.
    """
    if driven:
        scenarios = [scenario.driven_by(driven) for scenario in scenarios]
    values = policy_settings(settings)
    own = [policy_variant(policy, values) for policy in policies]
    chosen = [scenario.choosing(variants, own) for scenario in scenarios]
    if policies or not values:
        return chosen
    return [scenario.with_settings({f"{SETTING_PREFIX}{name}": values[name] for name in values}) for scenario in chosen]
