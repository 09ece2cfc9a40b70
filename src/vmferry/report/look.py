"""How labels are told apart: each has a colour and a dash of its own, and a variant has the same ones everywhere.

A look is the number of a CSS class: `k3` stands for the fourth of COLOURS, on light and on dark paper.
"""

from collections.abc import Mapping
from importlib.resources import files
from itertools import cycle

from vmferry.convergence.variants import ALL_VARIANTS, NO_AUTO_CONVERGE, VARIANTS

COLOURS = (
    *("#0072B2", "#D55E00", "#00845C", "#B0518C", "#B97A00", "#882255", "#6F6F6F", "#A6761D"),
    *("#332288", "#2A8FC4", "#7A7A20", "#2F8C80", "#AA4499", "#117733", "#9C8A2E"),
)
"""Told apart by colour-blind people too (after Okabe and Ito, Tol). The variants have the first ones, in their order;
lines beside those have what is left: what was recorded, and further runs of one variant under other names."""
DARK_COLOURS = (
    *("#4DA8DF", "#FF8A3D", "#2FC795", "#E394C4", "#F0B440", "#D9749F", "#B4B4B4", "#D3A24A"),
    *("#9D90EE", "#7CCBF5", "#CCCC66", "#62CDBF", "#DB83CC", "#58BF75", "#DDCC77"),
)
_DASHES = ("none", "9 3", "2 3", "9 3 2 3", "14 4")
_VARIANT_LOOKS = {
    name: number
    for number, name in enumerate(
        (*VARIANTS, NO_AUTO_CONVERGE.name, *(name for name in ALL_VARIANTS if name not in VARIANTS))
    )
}
_OTHER_LOOKS = tuple(range(len(VARIANTS) + 1, len(COLOURS)))


def looks_of(variants: Mapping[str, str]) -> dict[str, int]:
    """Return the look of each label, of which the variants are known.

    That of a variant, whatever its settings, belongs to the label which is its name, or else to the first label of it.
    """
    policies = {label: without_settings(variant) for label, variant in variants.items()}
    owners: dict[str, str] = {}
    for label in sorted(policies, key=lambda label: label != policies[label]):
        owners.setdefault(policies[label], label)
    own = {owners[variant]: _VARIANT_LOOKS[variant] for variant in owners.keys() & _VARIANT_LOOKS.keys()}
    others = cycle([look for look in _OTHER_LOOKS if look not in own.values()])
    return {label: own[label] if label in own else next(others) for label in variants}


def without_settings(variant: str) -> str:
    """Return the name of a variant or policy without the settings that may stand behind it."""
    return variant.partition(" (")[0]


def style() -> str:
    """Return the style sheet of plots, on light and on dark paper."""
    rules = (files("vmferry.report") / "plot.css").read_text(encoding="utf-8")
    light = "".join(
        f".k{look}{{color:{colour}}}.line.k{look}{{stroke-dasharray:{_DASHES[look % len(_DASHES)]}}}"
        for look, colour in enumerate(COLOURS)
    )
    dark = "".join(f".k{look}{{color:{colour}}}" for look, colour in enumerate(DARK_COLOURS))
    return f"{rules}{light}\n@media(prefers-color-scheme:dark){{{dark}}}\n"
