"""A throttle that is held from some pass on, to find out what throttles can do at all."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, ClassVar

import msgspec

from vmferry.convergence.actions import Action, Throttle
from vmferry.convergence.sensing import Body, View
from vmferry.experiment.own_variants import OwnVariant


class HeldSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Which throttle, and since when."""

    percent: Annotated[int, msgspec.Meta(ge=0, le=99)]
    from_pass: Annotated[int, msgspec.Meta(ge=1)] = 1


class Held:
    """Never changes it again."""

    Settings: ClassVar[type] = HeldSettings
    needs: ClassVar[Body] = Body.THROTTLE

    def look(self, view: View, settings: HeldSettings) -> Iterable[Action]:
        """Begin with it at its pass."""
        if view.sensed.iteration_count >= settings.from_pass and view.throttle_percent != settings.percent:
            yield Throttle(percent=settings.percent, reason="held")


def held(percent: int, from_pass: int = 1) -> OwnVariant:
    """Return it as a variant."""
    settings: dict[str, bool | int | float | str] = {"percent": percent, "from_pass": from_pass}
    variant = OwnVariant(name=f"{percent} % from pass {from_pass} on", policy=f"{__name__}:Held", settings=settings)
    return variant.loaded(Path())
