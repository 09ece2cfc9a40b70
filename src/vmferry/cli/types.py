"""Option types: sizes, rates and durations as people write them."""

from collections.abc import Callable
from pathlib import Path

import click

from vmferry.errors import UsageError
from vmferry.units import (
    NS_PER_MS,
    GuestLoss,
    parse_duration_ns,
    parse_guest_loss,
    parse_rate,
    parse_size,
    require_unit,
)


class _Parsed(click.ParamType[int]):
    def __init__(self, name: str, parse: Callable[[str], int]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return self._parse(str(value))
        except UsageError as error:
            self.fail(str(error), param, ctx)


class _GuestLossType(click.ParamType[GuestLoss]):
    name = "percent or vcpu time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> GuestLoss:
        try:
            return parse_guest_loss(str(value))
        except UsageError as error:
            self.fail(str(error), param, ctx)


class _FileOrNone(click.ParamType[str]):
    """The absolute path of a file, as another process is to open it; an empty text stays empty."""

    name = "path"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return str(Path(str(value)).absolute()) if value else ""


class _DirectoryOrId(click.ParamType[str]):
    """The absolute path of a directory that is there; any other text, such as the id of an object of QEMU's, as is."""

    name = "directory"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        path = Path(str(value))
        return str(path.absolute()) if value and path.is_dir() else str(value)


FILE_OR_NONE = _FileOrNone()
DIRECTORY_OR_ID = _DirectoryOrId()
GUEST_LOSS = _GuestLossType()
"""A share of the guest's work, written like 30%, or vCPU time, written like 90s."""


SIZE_WITH_UNIT = _Parsed("size", lambda text: parse_size(require_unit(text, "1G")))
"""Bytes, written like 2G or 512MiB. A plain number is refused, as other programs mean something else by it."""

RATE_WITH_UNIT = _Parsed("rate", lambda text: parse_rate(require_unit(text, "500MiB/s")))
"""Bytes per second, written like 200MiB/s or 1.59Gbit/s. A plain number is refused, too."""

DURATION_MS = _Parsed("duration", lambda text: parse_duration_ns(text) // NS_PER_MS)
"""Milliseconds, written like 500ms or 2s."""
