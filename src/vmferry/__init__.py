"""Live migration that makes huge, busy virtual machines converge."""

from importlib.metadata import version

__version__ = version("vmferry")
