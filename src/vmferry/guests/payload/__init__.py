"""The stress payload: a bare-metal guest that rewrites its memory for ever, and how to check it."""

from pathlib import Path

STRESS_ELF = Path(__file__).parent / "stress.elf"
"""The payload as an ELF image with a PVH entry, built by `build.py` from the sources beside it."""
