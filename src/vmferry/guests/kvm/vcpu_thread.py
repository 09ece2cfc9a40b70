"""The thread that runs a vCPU: lets it in, keeps it out while paused or throttled, serves its exits.

Whoever wants the vCPU out of the guest first says why (under the condition), then sets immediate_exit, then
sends a signal. The thread resets immediate_exit before it looks why. So a wish is either seen when the
thread looks, or immediate_exit is still set when it enters the guest, and KVM_RUN returns at once.
"""

import ctypes
import signal
import threading
import time
from collections.abc import Callable

from vmferry.errors import VmferryError
from vmferry.guests.kvm.fd import libc
from vmferry.guests.kvm.vcpu import KvmVcpu
from vmferry.units import NS_PER_S

KICK_SIGNAL = signal.SIGUSR1


def install_kick_handler() -> None:
    """Make KICK_SIGNAL interrupt KVM_RUN and do nothing else, in the whole process.

    A handler in Python would have every kick run by the main thread and wake up its event loop, so it is a C
    function: getpid, which has no effect.
    """
    # SAFETY: getpid may be called at any moment of any thread (signal-safety(7)), ignores the argument, and
    # the C library stays loaded.
    libc.signal(KICK_SIGNAL, ctypes.cast(libc.getpid, ctypes.c_void_p))


class VcpuThread:
    """Runs one vCPU, which it owns. `serve_exit` handles an exit reason and raises GuestError at a crash.

    Paused at first.
    """

    def __init__(
        self,
        vcpu: KvmVcpu,
        number: int,
        serve_exit: Callable[[KvmVcpu, int], None],
        crashed: Callable[[str], None],
    ) -> None:
        self.vcpu = vcpu
        self._serve_exit = serve_exit
        self._crashed = crashed
        self._condition = threading.Condition()
        self._may_run = False
        self._sleep_until_ns = 0
        self._closing = False
        self._attention = True
        """Something of the above has changed since the thread last looked."""
        self._parked = False
        self._io_unfinished = False
        self._thread = threading.Thread(target=self._main, name=f"vcpu{number}", daemon=True)
        self._thread.start()
        self.wait_until_parked()

    @property
    def thread_id(self) -> int:
        """The kernel's id of the thread."""
        assert self._thread.native_id is not None
        return self._thread.native_id

    def resume(self) -> None:
        """Let the vCPU run."""
        with self._condition:
            self._may_run = True
            self._condition.notify_all()

    def request_pause(self) -> None:
        """Ask the vCPU out of the guest; `wait_until_parked` tells when it is out."""
        with self._condition:
            self._may_run = False
            self._want_out()

    def wait_until_parked(self) -> None:
        """Return when the vCPU is out of the guest, with no I/O half done."""
        with self._condition:
            self._condition.wait_for(lambda: self._parked)

    def sleep(self, duration_ns: int) -> None:
        """Keep the vCPU out of the guest for this long from now on; 0 ends a sleep."""
        with self._condition:
            self._sleep_until_ns = time.monotonic_ns() + duration_ns if duration_ns else 0
            self._want_out()

    def close(self) -> None:
        """End the thread and close the vCPU."""
        with self._condition:
            self._closing = True
            self._want_out()
        self._thread.join()
        self.vcpu.close()

    def _want_out(self) -> None:
        self._attention = True
        self.vcpu.set_immediate_exit(True)
        self._condition.notify_all()
        if self._thread.is_alive() and not self._parked:
            signal.pthread_kill(self._thread.ident or 0, KICK_SIGNAL)

    # In the thread

    def _main(self) -> None:
        try:
            while self._admitted():
                self._run()
        except VmferryError as error:
            self._crashed(str(error))
        except BaseException as error:
            self._crashed(f"internal error: {error!r}")
            raise
        finally:
            with self._condition:
                self._parked = True
                self._condition.notify_all()

    def _run(self) -> None:
        reason = self.vcpu.run()
        self._io_unfinished = reason is not None
        if reason is not None:
            self._serve_exit(self.vcpu, reason)

    def _admitted(self) -> bool:
        """Return True when the vCPU may enter the guest, False when the thread is to end."""
        self.vcpu.set_immediate_exit(False)
        if not self._attention:
            return True
        self._finish_io()
        with self._condition:
            while not self._closing:
                self._attention = False
                sleep_ns = self._sleep_until_ns - time.monotonic_ns()
                if self._may_run and sleep_ns <= 0:
                    self._parked = False
                    return True
                self._parked = not self._may_run
                self._condition.notify_all()
                self._condition.wait(sleep_ns / NS_PER_S if self._may_run else None)
            return False

    def _finish_io(self) -> None:
        """Let the kernel complete the I/O of the last exit; the state is not consistent before.

        An instruction that does much I/O (`rep outs`) may come out more than once.
        """
        while self._io_unfinished:
            self.vcpu.set_immediate_exit(True)
            self._run()
            self.vcpu.set_immediate_exit(False)
