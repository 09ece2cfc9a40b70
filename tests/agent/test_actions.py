"""What people ask of a migration is done by who follows it, told once it is so, and recorded with who asked.

The monitor is a fake that migrates for ever; everything that follows it is real.
"""

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.agent_web import READ_TOKEN, bearer, client_of, sources_of, web
from tests.support.fake_qemu import FakeQemu, answer
from tests.support.ports import free_port
from tests.support.wait import wait_until
from vmferry.agent import following
from vmferry.agent.reins import Reins
from vmferry.agent.rules import Mode, Rule, Rulebook, Vm
from vmferry.agent.web.table import Sources
from vmferry.cancel import CancelToken
from vmferry.control.asking.progress import ask
from vmferry.migration.events import Acted

MIB = 1 << 20
SHADOW = Rule(mode=Mode.SHADOW, throttle_by="auto-converge")
STEER = Rule(mode=Mode.STEER, throttle_by="auto-converge")


def endless(status: str = "active") -> Iterator[dict[str, Any]]:
    for count in itertools.count(1):
        yield answer(
            status,
            count / 10,
            remaining=500 * MIB,
            total=1000 * MIB,
            transferred=count * MIB,
            mbps=80.0,
            dirty_sync_count=1 + count // 10,
            dirty_pages_rate=5000 + count // 10,
        )


class Followed:
    """A migration of a fake QEMU that is followed, and a client of the agent's API."""

    def __init__(self, sources: Sources, qemu: FakeQemu, client: httpx.Client) -> None:
        self.qemu = qemu
        self.client = client
        self.sources = sources
        (self.live,) = sources.followers.live

    def ask(self, what: str, **body: object) -> httpx.Response:
        return self.client.post(f"/api/live/{self.live.key}/{what}", json=body, headers=bearer())

    def recorded(self) -> list[str]:
        """The reasons of what was done, beside slowing the guest."""
        return [entry.event.reason for entry in self.live.recording.course.entries if isinstance(entry.event, Acted)]

    @property
    def said(self) -> str:
        return "\n".join(self.live.said)


Follow = Callable[..., Any]


@pytest.fixture
def follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Follow:
    @contextmanager
    def one(rules: Sequence[Rule], status: str = "active", wait_s: float = 30) -> Iterator[Followed]:
        qemu = FakeQemu(endless(status))
        qemu.begin()
        monkeypatch.setattr(following, "open_monitor", lambda address, while_waiting: opened(qemu, while_waiting))
        rules = list(rules)
        sources = sources_of(f"sqlite:///{tmp_path}/agent.db", rules=rules, wait_s=wait_s)
        arguments = "unix:/vm", Vm("db", "u"), ask(qemu)
        thread = threading.Thread(target=sources.followers.follow, args=arguments)
        thread.start()
        try:
            wait_until(lambda: sources.followers.live and sources.followers.live[0].progress)
            with client_of(sources, tmp_path) as client:
                yield Followed(sources, qemu, client)
        finally:
            sources.followers.let_go()
            thread.join(30)
            assert not thread.is_alive()

    return one


def opened(qemu: FakeQemu, while_waiting: Callable[[], None]) -> FakeQemu:
    qemu.while_waiting = while_waiting
    return qemu


def test_a_shadowed_migration_is_handed_over_with_limits_and_who_asked_is_recorded(follow: Follow) -> None:
    with follow([SHADOW]) as followed:
        answered = followed.ask("steer", variant="background-sync+responsive-throttle", finish_by_ms=3_600_000)
        assert (answered.status_code, answered.json()["is_so"]) == (200, True)
        assert "steered by background-sync+responsive-throttle" in answered.json()["text"]
        (shown,) = followed.client.get("/api/live").json()
        assert (shown["mode"], shown["variant"]) == ("steer", "background-sync+responsive-throttle")
        assert shown["limits"]["finish_by_ms"] == 3_600_000
        assert 0 < shown["deadline_left_ms"] < 3_600_000
        assert "process " in shown["rule"]
        wait_until(lambda: any("asked to do something else with it" in reason for reason in followed.recorded()))
        assert followed.live.recording.facts.mode is Mode.STEER
        wait_until(lambda: "migrate-set-capabilities" in str(followed.qemu.told))
    assert followed.qemu.parameters["cpu-throttle-initial"] == 20, "all is undone"


