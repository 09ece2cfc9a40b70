"""A monitor that serves while the test does something else."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.support.memory_vm import MemoryVm
from vmferry.monitor.server import MonitorServer


@contextmanager
def monitor_thread(
    vm: MemoryVm, address: str, *, pretty: bool = False
) -> Iterator[Callable[[Callable[[], None]], object]]:
    """Serve the VM in a thread; yields the way to have things done there."""
    loop = asyncio.new_event_loop()
    server = MonitorServer(vm, address, pretty=pretty)
    loop.run_until_complete(server.start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop.call_soon_threadsafe
    finally:
        asyncio.run_coroutine_threadsafe(server.close(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
