"""Scenario files: an experiment in TOML.

Sizes, rates and times are written as people write them. A file may come from anyone: unknown keys, wrong types and
values that cannot be are refused with the name of the file and the key.
"""

import stat
import tomllib
from collections.abc import Iterable, Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import msgspec

from vmferry.errors import UsageError
from vmferry.experiment.dirty_trace import read_trace
from vmferry.experiment.experiment import Experiment, experiment_of
from vmferry.experiment.own_variants import OwnVariant
from vmferry.experiment.parts import LoadSpec
from vmferry.experiment.quantities import telling
from vmferry.migration.journal import read_migration

MAX_FILE_BYTES = 1 << 20


def load_scenario(path: Path | str) -> Experiment:
    """Return the scenario in a TOML file, or where there is none, the one of that name that comes along.

    Raises UsageError that names the file and what is wrong with it.
    """
    if str(path) in (seeds := _seed_files()) and not Path(path).exists():
        return parse_scenario(seeds[str(path)].read_bytes(), str(path))
    path = Path(path)
    return parse_scenario(read_small_file(path, "scenario"), str(path), path.parent)


def load_scenarios(paths: Iterable[Path | str]) -> list[Experiment]:
    """Return the scenarios in TOML files, as `load_scenario` does.

    Raises UsageError also where two that differ have one name: their results could not be told apart.
    """
    scenarios: dict[str, Experiment] = {}
    for path in paths:
        scenario = load_scenario(path)
        if scenarios.setdefault(scenario.name, scenario) != scenario:
            raise UsageError(f"{path}: another scenario has the same name; give each a name of its own")
    return list(scenarios.values())


def parse_scenario(text: bytes, where: str, directory: Path = Path()) -> Experiment:
    """Return the scenario in a TOML text, whose journals are in a directory.

    Raises UsageError that begins with `where`.
    """
    try:
        scenario = _convert(tomllib.loads(text.decode()))
        loads = tuple(_with_trace(load, directory) for load in scenario.guest.loads)
        guest = msgspec.structs.replace(scenario.guest, loads=loads)
        scenario = msgspec.structs.replace(scenario, guest=guest, own_variants=_loaded(scenario, directory))
        scenario.check()
    except RecursionError as error:
        raise UsageError(f"{where}: not a scenario, it is nested too deeply") from error
    except (ValueError, UsageError) as error:  # numbers too long to be read, too
        reason = "".join(c if c.isprintable() else "?" for c in str(error))  # it may quote the file
        raise UsageError(f"{where}: {reason}") from error
    return scenario


def _convert(data: dict[str, Any]) -> Experiment:
    scenario = experiment_of(data)
    if "variants" in data:
        return scenario
    names = (variant.name for variant in scenario.own_variants)
    return msgspec.structs.replace(scenario, variants=(*scenario.variants, *names))


def _with_trace(load: LoadSpec, directory: Path) -> LoadSpec:
    """Return the load with what its journal tells. Raises UsageError."""
    if load.trace or (load.pattern == "trace") != bool(load.journal):
        raise UsageError("pattern = 'trace' needs journal = 'FILE', and only that")
    if not load.journal:
        return load
    if not load.journal.isprintable():
        raise UsageError("the name of a load's journal has characters that cannot be printed")
    path = directory / load.journal
    _require_file(path, "journal")
    return msgspec.structs.replace(load, trace=read_trace(read_migration(path).entries, str(path)))


def _loaded(scenario: Experiment, directory: Path) -> tuple[OwnVariant, ...]:
    variants = []
    for number, variant in enumerate(scenario.own_variants):
        with telling(f"variant[{number}]"):
            variants.append(variant.loaded(directory))
    return tuple(variants)


def seed_scenarios() -> Iterator[Experiment]:
    """Yield the scenarios of the patch series' experiment, which come along."""
    for name, file in _seed_files().items():
        yield parse_scenario(file.read_bytes(), name)


def _seed_files() -> dict[str, Traversable]:
    """Return the scenarios that come along by their files' names without suffix, in order."""
    entries = (files("vmferry.experiment") / "scenarios").iterdir()
    return {
        entry.name.removesuffix(".toml"): entry
        for entry in sorted(entries, key=lambda entry: entry.name)
        if entry.name.endswith(".toml")
    }


def read_small_file(path: Path, what: str, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Return what is in a file that somebody wrote by hand. Raises UsageError that names it."""
    _require_file(path, what)
    try:
        with path.open("rb") as file:
            text = file.read(max_bytes + 1)
    except OSError as error:
        raise UsageError(f"cannot read the {what} {path}: {error.strerror}") from error
    if len(text) > max_bytes:
        raise UsageError(f"{path}: not a {what}, it is larger than {max_bytes} bytes")
    return text


def _require_file(path: Path, what: str) -> None:
    """Raise UsageError for what is not there, and for a device or a pipe, which may never end."""
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        raise UsageError(f"cannot read the {what} {path}: {error.strerror}") from error
    if not regular:
        raise UsageError(f"cannot read the {what} {path}: not a regular file")
