"""Prints which package imports which, from the top floor down: `python -m tests.repo.import_graph`."""

from tests.repo.test_layers import FLOORS, MODULES, imported_names, package_of, place_of


def imports_of(package: str) -> set[str]:
    """Return the other packages that the modules of one import."""
    modules = [path for path in MODULES if place_of(path).split("/")[0].removesuffix(".py") == package]
    return {name for path in modules for name in map(package_of, imported_names(path)) if name} - {package}


def graph() -> str:
    """Return one line for each package, the lowest floor last; what lies higher is named first."""
    order = [package for floor in reversed(FLOORS) for package in sorted(floor)]
    rows = ((package, sorted(imports_of(package), key=order.index)) for package in order)
    return "\n".join(f"{package:<12}-> {' '.join(imported) or 'nothing'}" for package, imported in rows)


if __name__ == "__main__":
    print(graph())
