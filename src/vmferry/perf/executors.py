"""Where simulations run: on this machine's processors, or on a cluster that is there already."""

import multiprocessing
import re
import signal
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager

from vmferry.errors import HostError, UsageError

_CONNECT_TIMEOUT_S = 5
_ADDRESS = re.compile(r"(tcp|tls)://[^/\s]+:\d{1,5}")


def local_pool(processes: int | None = None) -> ProcessPoolExecutor:
    """Return a pool of fresh processes, as many as there are processors if not said otherwise."""
    return ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _leave_interrupts_to_the_parent)


def _leave_interrupts_to_the_parent() -> None:
    """Ctrl-C reaches all processes at a terminal; the pool's are told by the one that has them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def cluster(scheduler: str) -> Iterator[Executor]:
    """Connect to the dask scheduler at an address such as `tcp://host:8786`, whose workers have vmferry installed.

    Raises UsageError if dask.distributed is not installed or the address is none, and HostError if nobody answers.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise UsageError("a cluster needs dask.distributed; install it with: pip install 'vmferry[cluster]'") from error
    if not _ADDRESS.fullmatch(scheduler):
        raise UsageError(f"'{scheduler}' is no scheduler's address; write for example tcp://host:8786")
    try:
        client = Client(scheduler, timeout=_CONNECT_TIMEOUT_S, set_as_default=False)  # type: ignore[no-untyped-call]
    except OSError as error:
        raise HostError(f"no dask scheduler answers at {scheduler}") from error
    with client:
        yield client.get_executor(pure=False)  # type: ignore[no-untyped-call]
