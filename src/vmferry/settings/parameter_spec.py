"""What one migration parameter accepts, and what is said of a value that it does not accept."""

from dataclasses import dataclass
from enum import StrEnum

from vmferry.errors import UsageError
from vmferry.settings.qapi_types import UNSIGNED_MAX, check_builtin, check_word


@dataclass(frozen=True, kw_only=True)
class ParameterSpec:
    """One row of a parameter table, under its QMP name."""

    name: str
    qapi_type: str
    """bool, str, StrOrNull, enum, uint8, uint32, uint64, size or list."""
    default: object
    help: str
    unit: str = ""
    """As HMP prints it after the value; empty if there is none."""
    minimum: int = 0
    maximum: int = 0
    range_error: str = ""
    """The text for an integer outside of minimum..maximum."""

    @property
    def attribute(self) -> str:
        """The Python name, which QEMU's range errors use too."""
        return self.name.replace("-", "_")

    @property
    def choices(self) -> tuple[str, ...]:
        """The words an enum accepts; empty for other types."""
        return tuple(type(self.default)) if isinstance(self.default, StrEnum) else ()

    def check(self, value: object) -> object:
        """Return `value` in the parameter's Python type. Raises UsageError with QEMU's text."""
        if value is None and self.qapi_type == "StrOrNull":
            return ""  # how QMP clients reset a text
        if isinstance(self.default, StrEnum):
            check_word(self.name, self.choices, value)
            return type(self.default)(str(value))
        check_builtin(self.name, self.qapi_type, value)
        if self.qapi_type in UNSIGNED_MAX:
            assert isinstance(value, int)
            if not self.minimum <= value <= self.maximum:
                raise UsageError(self.range_error)
        return value


@dataclass(frozen=True, kw_only=True)
class InertParameter(ParameterSpec):
    """A parameter of QEMU's that has no effect here, so it cannot be changed."""

    refusal: str
    """The text for a value that QEMU would accept."""

    def check(self, value: object) -> object:
        """Return the default. Raises UsageError for every other value."""
        checked = super().check(value)
        if checked != self.default:
            raise UsageError(self.refusal)
        return checked


def range_error(name: str, phrase: str) -> str:
    """Return QEMU's text for a value out of range."""
    return f"Parameter '{name.replace('-', '_')}' expects {phrase}"
