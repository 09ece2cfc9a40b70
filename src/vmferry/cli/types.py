"""Option types: sizes, rates and durations as people write them."""

from collections.abc import Callable

import click

from vmferry.errors import UsageError
from vmferry.units import parse_duration_ns, parse_rate, parse_size


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


SIZE = _Parsed("size", parse_size)
"""Bytes, written like 2G or 512MiB."""

RATE = _Parsed("rate", parse_rate)
"""Bytes per second, written like 200MiB/s or 1.59Gbit/s."""

DURATION_MS = _Parsed("duration", lambda text: parse_duration_ns(text) // 1_000_000)
"""Milliseconds, written like 500ms or 2s."""
