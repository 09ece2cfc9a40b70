"""QEMU's migration loop in virtual time (`migration/migration.c`, `migration/ram.c`).

It sends for 100 ms as much as `max-bandwidth` allows, and looks before each burst whether the rest fits the downtime
limit; where its estimate says so, it makes a dirty sync to learn the truth. Rates are worked out in those windows, and
the dirty rate at syncs, at most once per second.
"""

from typing import Any

from vmferry.errors import CancelledError, ChannelError, MigrationError
from vmferry.migration.status import MigrationStatus
from vmferry.simulation.process import Steps, start
from vmferry.simulation.qemu.auto_converge import ModelledAutoConverge
from vmferry.simulation.qemu.host import Host
from vmferry.simulation.qemu.ram import PAGE_BYTES_ON_WIRE, ZERO_PAGE_BYTES_ON_WIRE, Ram
from vmferry.units import NS_PER_MS, NS_PER_S, PAGE_SIZE_BYTES

_WINDOW_NS = 100 * NS_PER_MS
_WINDOWS_PER_S = NS_PER_S // _WINDOW_NS
_TURN_NS = _WINDOW_NS // 2
"""How long it sends before it looks around: QEMU's MAX_WAIT."""
_PERIOD_NS = NS_PER_S
_PERIODIC_SYNC_NS = 5 * NS_PER_S
_CLEAN_UP_NS = 10 * NS_PER_MS
_FIGURES_NS = NS_PER_MS
"""How long after `completed` QEMU has worked out how long it took."""
_STATE_BYTES = 100_000
"""The size of the devices' state in a small machine."""
_BATCH_PAGES = 1024
_MIN_BYTES_FOR_ESTIMATE = 10_000
_NEVER_CONNECTED = "Failed to connect to '{}': Connection refused"
_BROKEN = "Unable to write to socket: Broken pipe"
_NO_WORD = "Channel error: Input/output error"
_S = MigrationStatus


