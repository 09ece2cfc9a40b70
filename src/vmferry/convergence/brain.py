"""The brain of a migration: it takes what a body senses, and answers what to do, and why.

It owns what all policies have in common: which periods are evaluated, when to look inside a long iteration, that
silence on the link is nobody's fault, what the throttle has cost so far, that the operator's limits are kept, and that
a broken policy harms no guest.

What the guest dirtied comes in periods (`periods.py`). If the link stood still for 1 of 4 s of one, the policy is shown
the other 3, with 3/4 of the dirty bytes. Between two periods it is asked as well, but only sees that time has passed.

An iteration over a huge guest takes minutes in which no period would end. So the watcher asks for a `Measure` when
nothing was evaluated for long (`watcher.py`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import msgspec

from vmferry.convergence.actions import Action, Measure, SetDowntimeLimit, Tell, Throttle
from vmferry.convergence.answers import fault_of, shown
from vmferry.convergence.ledger import Ledger
from vmferry.convergence.limit_watch import LimitWatch, Spent
from vmferry.convergence.limits import NO_LIMITS, Limits
from vmferry.convergence.link import LinkWatch
from vmferry.convergence.periods import Periods
from vmferry.convergence.policies.policy import Policy
from vmferry.convergence.policies.registry import PolicyKind
from vmferry.convergence.prospect import Prospect
from vmferry.convergence.sensing import Body, Period, Sensed, SyncSeen, View
from vmferry.convergence.sharing import Sharing
from vmferry.convergence.watcher import IterationView, Watcher
from vmferry.convergence.written import Written
from vmferry.errors import PolicyError, UsageError
from vmferry.units import NS_PER_MS, NS_PER_S


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The rules that operators may change while a migration runs."""

    evaluation_period_ns: int
    """Shortest time between two evaluations of dirty syncs."""
    max_throttle_percent: int
    policy_settings: msgspec.Struct
    limits: Limits = NO_LIMITS


