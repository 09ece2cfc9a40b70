"""The migration stream: messages as values, and their bytes. Pure; `docs/wire-format.md` is its text."""