def test_a_rules_pace_is_for_a_variant_that_plans(follow: Follow) -> None:
    with follow([Rule(variant="planned", pace="gentle", throttle_by="auto-converge")]) as followed:
        assert followed.ask("steer", variant="background-sync").json()["is_so"]
        assert "pace" not in followed.client.get("/api/live").json()[0]["orders"]


def test_what_cannot_be_steered_is_looked_on_and_that_is_answered(follow: Follow) -> None:
    with follow([Rule(mode=Mode.WATCH, throttle_by="cgroup")]) as followed:
        answered = followed.ask("steer")
        assert answered.status_code == 409
        assert "not steered: " in answered.json()["error"]
        seen_ms = followed.live.progress.elapsed_ms
        wait_until(lambda: followed.live.progress.elapsed_ms > seen_ms)
        assert followed.qemu.told == []
    unknown = Rule(mode=Mode.WATCH)
    with follow([unknown]) as followed:
        answered = followed.ask("steer", variant="no-such")
        assert "no variant 'no-such'" in answered.json()["error"]


def test_other_limits_are_kept_from_then_on_by_the_vm_and_by_us(follow: Follow) -> None:
    with follow([STEER]) as followed:
        answered = followed.ask("limits", max_downtime_ms=100, max_guest_loss_percent=30)
        assert answered.json()["is_so"]
        assert "max-downtime 100ms" in answered.json()["text"]
        assert followed.qemu.parameters["downtime-limit"] == 100
        wait_until(lambda: followed.client.get("/api/live").json()[0]["limits"]["max_downtime_ms"] == 100)
        assert followed.ask("limits", max_downtime_ms=None).json()["is_so"]
        assert followed.qemu.parameters["downtime-limit"] == 300
        wait_until(lambda: followed.client.get("/api/live").json()[0]["limits"]["max_downtime_ms"] is None)
        assert followed.client.get("/api/live").json()[0]["limits"]["max_guest_loss_percent"] == 30
        answered = followed.ask("limits", finish_by_ms=1, on_limit="cancel")
        assert answered.json()["is_so"]
        wait_until(lambda: followed.live.recording.status == "cancelled")
    assert any("max-downtime 100ms" in reason for reason in followed.recorded())


def test_limits_of_what_is_only_looked_on_are_refused(follow: Follow) -> None:
    with follow([SHADOW]) as followed:
        answered = followed.ask("limits", finish_by_ms=1000)
        assert (answered.status_code, "nobody keeps limits" in answered.json()["error"]) == (409, True)


@pytest.mark.parametrize("rule", [SHADOW, STEER])
def test_it_is_cancelled_and_that_is_told_once_it_was_seen(follow: Follow, rule: Rule) -> None:
    with follow([rule]) as followed:
        answered = followed.ask("cancel")
        assert (answered.status_code, answered.json()["is_so"], answered.json()["status"]) == (200, True, "cancelled")
        assert ("migrate_cancel", {}) in followed.qemu.told
    close = followed.live.recording.close
    assert close.outcome.status == "cancelled"
    assert any("asked to cancel it" in reason for reason in followed.recorded())


def test_a_vm_that_does_not_obey_is_told_as_not_seen_yet(follow: Follow) -> None:
    with follow([STEER], wait_s=0.5) as followed:
        followed.qemu.obeys_cancel = False
        answered = followed.ask("cancel")
        assert (answered.status_code, answered.json()["is_so"]) == (202, False)
        followed.qemu.obeys_cancel = True


def test_nothing_is_cancelled_in_post_copy(follow: Follow) -> None:
    with follow([SHADOW], status="postcopy-active") as followed:
        answered = followed.ask("cancel")
        assert (answered.status_code, "post-copy" in answered.json()["error"]) == (409, True)
        assert followed.qemu.told == []


