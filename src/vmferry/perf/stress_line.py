"""The command line that makes the stress payload the guest that an experiment tells (`docs/payload.md`)."""

from collections.abc import Iterator

from vmferry.errors import UsageError
from vmferry.experiment.parts import GuestSpec, LoadSpec
from vmferry.units import MIB, NS_PER_MS, PAGE_SIZE_BYTES, exact_size

_PATTERNS = ("sweep", "moving", "uniform", "hot-spot", "read")


def stress_line(guest: GuestSpec) -> str:
    """Return the words that tell all loads of a guest. Raises UsageError for a load that no real guest has.

    The rate of a load is the models', and so is where it begins: those of a real guest lie one behind the other.
    """
    require_real_loads(guest)
    return " ".join(word for load in sorted(guest.loads, key=_names_vcpus) for word in _words(load))


def require_real_loads(guest: GuestSpec) -> None:
    """Raise UsageError for loads that no real guest has."""
    for number, load in enumerate(guest.loads):
        where = f"guest.loads[{number}]"
        if load.pattern not in _PATTERNS:
            raise UsageError(
                f"{where}: no real guest has pattern = '{load.pattern}'; there are: {', '.join(_PATTERNS)}"
            )
        _require_mebibytes(f"{where}.memory", load.memory_bytes)
        _require_mebibytes(f"{where}.working-set", load.working_set_bytes)
        if load.whole_pages and load.pattern != "sweep":
            raise UsageError(f"{where}.whole-pages: a real guest changes whole pages with pattern = 'sweep' only")
    vcpus = [vcpu for load in guest.loads for vcpu in load.vcpus or range(guest.vcpu_count)]
    if len(set(vcpus)) != len(vcpus):
        raise UsageError("a vCPU of a real guest has one load; name other vCPUs by guest.loads' vcpus for each")


def is_paced(guest: GuestSpec) -> bool:
    """Tell whether some of its work is waited for, so that it is not done as fast as the guest can."""
    return any(load.pace_bytes_per_s for load in guest.loads)


def _require_mebibytes(name: str, size_bytes: int) -> None:
    if size_bytes % MIB:
        raise UsageError(f"{name} is {exact_size(size_bytes)}; a real guest has whole MiB")


def _names_vcpus(load: LoadSpec) -> bool:
    return bool(load.vcpus)


def _words(load: LoadSpec) -> Iterator[str]:
    if load.vcpus:
        yield f"vcpus={','.join(map(str, load.vcpus))}"
    yield f"ramsize={load.memory_bytes // MIB}"
    if load.pattern != "sweep":
        yield f"pattern={load.pattern}"
    if load.working_set_bytes:
        yield f"working-set={load.working_set_bytes // MIB}"
    if load.pattern == "moving":
        yield f"rounds={load.rounds}"
    if load.pattern == "hot-spot":
        yield f"hot-share={round(100 * load.hot_share)}"
    if load.pace_bytes_per_s:
        yield f"pace={max(1, load.pace_bytes_per_s // PAGE_SIZE_BYTES)}"
    if load.every_ns:
        yield f"every={load.every_ns // NS_PER_MS}"
    if load.fill:
        yield f"fill={round(100 * load.fill)}"
    if load.whole_pages:
        yield "mode=xor"
