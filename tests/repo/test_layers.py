"""Imports go down the floors of the house only, and each kind of dependency stays in its place."""

import ast
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "vmferry"

FLOORS = [
    {"units", "errors", "bounds", "output", "cancel", "clock"},
    {"convergence", "memory", "wire"},
    {"settings"},
    {"migration"},
    {"experiment"},
    {"guests", "transport", "client", "simulation", "monitor"},
    {"vm", "control"},
    {"report", "study", "perf"},
    {"agent"},
    {"cli", "__main__"},
    {"testing"},
]
"""From the ground up. A package may import its own modules, its own floor, and all floors below."""

DRIVE_ROOMS = ["host", "asking", "telling", "undoing", "slowing", "arriving"]
"""The rooms of `control`, in the order in which one may import another. The drive beside them imports them all."""

PLACES = {
    "pytest": ["testing"],
    "ctypes": ["guests"],
    "fcntl": ["guests"],
    "mmap": ["guests"],
    "socket": ["transport", "monitor/server.py", "client", "control", "vm/incoming.py", "vm/reception.py", "agent"],
    "ssl": ["transport", "monitor/tls_stream.py", "client/qmp_client.py"],
    "asyncio": ["monitor", "vm/process.py", "agent/web"],
    "libvirt": ["client"],
    "libvirt_qemu": ["client"],
    "sqlalchemy": ["agent"],
    "alembic": ["agent"],
    "starlette": ["agent"],
    "uvicorn": ["agent"],
    "sse_starlette": ["agent"],
    "prometheus_client": ["agent"],
}
"""Modules that only these places may import."""

PURE = ["convergence", "memory", "wire", "settings", "experiment", "simulation", "migration"]
IMPURE_MODULES = {"time", "random", "threading", "socket", "asyncio", "subprocess", "os"}
"""What decides and what is simulated must not look at the world."""

DRIVING = ["control", "client"]
EDGES = {
    "client/qmp_client.py": {"time"},
    "client/inherited_monitor.py": {"time"},
    "client/libvirt_domain.py": {"time"},
    "client/libvirt_connection.py": {"threading"},
    "client/bounded_calls.py": {"threading"},
    "control/undoing/undo.py": {"signal"},
    "control/undoing/put_back_later.py": {"signal"},
}
"""Where driving looks at real time, threads and signals.

Sockets wait for real, libvirt's library blocks and calls back in its own threads, and the processes that undo what was
done outlive the driver. All else gets a clock and a token.
"""

MODULES = sorted(SOURCE.rglob("*.py"))


@cache
def imported_names(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def package_of(name: str) -> str | None:
    parts = name.split(".")
    return parts[1] if parts[0] == "vmferry" and len(parts) > 1 and not parts[1].startswith("__") else None


def floor_of(package: str) -> int:
    return next(number for number, packages in enumerate(FLOORS) if package in packages)


def place_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=place_of)
def test_imports_go_down(path: Path) -> None:
    own = place_of(path).split("/")[0].removesuffix(".py")
    if own == "__init__":
        return
    for name in imported_names(path):
        package = package_of(name)
        if package:
            assert floor_of(package) <= floor_of(own), f"{place_of(path)} imports {name} from a floor above"


@pytest.mark.parametrize("room", DRIVE_ROOMS)
def test_rooms_of_the_drive_import_only_rooms_before_them(room: str) -> None:
    modules = sorted((SOURCE / "control" / room).glob("*.py"))
    names = [name for path in modules for name in imported_names(path) if name.startswith("vmferry.control")]
    assert modules
    assert {name.split(".")[2] for name in names} <= set(DRIVE_ROOMS[: DRIVE_ROOMS.index(room) + 1])


@pytest.mark.parametrize("path", MODULES, ids=place_of)
def test_each_dependency_stays_in_its_place(path: Path) -> None:
    for name in imported_names(path):
        module = name.split(".")[0]
        if module in PLACES:
            assert any(place_of(path).startswith(place) for place in PLACES[module]), name


@pytest.mark.parametrize("path", MODULES, ids=place_of)
def test_what_is_pure_stays_pure(path: Path) -> None:
    if place_of(path).split("/")[0] in PURE:
        modules = {name.split(".")[0] for name in imported_names(path)}
        assert not modules & IMPURE_MODULES


@pytest.mark.parametrize("path", MODULES, ids=place_of)
def test_driving_looks_at_time_threads_and_signals_only_at_its_edges(path: Path) -> None:
    if place_of(path).split("/")[0] in DRIVING:
        modules = {name.split(".")[0] for name in imported_names(path)} & {"time", "threading", "signal"}
        assert modules == EDGES.get(place_of(path), set())


def test_every_package_is_on_a_floor() -> None:
    packages = {place_of(path).split("/")[0].removesuffix(".py") for path in MODULES} - {"__init__"}
    assert packages == set().union(*FLOORS)