def test_nothing_is_done_about_a_vm_that_is_to_be_ignored(follow: Follow) -> None:
    rules = [SHADOW]
    with follow(rules) as followed:
        ignoring = Rulebook([Rule(mode=Mode.IGNORE)])
        followed.sources.followers._rules = lambda: ignoring  # as a reload would
        for what in ("steer", "limits", "cancel"):
            answered = followed.ask(what)
            assert (answered.status_code, "says to ignore this VM" in answered.json()["error"]) == (409, True)


def test_one_that_does_not_run_is_unknown(follow: Follow) -> None:
    with follow([SHADOW]) as followed:
        answered = followed.client.post("/api/live/9-9/cancel", json={}, headers=bearer())
        assert (answered.status_code, "does not run" in answered.json()["error"]) == (404, True)
        assert followed.ask("cancel").status_code == 200
        assert followed.ask("cancel").status_code == 404


def test_a_token_for_reading_is_not_enough_nor_is_another_sites_page(tmp_path: Path, follow: Follow) -> None:
    with follow([SHADOW]) as followed:
        path = f"/api/live/{followed.live.key}/cancel"
        port = free_port()
        base = f"http://127.0.0.1:{port}"
        with web(followed.sources, f"127.0.0.1:{port}", READ_TOKEN), httpx.Client(base_url=base) as client:

            def status(headers: dict[str, str]) -> tuple[int, str]:
                answered = client.post(path, json={}, headers=headers)
                return answered.status_code, answered.json()["error"]

            assert status({})[0] == 401
            code, why = status(bearer(READ_TOKEN))
            assert (code, "\n" in why, "token for actions" in why) == (403, False, True)
            assert status(bearer(READ_TOKEN) | {"Origin": base})[0] == 403
            for elsewhere in (
                {"Origin": "http://elsewhere"},
                {"Origin": "null"},
                {"Origin": "http://["},
                {"Sec-Fetch-Site": "cross-site"},
                {"Sec-Fetch-Site": "same-site"},
            ):
                code, why = status(bearer() | elsewhere)
                assert (code, "own page" in why) == (403, True)
            form = client.post(path, data={"a": "b"}, headers=bearer())
            assert form.status_code == 415
            as_json = bearer() | {"Content-Type": "application/json"}
            long = client.post(path, content=b"[" * 5000, headers=as_json)
            assert long.status_code == 415
            wrong = client.post("/api/live/1/limits", json={"finish_by_ms": -1}, headers=bearer())
            assert (wrong.status_code, "finish_by_ms" in wrong.json()["error"]) == (400, True)
        with web(followed.sources, f"127.0.0.1:{port}", READ_TOKEN, None):
            refused = httpx.post(f"{base}{path}", json={}, headers=bearer(READ_TOKEN))
            assert "takes no actions" in refused.json()["error"]
        assert followed.live.recording.status == "active"


def test_of_two_who_ask_to_hand_it_over_the_later_one_is_heard_and_the_other_told() -> None:
    reins = Reins(SHADOW, "rule 1: all VMs")
    first, second = reins.hand_over(STEER, "one"), reins.hand_over(STEER, "another")
    assert (first.granted, first.why_not) == (False, "meanwhile another asked for something else")
    token = CancelToken()
    with reins.held(token):
        assert token.is_set
    assert reins.taken_over()
    assert (reins.rule, reins.why, list(reins.wishes.take())) == (STEER, "another asked for it", [second])
    assert not reins.taken_over()


def test_what_is_asked_for_when_it_has_ended_is_refused() -> None:
    reins = Reins(STEER, "rule 1: all VMs")
    handed_over, limits = reins.hand_over(STEER, "one"), reins.keep_limits(STEER, "one")
    reins.end("it has ended")
    assert (handed_over.why_not, limits.why_not) == ("it has ended", "it has ended")
    assert not reins.wait_for(lambda: False, 60)
