"""Prints which package imports which, from the top floor down: `python -m tests.repo.import_graph [--dot]`.

With `--dot` in the language of graphviz: `python -m tests.repo.import_graph --dot | dot -Tsvg > imports.svg`.
"""

import sys

from tests.repo.test_layers import FLOORS, MODULES, imported_names, package_of, place_of

ORDER = [package for floor in reversed(FLOORS) for package in sorted(floor)]


def imports_of(package: str) -> list[str]:
    """Return the other packages that the modules of one import, the highest first."""
    modules = [path for path in MODULES if place_of(path).split("/")[0].removesuffix(".py") == package]
    names = {name for path in modules for name in map(package_of, imported_names(path)) if name}
    return sorted(names - {package}, key=ORDER.index)


def graph() -> str:
    """Return one line for each package, the lowest floor last; what lies higher is named first."""
    rows = ((package, imports_of(package)) for package in ORDER)
    return "\n".join(f"{package:<12}-> {' '.join(imported) or 'nothing'}" for package, imported in rows)


def dot() -> str:
    """Return the same for graphviz, with each floor in a row of its own."""
    floors = (f"  {{ rank=same; {'; '.join(sorted(floor))} }}" for floor in reversed(FLOORS))
    edges = (f"  {package} -> {{ {' '.join(imports_of(package))} }}" for package in ORDER)
    return "\n".join(["digraph imports {", "  node [shape=box]", *floors, *edges, "}"])


if __name__ == "__main__":
    print(dot() if sys.argv[1:] == ["--dot"] else graph())
