"""The life of the agent: from its file to the threads that attend to VMs, through reloads, to the end.

SIGHUP has the file read again, SIGTERM and SIGINT end it. Whatever was done to a VM is undone first.
"""

import os
import select
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from vmferry.agent.actions import Actions
from vmferry.agent.attendants import Attendants
from vmferry.agent.config import Config, read_config
from vmferry.agent.database import open_to_write
from vmferry.agent.domains import find_domains
from vmferry.agent.following import Followers
from vmferry.agent.forecasts import Forecasts
from vmferry.agent.log import Log, notify
from vmferry.agent.memory import Memory
from vmferry.agent.metrics import Metrics
from vmferry.agent.roster import Roster
from vmferry.agent.rules import Rulebook
from vmferry.agent.sockets import find_sockets
from vmferry.agent.web.access import access_to_metrics, access_to_page
from vmferry.agent.web.app import application, metrics_application
from vmferry.agent.web.events import Events
from vmferry.agent.web.serving import serving
from vmferry.agent.web.table import Sources, table_of
from vmferry.errors import UsageError

_ENDING = (signal.SIGINT, signal.SIGTERM)
_SIGNALS = (*_ENDING, signal.SIGHUP)
_LONGEST_WAIT_S = 10.0


class Agent:
    """Runs until a signal ends it."""

    def __init__(self, path: Path, log: Log) -> None:
        """Read the file. Raises UsageError."""
        self._path = path
        self._log = log
        self._hold(read_config(path))

    def _hold(self, config: Config) -> None:
        """Have what a file says hold from now on."""
        self.config, self._rules = config, Rulebook(config.rule)

    def run(self) -> None:
        """Attend to the VMs of this host. Raises UsageError and HostError if it cannot begin."""
        config = self.config
        with ExitStack() as stack:
            signals = stack.enter_context(_received_signals())
            stack.enter_context(_only_one(config.host_name))
            engine = open_to_write(config.database)
            memory = stack.enter_context(Memory(engine, config.host_name, config.keep_days, self._log.warn))
            followers = Followers(lambda: self._rules, memory, self._log)
            if config.metrics:
                metrics = Metrics(lambda: followers.live)
                followers.over = metrics.count
                self._serve_metrics(metrics, stack)
            attendants = Attendants(followers)
            if config.page:
                self._serve_page(attendants, stack)
            stack.callback(attendants.close)
            for uri in config.libvirt:
                attendants.begin(f"libvirt {uri}", partial(find_domains, uri, attendants))
            for directory in config.sockets:
                attendants.begin(f"directory {directory}", partial(find_sockets, directory, attendants))
            self._log.info(f"ready, with {config.counted_rules} of {self._path}")
            self._obey(signals)
            notify("STOPPING=1")
            self._log.info("ending; whatever slows a guest is undone")

    def _serve_metrics(self, metrics: Metrics, stack: ExitStack) -> None:
        """Serve metrics until the end, to whoever is on this host, and to others by the token."""
        config = self.config
        app = metrics_application(metrics, access_to_metrics(config))
        stack.enter_context(serving(app, config.metrics, config.tls_creds))

    def _serve_page(self, attendants: Attendants, stack: ExitStack) -> None:
        """Serve the page until the end. Raises UsageError and HostError."""
        config, followers = self.config, attendants.followers
        access = access_to_page(config)
        events = Events(lambda: followers.live, lambda: followers.change_count)
        sources = Sources(
            followers=followers,
            roster=Roster(config.libvirt, attendants),
            forecasts=Forecasts(attendants),
            actions=Actions(followers),
            events=events,
            database=config.database,
        )
        app = application(table_of(sources), access, self._log)
        stack.enter_context(serving(app, config.page, config.tls_creds, events.end))

    def _obey(self, signals: socket.socket) -> None:
        """Do what signals ask for, until one ends the agent."""
        notify("READY=1")
        wait_s = min(_LONGEST_WAIT_S, int(os.environ.get("WATCHDOG_USEC", 1 << 40)) / 1e6 / 3)
        while True:
            notify("WATCHDOG=1")
            if not select.select([signals], [], [], wait_s)[0]:
                continue
            numbers = signals.recv(64)
            if any(number in numbers for number in _ENDING):
                return
            if signal.SIGHUP in numbers:
                self._reload()

    def _reload(self) -> None:
        """Read the file again. Migrations that run keep their rule, and with a faulty file everybody does."""
        notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            config = read_config(self._path)
        except UsageError as error:
            self._log.warn(f"the rules of before hold on, as the new ones are faulty: {error}")
        else:
            changed = [
                name
                for name in Config.__struct_fields__
                if name != "rule" and getattr(config, name) != getattr(self.config, name)
            ]
            self._hold(config)
            self._log.info(f"{config.counted_rules} of {self._path} hold from now on")
            if changed:
                names = ", ".join(name.replace("_", "-") for name in changed)
                self._log.warn(f"start the agent anew for what has changed beside the rules: {names}")
        notify("READY=1")


@contextmanager
def _received_signals() -> Iterator[socket.socket]:
    """Yield a socket from which the numbers of the signals come that are for the agent."""
    receiver, sender = socket.socketpair()
    with receiver, sender:
        sender.setblocking(False)
        before = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
        wakeup = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        try:
            yield receiver
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def _only_one(host: str) -> Iterator[None]:
    """Hold the name under which this host's agent is known on it. Raises UsageError if another does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as name:
        try:
            name.bind(f"\0vmferry-agent/{host}"[:100])
        except OSError as error:
            raise UsageError(f"an agent of host '{host}' runs here already; end it, or name another `host`") from error
        yield
