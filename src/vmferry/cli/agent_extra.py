"""What is missing where the extra `agent` is, said in one line."""

from collections.abc import Iterator
from contextlib import contextmanager

from vmferry.errors import UsageError


@contextmanager
def needing_agent_extra() -> Iterator[None]:
    """Import here what needs the extra. Raises UsageError that says how to get it."""
    try:
        yield
    except ImportError as error:
        raise UsageError(f"{error.name or 'a package'} is missing; install `pip install 'vmferry[agent]'`") from error
