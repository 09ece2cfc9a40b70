"""Threads, one for each VM that is looked after, so that one whose monitor hangs holds up nobody else."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from vmferry.agent.following import Followers
from vmferry.agent.rules import Vm
from vmferry.cancel import CancelToken
from vmferry.client.monitor import Monitor
from vmferry.errors import CancelledError, VmferryError

_CLOSE_S = 15.0
_MAX_COMPLAINTS, _COMPLAIN_S = 10_000, 600.0
"""About so many monitors at most, and how often about each."""


@dataclass
class Attended:
    """A VM whose monitor is this agent's own, as it was seen last."""

    vm: Vm
    state: str | None = None
    """QEMU's word for whether it runs; None while it migrates, or its monitor is left to others."""
    asked: deque[Callable[[Monitor], None]] = field(default_factory=deque)
    """What is to be done at its monitor between two looks, by whoever attends to it."""


class Attendants:
    """Begins the threads that attend to VMs, and ends them."""

    def __init__(self, followers: Followers) -> None:
        self.followers = followers
        self.log = followers.log
        self.stop = threading.Event()
        """Set when all are to end."""
        self.attended: dict[str, Attended] = {}
        """By the path of the monitor's socket."""
        self._lock = threading.Lock()
        self._threads: dict[str, threading.Thread] = {}
        self._complain_at_s: dict[str, float] = {}
        """When it is said again that a monitor cannot be attended to, by its path."""

    def begin(self, key: str, attend: Callable[[CancelToken], None]) -> None:
        """Have `attend` called in a thread, unless one with this key goes on; its token is set at the end."""
        with self._lock:
            if key in self._threads or self.stop.is_set():
                return
            thread = threading.Thread(target=self._run, args=(key, attend), name=f"for {key}", daemon=True)
            self._threads[key] = thread
        thread.start()

    def keys(self) -> frozenset[str]:
        """Return the keys of those that go on."""
        with self._lock:
            return frozenset(self._threads)

    def complain(self, path: str, text: str) -> None:
        """Say why a monitor cannot be attended to, if that was not said lately."""
        now_s = time.monotonic()
        if now_s < self._complain_at_s.get(path, 0.0):
            return
        if len(self._complain_at_s) >= _MAX_COMPLAINTS:
            self._complain_at_s.clear()
        self._complain_at_s[path] = now_s + _COMPLAIN_S
        self.log.warn(f"{path}: {text}")

    def attend_to(self, path: str, vm: Vm) -> Attended:
        """Take note of who is behind a monitor that can be attended to."""
        self._complain_at_s.pop(path, None)
        self.attended[path] = one = Attended(vm)
        self.log.info(f"attended to at {path}", vm=vm.name, uuid=vm.uuid)
        return one

    def close(self) -> None:
        """End all, and wait, for some time, until what was done to VMs is undone."""
        self.stop.set()
        self.followers.let_go()
        with self._lock:
            threads = list(self._threads.values())
        end_s = time.monotonic() + _CLOSE_S
        for thread in threads:
            thread.join(max(0.0, end_s - time.monotonic()))

    def _run(self, key: str, attend: Callable[[CancelToken], None]) -> None:
        try:
            with self.followers.token() as cancel:
                attend(cancel)
        except CancelledError:
            pass
        except VmferryError as error:
            self.log.warn(str(error))
        except Exception as error:  # whoever attends to the others goes on
            self.log.warn(f"{key}: a defect of vmferry: {error!r}")
        finally:
            with self._lock:
                del self._threads[key]
