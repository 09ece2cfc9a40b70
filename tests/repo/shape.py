"""Prints the shape of the code, `python -m tests.repo.shape`: lengths of functions and modules, names of classes."""

import ast
from collections import defaultdict
from functools import cache
from pathlib import Path
from statistics import median, quantiles

SOURCE = Path(__file__).parents[2] / "src" / "vmferry"
MODULES = sorted(SOURCE.rglob("*.py"))


Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def definitions() -> list[tuple[str, Function | ast.ClassDef]]:
    """Return the functions and classes of each module, with the module's place."""
    return [
        (str(path.relative_to(SOURCE)), node)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, Function | ast.ClassDef)
    ]


def functions() -> dict[str, int]:
    """Return how many lines each function's body has, without its docstring."""
    found = ((place, node) for place, node in definitions() if isinstance(node, Function))
    return {f"{place}:{node.lineno} {node.name}": _body_lines(node) for place, node in found}


def modules() -> dict[str, int]:
    """Return how many lines each module has."""
    return {str(path.relative_to(SOURCE)): len(path.read_text().splitlines()) for path in MODULES}


def classes() -> dict[str, list[str]]:
    """Return the modules that define a class of each name; what is private to a module does not count."""
    places: dict[str, list[str]] = defaultdict(list)
    for place, node in definitions():
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            places[node.name].append(place)
    return places


def _body_lines(node: Function) -> int:
    body = node.body[1:] if ast.get_docstring(node) else node.body
    return 1 + (node.end_lineno or 0) - body[0].lineno if body else 0


def main() -> None:
    """Print the figures, and what is longest."""
    lengths, sizes, places = functions(), modules(), classes()
    tenths = quantiles(lengths.values(), n=10)
    print(f"{len(sizes)} modules, {len(lengths)} functions, {sum(map(len, places.values()))} public classes")
    print(
        f"lines of a function: median {median(lengths.values()):.0f}, 90 % {tenths[8]:.0f}, max {max(lengths.values())}"
    )
    print(f"lines of a module:   median {median(sizes.values()):.0f}, max {max(sizes.values())}")
    for what, counts in (("functions", lengths), ("modules", sizes)):
        longest = sorted(counts, key=lambda name: -counts[name])[:5]
        print(f"longest {what}: " + ", ".join(f"{name} {counts[name]}" for name in longest))
    for name, where in sorted(places.items()):
        if len(where) > 1:
            print(f"{len(where)} classes {name}: {', '.join(where)}")


if __name__ == "__main__":
    main()
