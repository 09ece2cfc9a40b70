"""A migration as a whole, in one thread and in no time."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.support.loopback import MIB, ManualClock, Pair, Writer
from vmferry.convergence.variants import VARIANTS
from vmferry.convergence.watcher import BackgroundSync
from vmferry.errors import ChannelError, UsageError
from vmferry.migration.events import (
    BandwidthWindow,
    Decided,
    Ended,
    Event,
    LinkStalled,
    StatusChanged,
    SwitchoverBegan,
    SwitchoverFailed,
    Synced,
)
from vmferry.migration.peer import Patience
from vmferry.migration.ports import Channel
from vmferry.migration.source import MigrationSource
from vmferry.migration.status import MigrationStatus
from vmferry.migration.switchover import Owner
from vmferry.testing.memory_guest import MemoryGuest
from vmferry.wire.messages import Commit, Digest, Finish, Hello, Message, Pages, State

S = MigrationStatus


def assert_handed_over(pair: Pair, running: bool = True) -> None:
    assert pair.source.error is None
    assert pair.source.status is S.COMPLETED
    assert pair.source.owner is Owner.DESTINATION
    assert pair.destination.in_charge
    assert not pair.here.running
    assert pair.there.running is running
    assert np.array_equal(pair.here.ram, pair.there.ram)
    assert_released(pair)


def assert_still_here(pair: Pair, status: MigrationStatus) -> None:
    assert_still_running(pair, status)
    assert not pair.destination.in_charge
    assert_released(pair)


def assert_still_running(pair: Pair, status: MigrationStatus) -> None:
    assert pair.source.status is status
    assert pair.source.owner is Owner.SOURCE
    assert pair.here.running
    assert not pair.there.running


def assert_released(pair: Pair) -> None:
    assert pair.here.throttle_percent == 0
    assert not pair.here.logging
    assert not pair.channel.open


def test_an_idle_guest_moves_in_one_pass() -> None:
    pair = Pair()
    pair.source.run()
    assert_handed_over(pair)
    counters = pair.source.info().ram
    assert counters
    assert (counters.normal, counters.duplicate) == (128, 128)


def test_statuses_in_order() -> None:
    pair = Pair()
    pair.source.run()
    assert [event.new for event in pair.events(StatusChanged)] == [S.SETUP, S.ACTIVE, S.DEVICE, S.COMPLETED]


def test_messages_in_order() -> None:
    pair = Pair(verify=True)
    pair.source.run()
    kinds = [type(message) for message in pair.channel.messages]
    sent = [kind for kind in kinds if kind in (Hello, Pages, State, Digest, Finish, Commit)]
    assert sent[0] is Hello
    assert sent[-4:] == [State, Digest, Finish, Commit]
    assert set(sent[1:-4]) == {Pages}


def test_pages_that_became_zero_again_are_zero_there() -> None:
    pair = Pair(downtime_limit=50)

    def clear_some(message: Message) -> None:
        if isinstance(message, Pages) and pair.here.running and len(message.data):
            pair.here.write(int(message.data.first[0]) ^ 32, 0)

    pair.channel.before_send = clear_some
    pair.source.run()
    assert_handed_over(pair)


@pytest.mark.parametrize("background_sync", ["off", "preserve", "merge"])
@pytest.mark.parametrize("responsive", [False, True])
def test_a_busy_guest_converges_by_being_throttled(background_sync: str, responsive: bool) -> None:
    pair = Pair(4096, bytes_per_s=MIB, background_sync=background_sync, cpu_responsive_throttle=responsive)
    Writer(pair, page_count=3000, pages_per_s=1000)
    pair.source.run()
    assert_handed_over(pair)
    assert pair.here.max_throttle_percent >= 50
    assert {event.kind for event in pair.events(Synced)} == {"iteration", "last"} | (
        {"background"} if background_sync != "off" else set()
    )


def test_background_sync_throttles_within_an_iteration() -> None:
    def time_of_first_throttle(background_sync: str) -> int:
        pair = Pair(8192, bytes_per_s=MIB, background_sync=background_sync)
        Writer(pair, page_count=8000, pages_per_s=2000)
        pair.source.run()
        return next(
            entry.time_ns
            for entry in pair.journal.entries
            if isinstance(entry.event, Decided) and entry.event.throttle_percent
        )

    assert time_of_first_throttle("preserve") < time_of_first_throttle("off")


def test_without_auto_converge_nothing_is_throttled() -> None:
    pair = Pair(1024, auto_converge=False)
    writer = Writer(pair, page_count=600, pages_per_s=2000)

    def stop_after_a_while(message: Message) -> None:
        if pair.clock.now_ns() < 20_000_000_000:
            writer.work(message)

    pair.channel.before_send = stop_after_a_while
    pair.source.run()
    assert_handed_over(pair)
    assert pair.here.max_throttle_percent == 0
    assert pair.events(Decided) == []


def test_the_throttle_never_exceeds_its_maximum() -> None:
    pair = Pair(2048, max_cpu_throttle=37)
    Writer(pair, page_count=1500, pages_per_s=3000)
    cancel_after(pair, seconds=200)
    pair.source.run()
    assert pair.here.max_throttle_percent == 37


def cancel_after(pair: Pair, seconds: int) -> None:
    work = pair.channel.before_send

    def check(message: Message) -> None:
        work(message)
        if pair.clock.now_ns() > seconds * 10**9:
            pair.source.cancel()

    pair.channel.before_send = check


def test_cancelling_leaves_the_guest_running_at_full_speed() -> None:
    pair = Pair(2048, bytes_per_s=MIB // 4)
    Writer(pair, page_count=1500, pages_per_s=3000)
    cancel_after(pair, seconds=60)
    pair.source.run()
    assert_still_here(pair, S.CANCELLED)
    assert [event.new for event in pair.events(StatusChanged)][-2:] == [S.CANCELLING, S.CANCELLED]


def test_cancelling_during_the_hand_over_is_in_time_until_commit() -> None:
    for last in (State, Finish):
        pair = Pair()

        def cancel(message: Message, pair: Pair = pair, last: type = last) -> None:
            if isinstance(message, last):
                pair.source.cancel()

        pair.channel.before_send = cancel
        pair.source.run()
        assert_still_here(pair, S.CANCELLED)


def waiting_pair(**options: object) -> Pair:
    """A migration that will wait before its switchover; nothing else here sleeps."""
    return Pair(pause_before_switchover=True, **options)  # type: ignore[arg-type]


def test_it_waits_before_the_switchover_with_the_guest_stopped() -> None:
    pair = waiting_pair()
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1
        info = pair.source.info()
        assert info.status is S.PRE_SWITCHOVER
        assert info.ram
        assert (pair.here.running, pair.there.running) == (False, False)
        for state in (S.ACTIVE, S.DEVICE):
            with pytest.raises(UsageError, match="Migration not in expected state: pre-switchover"):
                pair.source.continue_from(state)
        if looks == 5000:
            pair.source.continue_from(S.PRE_SWITCHOVER)

    pair.clock.on_sleep = look
    pair.source.run()
    assert_handed_over(pair)
    assert looks == 5000
    assert [event.new for event in pair.events(StatusChanged)] == [
        S.SETUP, S.ACTIVE, S.PRE_SWITCHOVER, S.DEVICE, S.COMPLETED,
    ]  # fmt: skip
    (ended,) = pair.events(Ended)
    assert ended.downtime_parts_ns["pause"] >= 10**10
    assert list(ended.downtime_parts_ns) == ["stop", "pause", "last-sync", "ram", "state", "hand-over"]


def test_a_link_that_takes_nothing_ends_the_wait_in_time() -> None:
    pair = waiting_pair()
    pair.clock.on_sleep = lambda: setattr(pair.channel, "stalls", True)
    pair.source.run()
    assert pair.source.status is S.FAILED
    assert "took nothing for 10.0 s (switchover-timeout)" in str(pair.source.error)
    assert pair.here.running
    (ended,) = pair.events(Ended)
    assert 10**10 < ended.downtime_parts_ns["pause"] < 12 * 10**9


def test_going_on_cannot_be_asked_for_in_advance() -> None:
    pair = waiting_pair()
    for state in (S.PRE_SWITCHOVER, S.DEVICE):
        with pytest.raises(UsageError, match="Migration not in expected state: setup"):
            pair.source.continue_from(state)
    pair.source.continue_from(S.SETUP)
    pair.clock.on_sleep = pair.source.cancel
    pair.source.run()
    assert_still_here(pair, S.CANCELLED)


def test_cancelling_while_it_waits_lets_the_guest_run_on() -> None:
    pair = waiting_pair()
    pair.clock.on_sleep = pair.source.cancel
    pair.source.run()
    assert_still_here(pair, S.CANCELLED)
    assert S.DEVICE not in [event.new for event in pair.events(StatusChanged)]


def test_a_guest_that_was_paused_stays_so_when_the_wait_is_cancelled() -> None:
    pair = waiting_pair()
    pair.here.pause()
    pair.clock.on_sleep = pair.source.cancel
    pair.source.run()
    assert pair.source.status is S.CANCELLED
    assert not pair.here.running


def test_a_destination_that_goes_away_while_it_waits_is_noticed() -> None:
    pair = waiting_pair()
    pair.clock.on_sleep = pair.channel.close
    pair.source.run()
    assert_still_here(pair, S.FAILED)
    assert len(pair.events(StatusChanged)) == 4


@pytest.mark.parametrize("cancelled", [True, False])
def test_a_guest_that_is_stopped_while_it_waits_stays_stopped(cancelled: bool) -> None:
    pair = waiting_pair()

    def look() -> None:
        pair.source.keep_paused()
        if cancelled:
            pair.source.cancel()
        else:
            pair.source.continue_from(S.PRE_SWITCHOVER)

    pair.clock.on_sleep = look
    pair.source.run()
    assert pair.source.status is (S.CANCELLED if cancelled else S.COMPLETED)
    assert not pair.here.running
    assert not pair.there.running


@pytest.mark.parametrize(
    ("kind", "verify", "patience_s"), [(Hello, False, 15), (State, False, 30), (Finish, False, 30), (Finish, True, 30)]
)
def test_a_destination_that_stands_still_is_given_up(kind: type[Message], verify: bool, patience_s: int) -> None:
    pair = Pair(verify=verify, switchover_timeout=60_000)
    pair.channel.silent_from = kind
    pair.source.run()
    assert_still_here(pair, S.FAILED)
    assert pair.source.error
    assert "did not answer" in pair.source.error or "stood still for 30 s" in pair.source.error
    (ended,) = pair.events(Ended)
    assert patience_s * 10**9 < ended.total_time_ns < (patience_s + 2) * 10**9


@pytest.mark.parametrize("kind", [Pages, State, Digest, Finish])
@pytest.mark.parametrize(
    ("parameters", "timeout_s"),
    [({}, 10), ({"downtime_limit": 1500}, 15), ({"switchover_timeout": 20_000, "downtime_limit": 9000}, 20)],
)
def test_a_link_that_drips_does_not_keep_the_guest_stopped(
    kind: type[Message], parameters: dict[str, Any], timeout_s: int
) -> None:
    pair = Pair(verify=True, **parameters)
    pair.channel.drips = lambda message: isinstance(message, kind) and not pair.here.running
    pair.channel.before_send = lambda message: pair.here.write(0, 7) if pair.here.running else None
    pair.source.run()
    assert_still_here(pair, S.FAILED)
    assert pair.source.error == f"the guest was stopped for {timeout_s}.0 s and not handed over (switchover-timeout)"
    (failed,) = pair.events(SwitchoverFailed)
    assert timeout_s * 10**9 < failed.stopped_ns <= (timeout_s + 8) * 10**9  # the drip takes 7 s


def test_a_link_that_drips_from_the_greeting_on_is_given_up() -> None:
    pair = Pair()
    pair.channel.drips = lambda message: True
    pair.source.run()
    assert_still_here(pair, S.FAILED)
    assert pair.source.error == "the destination did not answer in 15 s"
    assert pair.clock.now_ns() < 30 * 10**9


def stalling_pair(variant: str, *, drips: bool, **parameters: object) -> Pair:
    """A busy guest that is being throttled when its link stands still, for good, or drips."""
    pair = Pair(8192, bytes_per_s=MIB, **VARIANTS[variant].settings, **parameters)  # type: ignore[arg-type]
    Writer(pair, page_count=8000, pages_per_s=2000)
    work = pair.channel.before_send

    def stall(message: Message) -> None:
        work(message)
        if pair.here.throttle_percent and pair.source.info().ram.iteration_count > 1:  # type: ignore[union-attr]
            pair.channel.stalls, pair.channel.drip_bytes = True, 64 if drips else 0

    pair.channel.before_send = stall
    return pair


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("drips", [False, True])
def test_a_link_that_stands_still_slows_nobody_and_is_given_up(variant: str, drips: bool) -> None:
    pair = stalling_pair(variant, drips=drips)
    pair.source.run()
    assert_still_here(pair, S.FAILED)
    assert pair.source.error == "the link has stood still for 120 s (stall-timeout)"
    (stalled,) = [entry for entry in pair.journal.entries if isinstance(entry.event, LinkStalled)]
    later = [entry.event for entry in pair.journal.entries if entry.time_ns > stalled.time_ns]
    decided = [event for event in later if isinstance(event, Decided)]
    assert all(event.throttle_percent == event.old_throttle_percent for event in decided)
    assert all("next to nothing was sent for" in event.reason for event in decided[1:])
    if VARIANTS[variant].background_sync is not BackgroundSync.OFF:
        assert decided


def test_a_link_that_stands_still_for_a_while_is_told_and_waited_for() -> None:
    pair = stalling_pair("background-sync", drips=False)
    seen = []

    def on_blocked() -> None:
        seen.append(pair.source.info().stalled_time_ms)
        if len(seen) == 600:
            pair.channel.stalls = False
            pair.channel.before_send = lambda message: None

    pair.channel.on_stalled = on_blocked
    pair.source.run()
    assert_handed_over(pair)
    assert seen[10] is None
    assert seen[-1] == 59_900
    begun, ended = pair.events(LinkStalled)
    assert (begun.over, ended.over) == (False, True)
    assert 59 * 10**9 < ended.duration_ns < 62 * 10**9


def test_a_link_that_stands_still_is_waited_for_ever_if_asked() -> None:
    pair = stalling_pair("background-sync", drips=False, stall_timeout=0)
    seen: list[int] = []

    def on_blocked() -> None:
        seen.append(pair.source.info().stalled_time_ms or 0)
        if len(seen) == 20_000:
            pair.source.cancel()

    pair.channel.on_stalled = on_blocked
    pair.source.run()
    assert_still_here(pair, S.CANCELLED)
    assert seen[-1] > 1_900_000


def test_a_link_that_drips_commit_leaves_the_hand_over_in_doubt() -> None:
    pair = Pair()
    pair.channel.drips = lambda message: isinstance(message, Commit)
    pair.source.run()
    assert pair.source.owner is Owner.IN_DOUBT
    assert not pair.here.running
    assert "the destination did not confirm in 30 s" in (pair.source.error or "")
    (ended,) = pair.events(Ended)
    assert ended.total_time_ns < 40 * 10**9


class PairThatNeverMeets(Pair):
    def open_channel(self, while_blocked: Callable[[], None]) -> Channel:
        while True:
            self.clock.time_ns += 50_000_000
            while_blocked()


def test_a_host_that_never_accepts_the_connection_is_given_up() -> None:
    pair = PairThatNeverMeets()
    pair.source.run()
    assert_still_running(pair, S.FAILED)
    assert pair.source.error == "no connection in 60 s"


def last_words_after(pair: Pair, guest_says: Callable[[], None]) -> None:
    """Break the link at State; while the source waits for last words, which never come, call `guest_says`."""

    lost = False

    def lose(message: Message) -> None:
        nonlocal lost
        if isinstance(message, State):
            lost = True
            raise ChannelError("lost")

    def receive(while_blocked: Callable[[], None]) -> Message:
        if not lost:
            return answer(while_blocked)
        guest_says()
        while True:
            pair.clock.time_ns += 100_000_000
            while_blocked()

    answer: Callable[[Callable[[], None]], Message] = pair.channel.receive
    pair.channel.before_send = lose
    pair.channel.receive = receive
    pair.source.run()
    assert pair.source.error == "lost"


def test_the_guest_runs_again_before_the_destination_is_asked_why_it_left() -> None:
    pair = Pair()
    seen = []
    last_words_after(pair, lambda: seen.append((pair.here.running, pair.here.throttle_percent)))
    assert seen == [(True, 0)]
    assert_still_here(pair, S.FAILED)


def test_a_guest_that_is_stopped_while_the_reason_is_awaited_stays_stopped() -> None:
    pair = Pair()
    last_words_after(pair, pair.source.keep_paused)
    assert not pair.here.running


def test_a_destination_that_is_slow_is_waited_for() -> None:
    pair = Pair()
    patience = Patience(pair.channel, pair.clock, 30 * 10**9, lambda: None)
    for _ in range(10):
        pair.clock.time_ns += 29 * 10**9
        pair.channel.sent_bytes += 1
        patience()
    pair.clock.time_ns += 31 * 10**9
    with pytest.raises(ChannelError, match="stood still for 30 s"):
        patience()


def test_a_paused_guest_stays_paused() -> None:
    pair = Pair()
    pair.here.pause()
    pair.source.run()
    assert_handed_over(pair, running=False)


def full_and_paused() -> Pair:
    """16 MiB, of which almost 3 fit the downtime limit."""
    pair = Pair(4096, bytes_per_s=10 * MIB, downtime_limit=300)
    for page in range(4096):
        pair.here.write(page, 7)
    pair.here.pause()
    return pair


def test_of_a_paused_guest_nothing_is_left_for_its_hand_over() -> None:
    pair = full_and_paused()
    pair.source.run()
    assert_handed_over(pair, running=False)
    (began,) = pair.events(SwitchoverBegan)
    assert began.remaining_bytes == 0 < 2 * MIB < began.threshold_bytes
    assert not any(message.final for message in pair.channel.messages if isinstance(message, Pages))


def test_a_paused_guest_that_is_let_run_again_leaves_what_fits_its_downtime() -> None:
    pair = full_and_paused()

    def let_run(message: Message) -> None:
        if pair.channel.sent_bytes > 8 * MIB and not pair.here.running and not pair.events(SwitchoverBegan):
            pair.here.resume()

    pair.channel.before_send = let_run
    pair.source.run()
    assert_handed_over(pair)
    (began,) = pair.events(SwitchoverBegan)
    assert 2 * MIB < began.remaining_bytes <= began.threshold_bytes


def test_the_rate_limit_holds() -> None:
    pair = Pair(4096, bytes_per_s=100 * MIB, max_bandwidth=2 * MIB, auto_converge=False)
    for page in range(4096):
        pair.here.write(page, 7)
    pair.source.run()
    assert_handed_over(pair)
    windows = pair.events(BandwidthWindow)
    assert len(windows) > 50
    for window in windows:
        assert window.sent_bytes <= 0.2 * MIB + 4096 + 64
    info = pair.source.info()
    assert info.ram
    assert info.ram.mbps < 2.2 * MIB * 8 / 1e6


def test_raising_the_bandwidth_and_the_downtime_acts_at_once() -> None:
    pair = Pair(2048, bytes_per_s=100 * MIB, max_bandwidth=MIB // 4, downtime_limit=0, auto_converge=False)
    Writer(pair, page_count=1000, pages_per_s=1000)
    work = pair.channel.before_send

    def relax(message: Message) -> None:
        work(message)
        if pair.clock.now_ns() > 30 * 10**9:
            pair.parameters = pair.parameters.changed({"max-bandwidth": 0, "downtime-limit": 5000})

    pair.channel.before_send = relax
    pair.source.run()
    assert_handed_over(pair)
    assert pair.clock.now_ns() < 40 * 10**9


TOKEN = b"a secret of both sides"
NOTHING_IS_TOLD = "the destination refused: this destination does not take this guest; its own log says why"


def test_another_guest_at_the_destination_is_refused() -> None:
    for there, reason in (
        (
            MemoryGuest(255, running=False),
            "memory size differs: the source has 1 MiB (1048576 bytes), the destination has 0.996 MiB (1044480 bytes)",
        ),
        (MemoryGuest(256, vcpu_count=2, running=False), "number of vCPUs differs"),
    ):
        pair = Pair(256, there=there, tokens=(TOKEN, TOKEN))
        pair.source.run()
        assert_still_here(pair, S.FAILED)
        assert pair.source.error
        assert reason in pair.source.error
        stranger = Pair(256, there=there)
        stranger.source.run()
        assert stranger.source.error == NOTHING_IS_TOLD


def damage_on_the_way(pair: Pair) -> None:
    def damage(message: Message) -> None:
        if isinstance(message, Finish):
            pair.there.ram[5, 5] ^= 1

    pair.channel.before_send = damage


PIECES = 10


def let_digests_take(guest: MemoryGuest, clock: ManualClock, *durations_ms: int) -> None:
    """The first digest takes the first of these times, and so on; the last one is that of all others."""
    digest, left_ms = guest.memory_digest, list(durations_ms)

    def memory_digest(page_count: int | None = None, while_reading: Callable[[], None] = lambda: None) -> bytes:
        duration_ms = left_ms.pop(0) if len(left_ms) > 1 else left_ms[0]
        for _ in range(PIECES):
            clock.time_ns += duration_ms * 1_000_000 // PIECES
            while_reading()
        return digest(page_count)

    guest.memory_digest = memory_digest  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("parameters", "digest_ms"),
    [({"verify": True, "auto_verify": False}, 0), ({"verify": True}, 1000), ({}, 0), ({}, 25)],
)
def test_memory_that_arrives_damaged_is_noticed_by_verify(parameters: dict[str, Any], digest_ms: int) -> None:
    pair = Pair(**parameters)
    let_digests_take(pair.here, pair.clock, digest_ms)
    damage_on_the_way(pair)
    pair.source.run()
    assert_still_here(pair, S.FAILED)
    assert "digests differ" in (pair.source.error or "")


@pytest.mark.parametrize(
    ("parameters", "digest_ms", "estimate_ms", "verified"),
    [
        ({}, 50, 200, True),
        ({}, 80, 320, False),  # a digest on each side, and as much again for safety, is more than the limit of 300 ms
        ({"downtime_limit": 500}, 80, 320, True),
        ({"verify": True}, 80, 320, True),
        ({"auto_verify": False}, 0, None, False),
        ({"auto_verify": False, "verify": True}, 0, None, True),
    ],
)
def test_memory_is_verified_where_that_fits_the_downtime_and_it_is_told(
    parameters: dict[str, Any], digest_ms: int, estimate_ms: int | None, verified: bool
) -> None:
    pair = Pair(**parameters)
    let_digests_take(pair.here, pair.clock, digest_ms)
    assert pair.source.info().verified is None
    pair.source.run()
    assert_handed_over(pair)
    assert pair.source.info().verified is verified
    (began,), (ended,) = pair.events(SwitchoverBegan), pair.events(Ended)
    assert (began.verify, ended.verified) == (verified, verified)
    assert began.verify_estimate_ns == (None if estimate_ms is None else estimate_ms * 1_000_000)
    assert any(isinstance(message, Digest) for message in pair.channel.messages) is verified


@pytest.mark.parametrize(("there_ms", "status"), [(29_000, S.COMPLETED), (40_000, S.FAILED)])
def test_a_digest_that_is_wanted_has_its_time_and_no_more(there_ms: int, status: MigrationStatus) -> None:
    pair = Pair(verify=True, auto_verify=False)
    let_digests_take(pair.here, pair.clock, 5000)
    let_digests_take(pair.there, pair.clock, there_ms)
    pair.source.run()
    assert pair.source.status is status
    if status is S.FAILED:
        assert pair.here.running
        assert pair.source.error == "the guest was stopped for 35.0 s and not handed over (switchover-timeout)"


@pytest.mark.parametrize(
    ("here_ms", "there_ms", "verified", "within_ms"),
    [
        (50, 50, True, 100),
        (140, 140, True, 280),  # almost three times as slow as in the estimate
        (50, 240, True, 290),
        (2000, 0, False, 200),  # given up after half of the limit, when the piece in hand is done
        (50, 2000, False, 450),  # given up there after what is left of it
        (140, 170, False, 317),
    ],
)
def test_a_digest_that_takes_longer_than_expected_is_given_up_and_the_guest_moves_unverified(
    here_ms: int, there_ms: int, verified: bool, within_ms: int
) -> None:
    pair = Pair(bytes_per_s=100 * MIB)
    let_digests_take(pair.here, pair.clock, 50, here_ms)  # the sample was fast
    let_digests_take(pair.there, pair.clock, there_ms)
    pair.source.run()
    assert_handed_over(pair)
    (began,), (ended,) = pair.events(SwitchoverBegan), pair.events(Ended)
    assert (began.verify, ended.verified, pair.source.info().verified) == (True, verified, verified)
    assert ended.downtime_ns / 1e6 == pytest.approx(within_ms, abs=20)


def test_a_digest_that_is_wanted_whatever_it_costs_is_not_given_up() -> None:
    pair = Pair(verify=True)
    let_digests_take(pair.here, pair.clock, 50, 2000)
    let_digests_take(pair.there, pair.clock, 3000)
    pair.source.run()
    assert_handed_over(pair)
    assert pair.source.info().verified


def test_a_destination_that_does_not_compare_what_it_should_gets_no_guest() -> None:
    pair = Pair(verify=True)
    pair.destination._compare_digests = lambda theirs: False  # type: ignore[method-assign]
    pair.source.run()
    assert_still_here(pair, S.FAILED)
    assert "did not compare" in (pair.source.error or "")


def test_a_digest_can_be_cancelled() -> None:
    pair = Pair(verify=True)
    digest = pair.here.memory_digest

    def memory_digest(page_count: int | None = None, while_reading: Callable[[], None] = lambda: None) -> bytes:
        if page_count is None:
            pair.source.cancel()
        return digest(page_count, while_reading)

    pair.here.memory_digest = memory_digest  # type: ignore[method-assign]
    pair.source.run()
    assert_still_here(pair, S.CANCELLED)


def test_the_wait_to_be_continued_does_not_use_up_the_time_for_a_digest() -> None:
    pair = Pair(pause_before_switchover=True, bytes_per_s=100 * MIB)
    go_on_after(pair, looks=1000)  # 2 s
    let_digests_take(pair.here, pair.clock, 50)
    pair.source.run()
    assert_handed_over(pair)
    assert pair.source.info().verified


def test_a_guest_whose_rest_takes_all_of_the_downtime_is_not_verified_and_moves_no_later() -> None:
    def move(**parameters: object) -> tuple[Ended, SwitchoverBegan]:
        pair = Pair(4096, bytes_per_s=MIB, **parameters)  # type: ignore[arg-type]
        Writer(pair, page_count=40, pages_per_s=10_000)
        let_digests_take(pair.here, pair.clock, 100)
        pair.source.run()
        assert_handed_over(pair)
        (ended,), (began,) = pair.events(Ended), pair.events(SwitchoverBegan)
        return ended, began

    (plain, _), (tried, began) = move(auto_verify=False), move()
    assert began.verify is False
    assert tried.verified is False
    assert tried.total_time_ns - plain.total_time_ns < 10**9  # type: ignore[operator]


def test_state_that_cannot_be_loaded_fails_the_migration() -> None:
    pair = Pair()
    pair.here.state = b"garbage"
    pair.source.run()
    assert_still_here(pair, S.FAILED)
    assert pair.source.error == "the destination refused: the guest's state is malformed"


def number_of_messages(waits: bool) -> int:
    pair = Pair(pause_before_switchover=waits)
    go_on_after(pair, looks=1200)
    pair.source.run()
    assert_handed_over(pair)
    return len(pair.channel.messages)


def go_on_after(pair: Pair, looks: int) -> None:
    def look() -> None:
        nonlocal looks
        looks -= 1
        if looks == 0:
            pair.source.continue_from(S.PRE_SWITCHOVER)

    pair.clock.on_sleep = look


@pytest.mark.parametrize("completes", [True, False])
@pytest.mark.parametrize("runs", [True, False])
def test_a_guest_that_is_stopped_or_let_run_just_before_it_is_handed_over_stays_so(runs: bool, completes: bool) -> None:
    pair = Pair()
    if runs:
        pair.here.pause()
    if not completes:
        pair.here.state = b"garbage"
    record = pair.journal.record

    def act(time_ns: int, event: Event) -> None:
        if isinstance(event, SwitchoverBegan):
            (pair.here.resume if runs else pair.here.pause)()
        record(time_ns, event)

    pair.journal.record = act  # type: ignore[method-assign]
    pair.source.run()
    assert pair.source.status is (S.COMPLETED if completes else S.FAILED)
    assert (pair.here.running, pair.there.running) == (runs and not completes, runs and completes)


def test_figures_are_those_of_the_status_that_they_are_told_with() -> None:
    pair = Pair()
    pair.source.run()
    states = iter([S.DEVICE, S.COMPLETED, S.COMPLETED, S.COMPLETED])

    class Changing(MigrationSource):
        status = property(lambda self: next(states))

    pair.source.__class__ = Changing
    info = pair.source.info()
    assert (info.status, info.downtime_ms) == (S.DEVICE, None)


@pytest.mark.parametrize("delivered", [False, True])
@pytest.mark.parametrize("waits", [False, True])
def test_cutting_the_link_at_any_message_never_leaves_two_guests_or_none(delivered: bool, waits: bool) -> None:
    commits = 0
    for cut_at in range(number_of_messages(waits)):
        pair = Pair(pause_before_switchover=waits)
        go_on_after(pair, looks=1200)
        pair.channel.cut_at, pair.channel.delivered = cut_at, delivered
        pair.source.run()
        assert_released(pair)
        assert not (pair.here.running and pair.there.running)
        if any(isinstance(message, Commit) for message in pair.channel.messages):
            commits += 1
            assert pair.source.status is S.IN_DOUBT
            assert pair.source.owner is Owner.IN_DOUBT
            assert not pair.here.running
            assert "hand-over in doubt" in (pair.source.error or "")
        else:
            assert_still_here(pair, S.FAILED)
    assert commits == 2  # Commit itself, and the answer to it


def test_a_guest_in_doubt_can_be_taken_back_once() -> None:
    pair = Pair()
    pair.channel.silent_from = Commit
    with pytest.raises(UsageError, match="no hand-over is in doubt"):
        pair.source.take_back()
    pair.source.run()
    assert pair.source.status is S.IN_DOUBT
    pair.source.take_back()
    assert (pair.source.status, pair.source.owner) == (S.FAILED, Owner.SOURCE)
    assert (pair.source.error or "").endswith("; taken back by force")
    with pytest.raises(UsageError, match="no hand-over is in doubt"):
        pair.source.take_back()


def test_a_defect_of_ours_leaves_the_guest_running_too() -> None:
    pair = Pair()

    def explode(message: Message) -> None:
        if isinstance(message, State):
            raise ZeroDivisionError

    pair.channel.before_send = explode
    with pytest.raises(ZeroDivisionError):
        pair.source.run()
    assert_still_here(pair, S.FAILED)


def test_the_summary_agrees_with_the_journal() -> None:
    pair = Pair(4096)
    Writer(pair, page_count=3000, pages_per_s=1000)
    pair.source.run()
    (ended,) = pair.events(Ended)
    info = pair.source.info()
    assert info.ram
    assert (
        ended.iteration_count
        == info.ram.iteration_count
        == len([event for event in pair.events(Synced) if event.kind == "iteration"])
    )
    assert ended.dirty_sync_count == len(pair.events(Synced))
    assert ended.sent_bytes == info.ram.transferred
    assert list(ended.downtime_parts_ns) == ["stop", "last-sync", "ram", "state", "hand-over"]
    assert sum(ended.downtime_parts_ns.values()) == ended.downtime_ns
    assert ended.max_throttle_percent == pair.here.max_throttle_percent
    assert ended.downtime_ns <= 0.35e9