class Convergence:
    """Decides in one migration. `look` is called often, at least every 100 ms of the body's clock.

    `kind` is None where nobody is to slow the guest; what the guest dirties is worked out all the same. `watcher` says
    when to look inside an iteration, `link` and `ledger` are kept up to date by the body.
    """

    def __init__(
        self,
        kind: PolicyKind | None,
        body: Body,
        watcher: Watcher,
        link: LinkWatch,
        ledger: Ledger,
        start: Sensed,
        elapsed_ns: int = 0,
        surveyed: Sequence[Written] = (),
        *,
        throttle_writers: bool = False,
    ) -> None:
        """`elapsed_ns` is how long the migration has run already at `start`, `surveyed` what was found before that.

        `throttle_writers` spreads throttles over vCPUs by what each dirties, and finds that out by an experiment where
        the body does not tell. A policy that plans has them spread where it does. Raises UsageError if the policy, or
        that, needs what the body cannot do, and PolicyError if it is broken.
        """
        if kind:
            require(kind, body, throttle_writers=throttle_writers)
        self.throttle_percent = 0
        """The throttle that the policy has decided on last; 0 is none."""
        self.last_period: Period | None = None
        """The period that was evaluated last."""
        self._kind = kind
        self._policy = self._make(kind) if kind else None
        self._body = body
        self._watcher = watcher
        self._link = link
        self._ledger = ledger
        self._limit_watch = LimitWatch()
        spreads = throttle_writers or (kind is not None and kind.plans and Body.PER_VCPU in body)
        self._sharing = Sharing(experiments=throttle_writers) if spreads else None
        self._in_force = Throttle(percent=0, reason="")
        self._asked = Ledger()
        """What the policy's throttles would have taken of all vCPUs alike, which has the same effect."""
        self._start_ns = start.now_ns - elapsed_ns
        self._surveyed = tuple(surveyed)
        if self._sharing and surveyed:
            self._sharing.learn(surveyed[-1], 0)
        self._iteration_count = self._shown_iteration_count = 0
        self._iteration_remaining_bytes = start.remaining_bytes
        self._periods = Periods(link, self._asked if self._sharing else ledger, start)
        self._prospect = None if kind is None or kind.plans else Prospect()

    def _make(self, kind: PolicyKind) -> Policy:
        try:
            return kind.make()
        except (Exception, SystemExit) as error:
            raise self._broken(f"it cannot be made, {shown(error)}") from error

    def look(self, sensed: Sensed, rules: Rules) -> list[Action]:
        """Take notice of what is sensed, and return what to do now. Raises PolicyError if the policy is broken."""
        if sensed.iteration_count != self._iteration_count:
            self._iteration_count, self._iteration_remaining_bytes = sensed.iteration_count, sensed.remaining_bytes
        actions = self.look_at_limits(sensed.now_ns, rules)
        period, still_ns = self._periods.ended(sensed, rules.evaluation_period_ns, self.throttle_percent)
        written = self._periods.written(sensed)
        if self._sharing and self._sharing.experimenting:
            return self._measured_once([*actions, *self._experiment(self._sharing, sensed, written)], sensed)
        if self._sharing and written:
            self._sharing.learn(written, sensed.vcpu_throttle_percents or self.throttle_percent)
        if period:
            self.last_period = period
            self._periods.begin(sensed)
        elif not self._is_measured(sensed) and self._watcher.due(self._iteration(sensed, rules)):
            actions.append(Measure(reason="nothing was evaluated for long"))
        if self._policy:
            actions += self._decide(sensed, period, written, still_ns, rules)
        return self._measured_once(actions, sensed)

    def _experiment(self, sharing: Sharing, sensed: Sensed, written: Written | None) -> Iterator[Action]:
        """Go on with finding out what each vCPU dirties, of which policies see nothing."""
        for action in sharing.look(sensed, written):
            if isinstance(action, Throttle):
                self._in_force = action
            yield action
        if not sharing.experimenting:
            self._periods.begin(sensed)

    def _measured_once(self, actions: list[Action], sensed: Sensed) -> list[Action]:
        """Note when a measurement is asked for, by the watcher or by the policy; one at a time is enough."""
        asked = [action for action in actions if isinstance(action, Measure)]
        if not asked:
            return actions
        others: list[Action] = [action for action in actions if not isinstance(action, Measure)]
        if sensed.measuring:
            return others
        self._periods.measure(sensed)
        return [asked[0], *others]

    def look_at_limits(self, now_ns: int, rules: Rules) -> list[Action]:
        """Return what to do if a limit of the operator is over; also where nothing is sent, as while it connects."""
        if rules.limits is NO_LIMITS:
            return []
        action = self._limit_watch.look(rules.limits, self._spent(now_ns))
        return [action] if action else []

    def elapsed_ns(self, now_ns: int) -> int:
        """For how long the migration has run."""
        return now_ns - self._start_ns

    def _spent(self, now_ns: int) -> Spent:
        elapsed_ns = self.elapsed_ns(now_ns)
        return Spent(
            elapsed_ns=elapsed_ns,
            possible_ns=elapsed_ns,
            taken_ns=self._ledger.taken_until(now_ns),
            vcpu_count=self._ledger.vcpu_count,
            is_known=self._ledger.is_known,
        )

    def _is_measured(self, sensed: Sensed) -> bool:
        return sensed.measuring or isinstance(sensed.found, SyncSeen)

    def _decide(
        self, sensed: Sensed, period: Period | None, written: Written | None, still_ns: int, rules: Rules
    ) -> Iterator[Action]:
        """Ask the policy, which is shown a period without the time for which the link stood still in it.

        A period that was more than half silence shows nothing: the throttle stays as it is.
        """
        if period is None:
            yield from self._answers(self._view(sensed, None, written, rules), rules)
            return
        moving_ns = period.duration_ns - still_ns
        if moving_ns * 2 < period.duration_ns:
            still = f"next to nothing was sent for {still_ns / NS_PER_S:.1f} of {period.duration_ns / NS_PER_S:.1f} s"
            stays = f"{still}: throttle stays {self.throttle_percent} %"
            yield replace(self._unchanged(stays), period=period)
            return
        dirty_bytes = period.dirty_bytes * moving_ns // period.duration_ns
        shown = replace(period, duration_ns=moving_ns, dirty_bytes=dirty_bytes)
        actions = list(self._answers(self._view(sensed, shown, written, rules), rules))
        if not any(isinstance(action, Throttle) for action in actions):
            stays = f"throttle stays {self.throttle_percent} %"
            actions.append(self._unchanged(stays))
        for action in actions:
            yield replace(action, period=period) if isinstance(action, Throttle) else action
        if self._prospect and (hopeless := self._prospect.judge(period, rules.max_throttle_percent)):
            yield Tell(reason=hopeless)

    def _unchanged(self, reason: str) -> Throttle:
        if self._in_force.vcpu_percents is None:
            return Throttle(percent=self.throttle_percent, reason=reason)
        return replace(self._in_force, reason=reason)

    def _answers(self, view: View, rules: Rules) -> Iterator[Action]:
        assert self._policy
        try:
            answer = list(self._policy.look(view, rules.policy_settings))
        except (Exception, SystemExit) as error:  # whatever somebody's policy does, it must not cost the guest
            raise self._broken(f"it failed with {shown(error)}") from error
        for action in answer:
            yield self._checked(action, view.sensed.now_ns, rules)

    def _checked(self, action: Action, now_ns: int, rules: Rules) -> Action:
        if why := fault_of(action, self._body, self._ledger.vcpu_count):
            raise self._broken(why)
        if isinstance(action, Throttle):
            return self._throttle(action, now_ns, rules.max_throttle_percent)
        most_ms = rules.limits.max_downtime_ms
        if isinstance(action, SetDowntimeLimit) and most_ms is not None:
            return replace(action, limit_ns=min(action.limit_ns, most_ms * NS_PER_MS))
        return action

    def _throttle(self, wanted: Throttle, now_ns: int, most_percent: int) -> Throttle:
        """Return the throttle within what is allowed, spread over the vCPUs if that is asked for."""
        self.throttle_percent = min(wanted.percent, most_percent)
        self._asked.set_throttle(now_ns, self.throttle_percent)
        throttle = replace(wanted, percent=self.throttle_percent)
        if wanted.vcpu_percents is not None:
            throttle = replace(throttle, vcpu_percents=tuple(min(p, most_percent) for p in wanted.vcpu_percents))
        elif self._sharing and not wanted.still:
            throttle = self._sharing.shared(throttle, self._ledger.vcpu_count, now_ns, most_percent)
        self._in_force = throttle
        return throttle

    def _broken(self, why: str) -> PolicyError:
        assert self._kind
        return PolicyError(f"the policy '{self._kind.name}' is broken: {why}")

    def _view(self, sensed: Sensed, period: Period | None, written: Written | None, rules: Rules) -> View:
        began = sensed.iteration_count != self._shown_iteration_count
        self._shown_iteration_count = sensed.iteration_count
        return View(
            sensed=sensed,
            period=period,
            written=written,
            elapsed_ns=self.elapsed_ns(sensed.now_ns),
            iteration_began=began,
            iteration_remaining_bytes=self._iteration_remaining_bytes,
            throttle_percent=self.throttle_percent,
            lost_ns=self._ledger.taken_until(sensed.now_ns),
            vcpu_count=self._ledger.vcpu_count,
            still_ns=self._link.still_ns,
            surveyed=self._surveyed,
            limits=rules.limits,
        )

    def _iteration(self, sensed: Sensed, rules: Rules) -> IterationView:
        return IterationView(
            now_ns=sensed.now_ns,
            iteration_count=sensed.iteration_count,
            dirty_sync_count=sensed.dirty_sync_count,
            last_evaluation_ns=self._periods.evaluated_ns,
            throttle_percent=self.throttle_percent,
            maximum_throttle_percent=rules.max_throttle_percent,
        )


def require(kind: PolicyKind, body: Body, *, throttle_writers: bool) -> None:
    """Raise UsageError if a policy, or spreading its throttle over vCPUs, needs what a body cannot do."""
    kind.require(body)
    if throttle_writers and Body.PER_VCPU not in body:
        raise UsageError("cpu-throttle-writers: vCPUs cannot be slowed one by one here; set it to off")
