"""How labels are told apart: a policy has one colour everywhere, and its labels have dashes of their own.

A look is the number of a CSS class. `k3` stands for the fourth of COLOURS, on light and on dark paper, and so do those
that come round to it, with other dashes.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.resources import files
from itertools import cycle

from vmferry.convergence.variants import ALL_VARIANTS, NO_AUTO_CONVERGE, VARIANTS

COLOURS = (
    *("#0072B2", "#D55E00", "#00845C", "#B0518C", "#B97A00", "#882255", "#6F6F6F", "#A6761D"),
    *("#332288", "#2A8FC4", "#7A7A20", "#2F8C80", "#AA4499", "#117733", "#9C8A2E"),
)
"""Told apart by colour-blind people too (after Okabe and Ito, Tol). The variants have the first ones, in their order,
and policies beside those what is left."""
DARK_COLOURS = (
    *("#4DA8DF", "#FF8A3D", "#2FC795", "#E394C4", "#F0B440", "#D9749F", "#B4B4B4", "#D3A24A"),
    *("#9D90EE", "#7CCBF5", "#CCCC66", "#62CDBF", "#DB83CC", "#58BF75", "#DDCC77"),
)
_DASHES = ("none", "9 3", "2 3", "9 3 2 3", "14 4", "5 5", "14 4 2 4")
"""So many that each colour comes round with each of them."""
LOOKS = range(len(COLOURS) * len(_DASHES))
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
    names = dict.fromkeys(policies.values())
    known = {name: _VARIANT_LOOKS[name] for name in names if name in _VARIANT_LOOKS}
    others = cycle([look for look in _OTHER_LOOKS if look not in known.values()])
    colours = {name: known[name] if name in known else next(others) for name in names}
    before: Counter[int] = Counter()
    looks = {}
    for label in sorted(policies, key=lambda label: label != policies[label]):
        colour = colours[policies[label]]
        looks[label] = (colour + before[colour] * len(COLOURS)) % len(LOOKS)
        before[colour] += 1
    return {label: looks[label] for label in variants}


def without_settings(variant: str) -> str:
    """Return the name of a variant or policy without the settings that may stand behind it."""
    return variant.partition(" (")[0]


def style() -> str:
    """Return the style sheet of plots, on light and on dark paper."""
    rules = (files("vmferry.report") / "plot.css").read_text(encoding="utf-8")
    light = "".join(map(_colour, range(len(COLOURS)), COLOURS))
    dark = "".join(map(_colour, range(len(COLOURS)), DARK_COLOURS))
    dashes = "".join(
        f"{_classes(LOOKS[number :: len(_DASHES)], '.line')}{{stroke-dasharray:{dash}}}"
        for number, dash in enumerate(_DASHES)
    )
    return f"{rules}{light}{dashes}\n@media(prefers-color-scheme:dark){{{dark}}}\n"


def _colour(number: int, colour: str) -> str:
    return f"{_classes(LOOKS[number :: len(COLOURS)])}{{color:{colour}}}"


def _classes(looks: Sequence[int], also: str = "") -> str:
    return ",".join(f"{also}.k{look}" for look in looks)
