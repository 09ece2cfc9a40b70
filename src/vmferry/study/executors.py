"""Where simulations run: on this machine's processors, or on a cluster that is there already."""

import logging
import multiprocessing
import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from vmferry.errors import HostError, UsageError

T = TypeVar("T")

_CONNECT_TIMEOUT_S = 5
_FETCH_TIMEOUT_S = 30
_LOST = "the connection to the scheduler is lost"
_ADDRESS = re.compile(r"(tcp|tls)://[^/\s]+:\d{1,5}")


def local_pool(processes: int | None = None) -> ProcessPoolExecutor:
    """Return a pool of fresh processes, as many as there are processors if not said otherwise."""
    return _LocalPool(processes, multiprocessing.get_context("spawn"))


class _LocalPool(ProcessPoolExecutor):
    """Ctrl-C reaches all processes at a terminal; the pool's, even while they start, leave it to their parent.

    The parent ends them, whatever they are at.
    """

    def submit(self, function: Callable[..., T], /, *arguments: Any, **keywords: Any) -> Future[T]:
        """Submit a call; processes started for it inherit that the signal is blocked."""
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            return super().submit(function, *arguments, **keywords)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for what runs, but not after an error or an interruption.

        Futures that were cancelled before trip over that (CPython's `_ExecutorManagerThread.terminate_broken`).
        """
        if error is not None:
            for process in list(self._processes.values()):
                process.terminate()
        super().__exit__(kind, error, trace)


@contextmanager
def cluster(scheduler: str) -> Iterator[Executor]:
    """Connect to the dask scheduler at an address such as `tcp://host:8786`, whose workers have vmferry installed.

    Raises UsageError if dask.distributed is not installed or the address is none, and HostError if nobody answers or
    there is no worker, with which a sweep would wait in silence.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise UsageError("a cluster needs dask.distributed; install it with: pip install 'vmferry[cluster]'") from error
    if not _ADDRESS.fullmatch(scheduler):
        raise UsageError(f"'{scheduler}' is no scheduler's address; write for example tcp://host:8786")
    for name in ("distributed", "distributed.client"):  # what matters of what they log reaches the user as an error
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        client = Client(scheduler, timeout=_CONNECT_TIMEOUT_S, set_as_default=False)  # type: ignore[no-untyped-call]
    except OSError as error:
        raise HostError(f"no dask scheduler answers at {scheduler}") from error
    with client:
        if not client.scheduler_info()["workers"]:
            raise HostError(f"the dask scheduler at {scheduler} has no workers; start some: dask worker {scheduler}")
        yield _ClusterExecutor(client)


class _ClusterExecutor(Executor):
    """Has functions carried out by a cluster; a lost connection breaks it, as a process that dies breaks a pool."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def submit(self, function: Callable[..., T], /, *arguments: Any, **keywords: Any) -> Future[T]:
        """Return the future of a call. Raises BrokenExecutor if the scheduler is gone."""
        if self._client.status != "running":
            raise BrokenExecutor(_LOST)
        ours: Future[T] = Future()
        theirs = self._client.submit(function, *arguments, pure=False, **keywords)
        theirs.add_done_callback(partial(_settle, ours))
        return ours


def _settle(ours: Future[T], theirs: Any) -> None:
    """Give one of our futures what became of dask's; dask cancels those of a connection that is lost, or tells it."""
    from distributed.comm.core import CommClosedError

    if not ours.set_running_or_notify_cancel():
        return
    try:
        ours.set_result(theirs.result(timeout=_FETCH_TIMEOUT_S))
    except (CancelledError, TimeoutError, CommClosedError):
        ours.set_exception(BrokenExecutor(_LOST))
    except Exception as error:
        ours.set_exception(error)
