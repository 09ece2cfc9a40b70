"""A migration as its source sees it, from the connection to the last state.

One object is one migration, run by one thread, which alone touches the bitmaps; other threads may
call `cancel` and `info`. Whatever goes wrong before Commit, the guest runs on here, unthrottled and
without dirty logging. The loop itself is in `precopy.py`, the hand-over in `switchover.py`.
"""

from collections.abc import Callable
from contextlib import ExitStack

from vmferry.cancel import CancelToken
from vmferry.convergence.brain import require
from vmferry.convergence.policies.registry import PolicyKind, find_policy
from vmferry.errors import CancelledError, ChannelError, MigrationError, PolicyError, UsageError, VmferryError
from vmferry.migration.body import abilities
from vmferry.migration.delta import Deltas
from vmferry.migration.events import Ended, Started, StatusChanged, SwitchoverBegan, SwitchoverFailed
from vmferry.migration.greeting import Greeting
from vmferry.migration.handshake import Credentials
from vmferry.migration.info import MigrationInfo, RamInfo
from vmferry.migration.journal import TeeJournal
from vmferry.migration.lost_work import LostWork
from vmferry.migration.outgoing import Outgoing
from vmferry.migration.peer import Deadline
from vmferry.migration.ports import Channel, Clock, Guest, Journal, Widen
from vmferry.migration.precopy import Precopy
from vmferry.migration.status import SOURCE_TRANSITIONS, MigrationStatus
from vmferry.migration.switchover import Owner, Switchover
from vmferry.migration.verification import estimate_digests_ns
from vmferry.settings.capabilities import MigrationCapabilities
from vmferry.settings.parameters import MigrationParameters
from vmferry.units import NS_PER_MS, NS_PER_S, format_duration
from vmferry.wire.messages import Failed

_CANCELLED = "the migration was cancelled"
"""Said of what somebody merely wished for, which is no error."""
_CONNECT_TIMEOUT_NS = 60 * NS_PER_S
_HELLO_TIMEOUT_NS = 15 * NS_PER_S
_LAST_WORDS_TIMEOUT_NS = NS_PER_S


