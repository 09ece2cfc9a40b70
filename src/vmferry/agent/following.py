"""Follows the migrations of a host, each in the thread of who has found it, as the rule for its VM says."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vmferry.agent.live import Live
from vmferry.agent.log import Log
from vmferry.agent.memory import Memory
from vmferry.agent.recording import Facts, Recording
from vmferry.agent.reins import Reins
from vmferry.agent.rules import Holding, Mode, Rule, Rulebook, Vm
from vmferry.cancel import CancelToken
from vmferry.client.monitor import open_monitor
from vmferry.clock import MonotonicClock
from vmferry.control.asking.progress import Progress
from vmferry.control.asking.result import Result
from vmferry.control.looking_on import look_on
from vmferry.control.migrate import carry_out
from vmferry.control.migration_order import Order
from vmferry.control.ports import Ports
from vmferry.convergence.written import Written
from vmferry.errors import CancelledError, HostError, PolicyError, UsageError, VmferryError
from vmferry.units import NS_PER_MS

_ENDS = "the agent ends"
_NEW_MS = 3000
"""Nobody has followed a migration before that has run no longer."""
_REMEMBERED_S = 1.0
"""How long it is waited for what the database knows of a migration that was followed before."""


class Followers:
    """Follows the migrations of one host, each in the thread that has found it."""

    def __init__(self, rules: Callable[[], Rulebook], memory: Memory, log: Log) -> None:
        """`rules` are asked for whenever a migration is noticed."""
        self.log = log
        self.over: Callable[[Recording], None] = lambda recording: None
        """Gets what is known of a migration when it is followed no more."""
        self._rules = rules
        self._memory = memory
        self._clock = MonotonicClock()
        self._lock = threading.Lock()
        self._live: list[Live] = []
        self._numbers = itertools.count(1)
        self._tokens: set[CancelToken] = set()
        self._is_closing = False

    @property
    def live(self) -> list[Live]:
        """The migrations that go on."""
        with self._lock:
            return list(self._live)

    @property
    def change_count(self) -> int:
        """How often the list of remembered migrations has changed."""
        return self._memory.change_count

    def let_go(self) -> None:
        """Have all let go of their migrations, which go on by themselves; whoever comes later does not begin."""
        with self._lock:
            self._is_closing = True
            for token in self._tokens:
                token.set(_ENDS)

    @contextmanager
    def token(self) -> Iterator[CancelToken]:
        """Yield a token that is set when the agent ends."""
        token = CancelToken()
        with self._lock:
            self._tokens.add(token)
            if self._is_closing:
                token.set(_ENDS)
        try:
            yield token
        finally:
            with self._lock:
                self._tokens.discard(token)

    def rule_for(self, vm: Vm) -> Holding:
        """Return which rule holds for a VM now."""
        return self._rules().holding(vm)

    def follow(self, address: str, vm: Vm, progress: Progress) -> None:
        """Follow the migration of the VM behind a monitor, seen like that, to its end, or as long as that can be."""
        live = self._begin(address, vm, self.rule_for(vm), progress)
        try:
            live.recording.ended(self._conduct(address, live), _now_ms())
            live.tell(f"ended: {live.recording.status}")
        except CancelledError as error:
            live.recording.left(_ENDS)
            live.tell(str(error))
        except VmferryError as error:
            live.recording.left(str(error))
            live.warn(str(error))
        except BaseException as error:
            live.recording.left(repr(error))
            raise
        finally:
            live.reins.end(f"the migration is followed no more: {live.recording.status}")
            with self._lock:
                self._live.remove(live)
            self.over(live.recording)

    def _begin(self, address: str, vm: Vm, held: Holding, progress: Progress) -> Live:
        reins = Reins(held.rule, str(held))
        facts = _facts(vm, address, _now_ms() - (progress.elapsed_ms or 0), reins)
        log = self.log.of(vm=vm.name, uuid=vm.uuid)
        live = Live(self._memory.begin(facts), log, reins, f"{next(self._numbers)}-{facts.began_ms}")
        with self._lock:
            self._live.append(live)
        live.tell(f"a migration runs; {held}: {', '.join(held.rule.orders())}")
        return live

    def _conduct(self, address: str, live: Live) -> Result:
        """Do what the rule says, to the end of the migration; another one may take its place meanwhile."""
        reins, recording = live.reins, live.recording
        while True:
            try:
                with self.token() as cancel, reins.held(cancel):
                    return self._obey(address, reins.rule, live, cancel)
            except CancelledError:
                if not reins.taken_over():
                    raise
                known = recording.facts
                recording.facts = _facts(known.vm, known.address, known.began_ms, reins)

    def _obey(self, address: str, rule: Rule, live: Live, cancel: CancelToken) -> Result:
        """Do what a rule says; a migration that cannot be steered is looked on."""
        if rule.mode is Mode.STEER:
            try:
                return self._steer(address, rule, live, cancel)
            except (UsageError, HostError, PolicyError) as error:
                live.recording.remark, live.recording.not_steered = f"not steered: {error}", True
                live.reins.wishes.refuse(live.recording.remark)
                live.warn(f"it is not steered, and looked on: {error}")
        shadow = rule.chosen_with_goals if rule.mode is Mode.SHADOW else None
        with self._ports(address, live, cancel) as ports:
            wishes = live.reins.wishes
            return look_on(ports, live.recording, live.watch, shadow=shadow, limits=rule.limits, wishes=wishes)

    def _steer(self, address: str, rule: Rule, live: Live, cancel: CancelToken) -> Result:
        order = Order(
            uri=None,
            variant=rule.chosen,
            pace=rule.pace,
            throttle_by=rule.throttle_by,
            limits=rule.limits,
            journal=live.recording,
            learnt=_learnt(live.recording),
            wishes=live.reins.wishes,
        )
        with self._ports(address, live, cancel) as ports:
            return carry_out(ports, order, live.watch)

    @contextmanager
    def _ports(self, address: str, live: Live, cancel: CancelToken) -> Iterator[Ports]:
        with open_monitor(address, while_waiting=cancel.check) as monitor:
            yield Ports(monitor, self._clock, cancel, live.tell, live.warn)


def _learnt(recording: Recording) -> tuple[Written, ...]:
    """Return how the guest was found to write by who followed its migration before; nobody has, if that is new."""
    is_new = _now_ms() - recording.facts.began_ms < _NEW_MS
    return () if is_new else recording.learnt(_REMEMBERED_S)


def _facts(vm: Vm, address: str, began_ms: int, reins: Reins) -> Facts:
    """Return what is known of a migration of which that is done."""
    rule = reins.rule
    variant = rule.chosen.name if rule.mode in (Mode.SHADOW, Mode.STEER) else ""
    return Facts(vm=vm, address=address, mode=rule.mode, rule=reins.why, variant=variant, began_ms=began_ms)


def _now_ms() -> int:
    return time.time_ns() // NS_PER_MS
