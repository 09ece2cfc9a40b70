"""Parameter values as people type them in HMP (QEMU `hmp_migrate_set_parameter`)."""

import re
from fractions import Fraction

from vmferry.errors import UsageError
from vmferry.monitor.hmp import BadLineError
from vmferry.settings.parameter_spec import ParameterSpec
from vmferry.settings.qapi_types import UINT64_MAX

_MAX_CHARACTERS = 40
"""No number that means something is longer; turning digits into numbers takes quadratic time."""

_INTEGER = re.compile(r"[+-]?(?:0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)")
_SIZE = re.compile(
    r"\+?(?:0[xX](?P<hexadecimal>[0-9a-fA-F]+)|(?P<whole>[0-9]+)(?P<fraction>\.[0-9]*)?(?P<suffix>[BKMGTPE]?))",
    re.IGNORECASE,
)
_UNITS = {suffix: 1024**power for power, suffix in enumerate("BKMGTPE")}
_SUFFIX_HINT = "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively."
_TRUTH = {"on": True, "yes": True, "true": True, "y": True, "off": False, "no": False, "false": False, "n": False}
_IN_MEBIBYTES = frozenset({"max-bandwidth", "avail-switchover-bandwidth"})
"""A plain number means MiB here, and bytes for all other sizes."""


def parse_value(spec: ParameterSpec, text: str) -> object:
    """Return what `text` means for a parameter. Raises UsageError with QEMU's text."""
    match spec.qapi_type:
        case "bool":
            return _truth(spec.name, text)
        case "size" | "uint64":
            return _bandwidth(text) if spec.name in _IN_MEBIBYTES else _size(spec.name, text)
        case "uint8" | "uint32":
            return _integer(spec.name, text)
        case "list":
            raise UsageError(f"The {spec.name} parameter can only be set through QMP")
        case _:
            return text


def parse_expression(text: str) -> int:
    """Return an integer where QEMU takes an expression of them. Raises BadLineError with QEMU's text."""
    if not _INTEGER.fullmatch(text):
        stray = re.sub(r"^-?[0-9]*", "", text)[:1]
        raise BadLineError(f"invalid char '{stray}' in expression" if stray else "unexpected end of expression")
    if len(text) > _MAX_CHARACTERS:
        raise BadLineError("number too large")
    return _int(text)


def _truth(name: str, text: str) -> bool:
    if text not in _TRUTH:
        raise UsageError(f"Parameter '{name}' expects 'on' or 'off'")
    return _TRUTH[text]


def _integer(name: str, text: str) -> int:
    if len(text) > _MAX_CHARACTERS or not _INTEGER.fullmatch(text):
        raise UsageError(f"Parameter '{name}' expects uint64")
    return _int(text)


def _int(text: str) -> int:
    """Return an integer as C reads it: hexadecimal after 0x, octal after 0."""
    digits = text.lstrip("+-")
    base = 16 if digits[:2].lower() == "0x" else 8 if digits.startswith("0") else 10
    return int(text, base)


def _size(name: str, text: str) -> int:
    size = _bytes(text, 1)
    if size is None:
        raise UsageError(f"Parameter '{name}' expects a non-negative number below 2^64\n{_SUFFIX_HINT}")
    if size > UINT64_MAX:
        raise UsageError(f"Value '{text}' is out of range for parameter '{name}'")
    return size


def _bandwidth(text: str) -> int:
    size = _bytes(text, _UNITS["M"])
    if size is None or size > UINT64_MAX:
        raise UsageError(f"Invalid size {text}")
    return size


def _bytes(text: str, plain_unit: int) -> int | None:
    """Return a size in bytes, or None if the text is none; there are no fractions of a byte."""
    match = _SIZE.fullmatch(text) if len(text) <= _MAX_CHARACTERS else None
    if not match:
        return None
    if match["hexadecimal"]:
        return int(match["hexadecimal"], 16) * plain_unit
    unit = _UNITS[match["suffix"].upper()] if match["suffix"] else plain_unit
    fraction = Fraction(f"0{match['fraction'] or ''}")
    if fraction and unit == 1:
        return None
    return int(match["whole"]) * unit + round(fraction * unit)
