"""The migration engine: the pre-copy loop and its receiver, on ports only."""
