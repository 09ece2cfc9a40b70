"""The exception tree. Every error that can reach a user is one of these.

    VmferryError
    ├── UsageError          the user asked for something that cannot be (exit code 2)
    ├── HostError           this machine cannot do it: a device, a capability, an errno
    ├── GuestError          the guest image or the guest itself is at fault
    ├── PolicyError         somebody's convergence policy is broken
    ├── InterruptionError   somebody pressed Ctrl-C, or a signal asked to end (exit code 128 + its number)
    ├── MonitorError        the monitor of a VM cannot be reached, or does not speak QMP
    │   ├── CommandError    it refused a command
    │   └── VmLeftError     it is gone because the VM has migrated
    └── MigrationError      a migration did not complete
        ├── PeerError       the other side broke the protocol or refused
        ├── ChannelError    the link between the two sides is gone
        └── CancelledError       somebody called it off

The text is one line that says what happened and what to do. Facts that a caller may act on
are attributes. Our own mistakes are not in the tree: they are assertions.
"""


class VmferryError(Exception):
    """Base of all errors that are not defects of vmferry itself."""


class UsageError(VmferryError):
    """A value, option or combination that is not allowed; the text names the remedy."""


class HostError(VmferryError):
    """The host lacks something or refused a system call.

    `errno` is the kernel's error number where one caused this, else None.
    """

    def __init__(self, text: str, errno: int | None = None) -> None:
        super().__init__(text)
        self.errno = errno


class GuestError(VmferryError):
    """The guest image cannot be booted, or the guest did something it must not."""


class PolicyError(VmferryError):
    """A convergence policy failed, or answered what cannot be; the text names it."""


class InterruptionError(VmferryError):
    """Somebody interrupted a command; the text says what is true now.

    `signal_number` is that of the signal that did it; SIGINT is Ctrl-C.
    """

    def __init__(self, text: str, signal_number: int) -> None:
        super().__init__(text)
        self.signal_number = signal_number


class MonitorError(VmferryError):
    """The monitor of a VM cannot be reached, went away, or does not speak QMP."""


class CommandError(MonitorError):
    """A monitor refused a command; the text is the reason it gave.

    `error_class` is QMP's: `GenericError`, `CommandNotFound` and the like.
    """

    def __init__(self, text: str, error_class: str) -> None:
        super().__init__(text)
        self.error_class = error_class


class VmLeftError(MonitorError):
    """The VM behind a monitor has migrated, and whoever manages it has ended it here."""


class MigrationError(VmferryError):
    """A migration ended without completing; the text is its `error-desc`."""


class PeerError(MigrationError):
    """The peer sent what the protocol forbids, or refused the migration."""


class ChannelError(MigrationError):
    """The connection to the peer is closed, timed out, or was never made."""


class CancelledError(MigrationError):
    """The migration was cancelled on request."""