class ModelledMigration:
    """One migration at its source. Its settings may change while it runs."""

    def __init__(self, host: Host, uri: str) -> None:
        self.status = _S.NONE
        self.error = ""
        self.sync_count = 0
        self.bytes_at_last_sync = 0
        """What was left to send after it."""
        self._host = host
        self._clock = host.board.clock
        self._settings = host.settings
        self._uri = uri
        self._ram = Ram(host.guest, host.log)
        self._auto_converge = ModelledAutoConverge(lambda percent: host.throttle("auto-converge", percent))
        self._converges = self._settings.capabilities["auto-converge"]
        self._ran = host.run_state == "running"
        self._start_ns = self._window_start_ns = self._clock.now_ns()
        self._set_up_ns = self._total_ns = self._downtime_ns = 0
        self._sent = self._window_start_sent = self._period_start_sent = 0.0
        self._window_start_pages = self._period_dirty_pages = self._dirty_pages_rate = 0
        self._pages_per_s = 0
        self._period_start_ns: int | None = None
        self._threshold_bytes = self._mbps = 0.0
        self._expected_downtime_ms = int(self._settings.parameters["downtime-limit"])
        self._limited = True
        self._continued = self._cancelled = self._broken = False
        self._become(_S.SETUP)
        start(self._clock, self._run())

    @property
    def sent_bytes(self) -> int:
        """What was sent so far."""
        return round(self._sent)

    # What its monitor can do

    def cancel(self) -> None:
        """End it; harmless if it has ended."""
        if self.status.is_running:
            self._cancelled = True
            self._become(_S.CANCELLING)

    def go_on(self, state: str) -> bool:
        """Go on from a state in which it waits; False if it is in another."""
        self._continued = state == self.status
        return self._continued

    def break_connection(self) -> None:
        """The connection is lost from now on."""
        self._broken = True

    def answer(self) -> dict[str, Any]:
        """Return what `query-migrate` tells."""
        answer: dict[str, Any] = {"status": self.status.value}
        if self.error:
            answer["error-desc"] = self.error
        if not self.status.has_figures:
            return answer
        answer |= {"setup-time": self._set_up_ns // NS_PER_MS, "ram": self._ram_answer()}
        if self.status is _S.COMPLETED:
            times = {"total-time": self._total_ns // NS_PER_MS, "downtime": self._downtime_ns // NS_PER_MS}
            return answer | times
        elapsed_ms = (self._clock.now_ns() - self._start_ns) // NS_PER_MS
        answer |= {"total-time": elapsed_ms, "expected-downtime": self._expected_downtime_ms}
        if self._auto_converge.percent:
            answer["cpu-throttle-percentage"] = self._auto_converge.percent
        return answer

    def _ram_answer(self) -> dict[str, Any]:
        ram, ended = self._ram, self.status is _S.COMPLETED
        return {
            "total": ram.total_pages * PAGE_SIZE_BYTES,
            "remaining": 0 if ended else ram.waiting_bytes,
            "transferred": self.sent_bytes,
            "normal": ram.normal_pages,
            "normal-bytes": ram.normal_pages * PAGE_SIZE_BYTES,
            "duplicate": ram.zero_pages,
            "dirty-sync-count": self.sync_count,
            "dirty-pages-rate": 0 if ended else self._dirty_pages_rate,
            "mbps": self._mbps,
            "pages-per-second": self._pages_per_s,
            "page-size": PAGE_SIZE_BYTES,
            "postcopy-requests": 0,
        }

    # Its course

    def _run(self) -> Steps:
        try:
            yield from self._set_up()
            yield from self._precopy()
            yield from self._switch_over()
        except CancelledError:
            yield from self._give_up(_S.CANCELLED)
        except MigrationError as error:
            self.error = str(error)
            yield from self._give_up(_S.CANCELLED if self._cancelled else _S.FAILED)

    def _set_up(self) -> Steps:
        yield 2 * self._host.latency_ns
        self._check()
        if not self._host.destination.accept(self._uri):
            raise ChannelError(_NEVER_CONNECTED.format(self._uri.partition(":")[2]))
        with self._host.board.lock():
            self._host.log.start()
            yield self._host.board.set_up_ns()
        yield from self._sync()
        self._set_up_ns = self._clock.now_ns() - self._start_ns
        self._become(_S.ACTIVE)
        self._window_start_ns, self._window_start_sent = self._clock.now_ns(), self._sent
        if self._converges and self._host.release.syncs_periodically:
            start(self._clock, self._sync_periodically())

    def _precopy(self) -> Steps:
        while not (yield from self._rest_fits()):
            yield from self._send_burst()
            yield from self._limit_rate()

    def _switch_over(self) -> Steps:
        """Stop the guest and send what is left, holding the lock; wait for the destination's word without it."""
        start_ns = self._clock.now_ns()
        with self._host.board.lock():
            with self._host.board.let_others():
                yield from self._host.stop_for_hand_over()
                yield from self._pause_before_switchover()
            if self._host.release.tells_device:
                self._become(_S.DEVICE)
            self._limited = False
            yield from self._sync()
            while self._ram.waiting_pages:
                yield from self._send_some()
            yield from self._transmit(_STATE_BYTES)
        yield from self._await_destination()
        self._host.hand_over()
        self._finish()
        self._become(_S.COMPLETED)
        yield _FIGURES_NS
        now_ns = self._clock.now_ns()
        self._total_ns, self._downtime_ns = now_ns - self._start_ns, now_ns - start_ns
        self._mbps = self._sent * 8 / ((self._total_ns - self._set_up_ns) / NS_PER_S) / 1e6

    def _pause_before_switchover(self) -> Steps:
        if self._settings.capabilities["pause-before-switchover"]:
            self._become(_S.PRE_SWITCHOVER)
            while not self._continued:
                self._check()
                yield NS_PER_MS

    def _await_destination(self) -> Steps:
        """Hand all over to the destination; wait for its word if there is a return path."""
        loaded: list[bool] = []
        start(self._clock, self._load(loaded))
        if self._settings.capabilities["return-path"]:
            while not loaded:
                self._check()
                yield NS_PER_MS
            yield self._host.latency_ns
            self._check()
            if not loaded[0]:
                raise ChannelError(_NO_WORD)

    def _load(self, loaded: list[bool]) -> Steps:
        """At the destination: load the guest, all of which was sent, whatever becomes of the source."""
        destination = self._host.destination
        yield self._host.latency_ns + destination.load_model.load_ns
        loaded.append(destination.load(ran=self._ran))

    def _give_up(self, status: MigrationStatus) -> Steps:
        """Let the guest run on; a destination that has not got all of it ends."""
        self._finish()
        if self._limited or self._ram.waiting_pages:
            self._host.destination.lose()
        yield _CLEAN_UP_NS
        self._become(status)
        self._host.run_on(self._ran)

    def _finish(self) -> None:
        if self.sync_count:
            self._host.log.stop()
        self._auto_converge.stop()

    # Its parts

    def _rest_fits(self) -> Any:
        if self._ram.waiting_bytes < self._threshold_bytes:
            yield from self._sync()
        self._check()
        return self._ram.waiting_bytes == 0 or self._ram.waiting_bytes < self._threshold_bytes

    def _send_burst(self) -> Steps:
        end_ns = self._clock.now_ns() + _TURN_NS
        while self._ram.waiting_pages and not self._window_is_full and self._clock.now_ns() < end_ns:
            yield from self._send_some()

    def _send_some(self) -> Steps:
        taken, costs = self._ram.take(self._batch_pages()), self._host.costs
        if taken.zero_pages:
            yield round(taken.zero_pages * costs.scan_ns_per_zero_page)
        populated_ns = self._clock.now_ns() + round(taken.fresh_pages * costs.populate_ns_per_page)
        yield from self._transmit(taken.normal_pages * PAGE_BYTES_ON_WIRE + taken.zero_pages * ZERO_PAGE_BYTES_ON_WIRE)
        if (waiting_ns := populated_ns - self._clock.now_ns()) > 0:
            yield waiting_ns

    def _transmit(self, size_bytes: float) -> Steps:
        while size_bytes > 0:
            self._check()
            step_ns, sent_bytes = self._host.pace.step(size_bytes)
            yield step_ns
            size_bytes -= sent_bytes
            self._sent += sent_bytes
        self._check()

    def _sync(self) -> Steps:
        """Find what was dirtied, with the lock held; QEMU counts a sync before it looks."""
        self.sync_count += 1
        with self._host.board.lock():
            yield round(self._host.costs.sync_ns_per_page * self._ram.total_pages)
            self._period_dirty_pages += self._ram.sync()
        self.bytes_at_last_sync = self._ram.waiting_bytes
        self._tell("MIGRATION_PASS", **{"pass": self.sync_count})
        now_ns = self._clock.now_ns()
        if self._period_start_ns is None:
            self._period_start_ns = now_ns
        if now_ns > self._period_start_ns + _PERIOD_NS:
            self._end_period(now_ns - self._period_start_ns)
            self._period_start_ns = now_ns

    def _end_period(self, duration_ns: int) -> None:
        dirty_pages, sent_bytes = self._period_dirty_pages, self._sent - self._period_start_sent
        if self._converges:
            self._auto_converge.judge(dirty_pages * PAGE_SIZE_BYTES, sent_bytes, self._settings.parameters)
        self._dirty_pages_rate = dirty_pages * NS_PER_S // duration_ns
        self._period_dirty_pages, self._period_start_sent = 0, self._sent

    def _sync_periodically(self) -> Steps:
        """Since 9.2: a sync where none was made for as long as a timer takes, but for the first pass."""
        seen = self.sync_count
        while True:
            yield _PERIODIC_SYNC_NS
            if self.status is not _S.ACTIVE or self._host.run_state != "running":
                return
            if self.sync_count > 1 and self.sync_count == seen and not self._host.board.is_locked:
                yield from self._sync()
            seen = self.sync_count

    @property
    def _limit_bytes(self) -> int:
        """Return how much may be sent in a window; 0 is without limit."""
        return int(self._settings.parameters["max-bandwidth"]) // _WINDOWS_PER_S if self._limited else 0

    @property
    def _window_is_full(self) -> bool:
        limit_bytes = self._limit_bytes
        return limit_bytes > 0 and self._sent - self._window_start_sent > limit_bytes

    def _batch_pages(self) -> int:
        limit_bytes = self._limit_bytes
        if not limit_bytes or self._ram.is_behind_used:
            return _BATCH_PAGES
        left_bytes = limit_bytes - (self._sent - self._window_start_sent)
        return max(1, min(_BATCH_PAGES, int(left_bytes / PAGE_BYTES_ON_WIRE) + 1))

    def _limit_rate(self) -> Steps:
        self._update_counters()
        if self._window_is_full:
            yield max(0, self._window_start_ns + _WINDOW_NS - self._clock.now_ns()) + self._host.board.wake_ns()
            self._update_counters()
        self._check()

    def _update_counters(self) -> None:
        now_ns = self._clock.now_ns()
        if now_ns < self._window_start_ns + _WINDOW_NS:
            return
        passed_ms = (now_ns - self._window_start_ns) // NS_PER_MS
        sent_bytes = self._sent - self._window_start_sent
        pages = self._ram.normal_pages + self._ram.zero_pages
        bytes_per_ms = sent_bytes / passed_ms
        switchover_bytes_per_ms = self._switchover_bytes_per_ms(bytes_per_ms)
        self._threshold_bytes = switchover_bytes_per_ms * int(self._settings.parameters["downtime-limit"])
        self._mbps = bytes_per_ms * 8 / 1000
        self._pages_per_s = (pages - self._window_start_pages) * 1000 // passed_ms
        if self._dirty_pages_rate and sent_bytes > _MIN_BYTES_FOR_ESTIMATE:
            self._expected_downtime_ms = int(self.bytes_at_last_sync / switchover_bytes_per_ms)
        self._window_start_ns, self._window_start_sent, self._window_start_pages = now_ns, self._sent, pages

    def _switchover_bytes_per_ms(self, measured: float) -> float:
        given = int(self._settings.parameters.get("avail-switchover-bandwidth", 0))
        return given // 1000 if given else measured

    def _check(self) -> None:
        """Raise what ends the migration, if something has happened that does."""
        if self._cancelled:
            raise CancelledError("the migration was cancelled")
        if self._broken:
            raise ChannelError(_BROKEN)

    def _become(self, status: MigrationStatus) -> None:
        self.status = status
        self._tell("MIGRATION", status=status.value)

    def _tell(self, event: str, **data: Any) -> None:
        if self._settings.capabilities["events"]:
            self._host.board.tell(event, **data)
