"""Which code a result was made by: a digest of its text, so that what was edited since is not taken for the same."""

import hashlib
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

_PACKAGES = (
    "convergence",
    "memory",
    "wire",
    "settings",
    "migration",
    "experiment",
    "simulation",
    "client",
    "control",
    "study",
)
"""The packages that a simulation runs; the last three if a QEMU is driven."""


@cache
def own_code() -> str:
    """Return a digest of the code of the engine and of the models."""
    digest = hashlib.sha256()
    for package in _PACKAGES:
        _add(digest, files("vmferry") / package)
    return digest.hexdigest()


def _add(digest: "hashlib._Hash", place: Traversable) -> None:
    if place.is_dir():
        for entry in sorted(place.iterdir(), key=lambda entry: entry.name):
            _add(digest, entry)
    elif place.name.endswith(".py"):
        digest.update(place.name.encode() + place.read_bytes())
