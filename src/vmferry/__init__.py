"""Live migration that makes huge, busy virtual machines converge."""

__version__ = "0.1.0"