class MigrationSource:
    """One outgoing migration of `guest` over the channel that `open_channel` makes; begins in `setup`.

    `parameters` is asked at every use, so that changes act on the running migration; only the kind and the times of
    background syncs, when pages are armed, and the convergence policy are fixed when it begins.
    `open_channel` is given a function to call while it waits; `widen` makes more of its channel if the capability
    `multifd` is on. Raises UsageError if the policy or a capability cannot be used here.
    """

    def __init__(
        self,
        guest: Guest,
        open_channel: Callable[[Callable[[], None]], Channel],
        clock: Clock,
        journal: Journal,
        parameters: Callable[[], MigrationParameters],
        capabilities: MigrationCapabilities,
        credentials: Credentials,
        widen: Widen | None = None,
    ) -> None:
        self.status = MigrationStatus.NONE
        self.error: str | None = None
        self._policy_broken = False
        self._guest = guest
        self._open_channel = open_channel
        self._widen = widen
        self._clock = clock
        self._lost = LostWork()
        self._journal = TeeJournal([journal, self._lost])
        self._parameters = parameters
        self._capabilities = capabilities
        self._credentials = credentials
        self._cancel = CancelToken()
        self._continue_requested = False
        self._end_ns = self._setup_ns = 0
        self._channel: Channel | None = None
        self._precopy: Precopy | None = None
        self._switchover: Switchover | None = None
        self._start_ns = clock.now_ns()
        policy = find_policy(parameters().convergence_policy)
        if capabilities.auto_converge:
            require(policy, abilities(guest), throttle_writers=parameters().cpu_throttle_writers)
        self._deltas = self._make_deltas()
        self._record_start(policy)
        self._set_status(MigrationStatus.SETUP)

    @property
    def owner(self) -> Owner:
        """Who may run the guest."""
        return self._switchover.owner if self._switchover else Owner.SOURCE

    def cancel(self, reason: str = _CANCELLED) -> None:
        """Ask for the end of the migration; the loop sees it within 100 ms. No effect once Commit is sent.

        A reason is told as the migration's error.
        """
        self._cancel.set(reason)

    def keep_paused(self) -> None:
        """Do not let a guest that is being handed over run afterwards, on either side."""
        if self._switchover:
            self._switchover.keep_paused()

    def continue_from(self, state: MigrationStatus) -> None:
        """Let a migration that waits in this state go on. Raises UsageError if it is in another one."""
        if self.status is not state:
            raise UsageError(f"Migration not in expected state: {self.status}")
        self._continue_requested = state is MigrationStatus.PRE_SWITCHOVER

    def take_back(self) -> None:
        """Take a guest back that a person has seen not to be at the destination.

        Raises UsageError if no hand-over is in doubt.
        """
        if self.status is not MigrationStatus.IN_DOUBT or not self._switchover:
            raise UsageError("no hand-over is in doubt")
        self._switchover.owner = Owner.SOURCE
        self.error = f"{self.error}; taken back by force"
        self._set_status(MigrationStatus.FAILED)

    def run(self) -> MigrationStatus:
        """Migrate. Return completed, failed, in-doubt or cancelled; nothing is raised but our own defects."""
        try:
            self._migrate()
        except CancelledError as error:
            self._set_status(MigrationStatus.CANCELLING)
            self._finish(MigrationStatus.CANCELLED, None if str(error) == _CANCELLED else error)
        except VmferryError as error:
            self._fail(error)
        except BaseException as error:
            # Even a defect of ours must not leave the guest slowed down or stopped.
            self._fail(error)
            raise
        else:
            self._finish(MigrationStatus.COMPLETED)
        return self.status

    def _migrate(self) -> None:
        in_time = Deadline(
            self._clock,
            _CONNECT_TIMEOUT_NS,
            f"no connection in {format_duration(_CONNECT_TIMEOUT_NS)}",
            self._cancel.check,
        )
        self._channel = self._open_channel(in_time)
        self._channel = self._greet(self._channel)
        digests_ns = estimate_digests_ns(self._guest, self._clock) if self._parameters().auto_verify else None
        self._guest.start_dirty_log()
        self._setup_ns = self._clock.now_ns() - self._start_ns
        outgoing = Outgoing(
            self._guest,
            self._channel,
            self._clock,
            self._journal,
            self._parameters,
            self._capabilities.auto_converge,
            self._deltas,
            self._cancel.check,
        )
        self._precopy = Precopy(outgoing, self._lost)
        self._set_status(MigrationStatus.ACTIVE)
        self._precopy.run(spare_ns=digests_ns or 0)
        self._hand_over(self._channel, self._precopy, digests_ns)

    def _make_deltas(self) -> Deltas | None:
        wanted = self._capabilities.xbzrle
        return Deltas(self._guest, lambda: self._parameters().xbzrle_cache_size) if wanted else None

    def _hand_over(self, channel: Channel, precopy: Precopy, digests_ns: int | None) -> None:
        began = self._plan_switchover(precopy, digests_ns)
        self._switchover = switchover = Switchover(self._guest, channel, self._clock, self._cancel.check)
        self._journal.record(self._clock.now_ns(), began)
        switchover.stop()
        if self._capabilities.pause_before_switchover:
            self._set_status(MigrationStatus.PRE_SWITCHOVER)
            switchover.wait_until(lambda: self._continue_requested, self._parameters().switchover_timeout_ns())
        self._set_status(MigrationStatus.DEVICE)
        parameters = self._parameters()
        switchover.run(
            precopy,
            verify_within_ns=None if parameters.verify else precopy.body.downtime_limit_ns * bool(began.verify),
            timeout_ns=parameters.switchover_timeout_ns(precopy.rest_ns()),
        )

    def _plan_switchover(self, precopy: Precopy, digests_ns: int | None) -> SwitchoverBegan:
        parameters = self._parameters()
        left_ns = precopy.body.downtime_limit_ns - precopy.rest_ns()
        fits = parameters.auto_verify and digests_ns is not None and digests_ns <= left_ns
        return SwitchoverBegan(
            remaining_bytes=precopy.sync.remaining_bytes,
            threshold_bytes=precopy.body.threshold_bytes,
            verify=parameters.verify or fits,
            verify_estimate_ns=digests_ns,
        )

    def _greet(self, channel: Channel) -> Channel:
        text = f"the destination did not answer in {format_duration(_HELLO_TIMEOUT_NS)}"
        in_time = Deadline(self._clock, _HELLO_TIMEOUT_NS, text, self._cancel.check)
        greeting = Greeting(self._guest.layout, self._credentials, self._capabilities, self._parameters(), self._widen)
        return greeting.greet(channel, in_time)

    def _reason(self, error: BaseException) -> str:
        """When the connection broke, the destination may have said why before it went away.

        It is asked when the guest runs again: nobody needs to wait for it.
        """
        if not isinstance(error, VmferryError):
            return f"internal error: {error!r}"
        if isinstance(error, ChannelError) and self._channel and self.owner is Owner.SOURCE:
            try:
                last_words = self._channel.receive(Deadline(self._clock, _LAST_WORDS_TIMEOUT_NS, "silence"))
            except MigrationError:
                return str(error)
            if isinstance(last_words, Failed):
                return f"the destination failed: {last_words.reason}"
        return str(error)

    def _fail(self, error: BaseException) -> None:
        in_doubt = self.owner is Owner.IN_DOUBT
        self._finish(MigrationStatus.IN_DOUBT if in_doubt else MigrationStatus.FAILED, error)

    def _finish(self, status: MigrationStatus, error: BaseException | None = None) -> None:
        try:
            self._release_guest()
        except VmferryError as trouble:
            error = error or trouble
        self._end_ns = self._clock.now_ns()
        self.error = self._reason(error) if error else None
        self._policy_broken = isinstance(error, PolicyError)
        if self._channel:
            self._channel.close()
        self._set_status(status)
        self._record_end()

    def _release_guest(self) -> None:
        """Undo all that was done to the guest, which runs again first of all; each step is made even if one fails."""
        with ExitStack() as steps:  # last in, first out
            steps.callback(self._guest.stop_dirty_log)
            steps.callback(self._guest.set_throttle, 0)
            if self._switchover:
                steps.callback(self._release_stopped_guest, self._switchover)

    def _release_stopped_guest(self, switchover: Switchover) -> None:
        switchover.resume_if_ours()
        if switchover.owner is Owner.SOURCE:
            self._journal.record(self._clock.now_ns(), SwitchoverFailed(stopped_ns=switchover.downtime.total_ns))

    def _set_status(self, status: MigrationStatus) -> None:
        assert status in SOURCE_TRANSITIONS[self.status], f"{self.status} -> {status}"
        old, self.status = self.status, status
        event = StatusChanged(old=old, new=status, reason=self.error or "")
        self._journal.record(self._clock.now_ns(), event)

    def _total_time_ns(self) -> int:
        return (self._end_ns or self._clock.now_ns()) - self._start_ns

    def info(self) -> MigrationInfo:
        """Return the state of affairs in the terms of `query-migrate`, from any thread."""
        status, channel, precopy = self.status, self._channel, self._precopy
        if not (status.has_figures and channel and precopy):
            return MigrationInfo(status=status, error_desc=self.error)
        completed = status is MigrationStatus.COMPLETED
        downtime = self._switchover.downtime if self._switchover and completed else None
        parts_ns = downtime.parts_ns if downtime else {}
        return MigrationInfo(
            status=status,
            total_time_ms=self._total_time_ns() // NS_PER_MS,
            setup_time_ms=self._setup_ns // NS_PER_MS,
            expected_downtime_ms=None if completed else precopy.expected_downtime_ms,
            downtime_ms=downtime.total_ns // NS_PER_MS if downtime else None,
            downtime_parts_ms={name: ns / NS_PER_MS for name, ns in parts_ns.items()} or None,
            ram=self._ram_info(channel, precopy, completed),
            cpu_throttle_percentage=None if completed else precopy.body.throttle_percent or None,
            cpu_throttle_vcpus=None if completed else precopy.body.vcpu_throttle_percents,
            compression=channel.compression,
            xbzrle_cache=self._deltas.figures if self._deltas else None,
            stalled_time_ms=None if completed else precopy.link.still_ns // NS_PER_MS or None,
            verified=self._switchover.verified if self._switchover and completed else None,
            error_desc=self.error,
        )

    def _ram_info(self, channel: Channel, precopy: Precopy, completed: bool) -> RamInfo:
        counters, layout = precopy.counters, self._guest.layout
        sent_bytes = channel.sent_bytes
        precopy_bytes = counters.precopy_bytes or sent_bytes
        busy_ns = max(1, self._total_time_ns() - self._setup_ns)
        bytes_per_s = sent_bytes * NS_PER_S / busy_ns if completed else precopy.meter.bytes_per_s
        return RamInfo(
            transferred=sent_bytes,
            remaining=0 if completed else precopy.sync.remaining_bytes,
            total=layout.size_bytes,
            duplicate=counters.zero_pages,
            normal=counters.normal_pages,
            normal_bytes=counters.normal_pages * layout.page_size,
            dirty_pages_rate=0 if completed else counters.dirty_pages_rate,
            mbps=bytes_per_s * 8 / 1e6,
            dirty_sync_count=counters.dirty_sync_count,
            iteration_count=counters.iteration_count,
            dirty_sync_time=counters.sync_ns / NS_PER_MS,
            page_size=layout.page_size,
            multifd_bytes=channel.multifd_bytes,
            pages_per_second=counters.pages_per_s,
            precopy_bytes=precopy_bytes,
            downtime_bytes=sent_bytes - precopy_bytes,
        )

    def _record_start(self, policy: PolicyKind) -> None:
        layout = self._guest.layout
        event = Started(
            page_size=layout.page_size,
            page_count=layout.page_count,
            vcpu_count=layout.vcpu_count,
            auto_converge=self._capabilities.auto_converge,
            parameters=self._parameters().as_qmp(),
            policy_digest=policy.digest,
        )
        self._journal.record(self._start_ns, event)

    def _record_end(self) -> None:
        downtime = self._switchover.downtime if self._switchover else None
        counters = self._precopy.counters if self._precopy else None
        event = Ended(
            status=self.status,
            total_time_ns=self._total_time_ns(),
            downtime_ns=downtime.total_ns if downtime else 0,
            downtime_parts_ns=downtime.parts_ns if downtime else {},
            sent_bytes=self._channel.sent_bytes if self._channel else 0,
            iteration_count=counters.iteration_count if counters else 0,
            dirty_sync_count=counters.dirty_sync_count if counters else 0,
            max_throttle_percent=counters.max_throttle_percent if counters else 0,
            error=self.error or "",
            verified=bool(self._switchover and self._switchover.verified),
            policy_broken=self._policy_broken,
        )
        self._journal.record(self._end_ns, event)
