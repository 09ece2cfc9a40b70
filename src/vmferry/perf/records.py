"""Measured runs as lines of JSON, whose names have dashes."""

from typing import Any

import msgspec

from vmferry.perf.measure import PerfRun
from vmferry.study.record_file import Format


def encode(run: PerfRun) -> bytes:
    """Return the line of a run."""
    return msgspec.json.encode(_renamed(msgspec.to_builtins(run), "_", "-"))


def decode(line: bytes) -> PerfRun:
    """Return the run of a line. Raises a DecodeError of msgspec, or UsageError, for what is none."""
    return msgspec.convert(_renamed(msgspec.json.decode(line, type=dict[str, Any]), "-", "_"), PerfRun)


def _renamed(record: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    return {name.replace(old, new): value for name, value in record.items()}


FORMAT = Format(decode, encode)
