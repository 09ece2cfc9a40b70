"""What a policy is: one class with `look`, made afresh for each migration."""

from collections.abc import Iterable
from typing import Any, ClassVar, Protocol

from vmferry.convergence.actions import Action
from vmferry.convergence.sensing import Body, View


class Policy(Protocol):
    """Decides how one migration is made to converge.

    The brain shows it every evaluated period, and between them looks about ten times per second or more often.
    """

    Settings: ClassVar[type]
    """A frozen msgspec.Struct: what users can set, with defaults, ranges and help. A field that is called like a
    migration parameter, with underscores, has that parameter's value."""
    needs: ClassVar[Body]
    """What a body has to be able to do; others refuse the policy before anything begins."""

    def look(self, view: View, settings: Any) -> Iterable[Action]:
        """Return what to do now, if anything. `settings`, which may change while a migration runs, is a `Settings`."""
        ...
