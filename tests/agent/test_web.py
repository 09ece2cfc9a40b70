"""The agent's page and its JSON, over real sockets, in a real browser."""

import base64
import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.agent.test_memory import STARTED, change, complete, facts, remembering
from tests.agent.test_metrics import SEEN, live
from tests.support.agent_web import READ_TOKEN, bearer, client_of, sources_of, web
from tests.support.chromium import Page, open_chromium
from tests.support.ports import free_port
from tests.support.wait import wait_until
from vmferry.agent.live import Live
from vmferry.agent.rules import Vm
from vmferry.agent.sketch import MAX_POINTS, Sketch
from vmferry.agent.web import serving
from vmferry.agent.web.access import Access, read_token
from vmferry.agent.web.events import MAX_READERS
from vmferry.agent.web.serving import listening
from vmferry.control.telling.outlook import NOTHING_EXPECTED
from vmferry.errors import HostError, UsageError

HOSTILE = "<img src=x onerror=document.title='broken'>"


@pytest.fixture
def database(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/agent.db"
    with remembering(url) as memory:
        for name in ("db-1", HOSTILE):
            recording = memory.begin(facts(Vm(name, name)))
            recording.record(1, STARTED)
            complete(recording)
    return url


@pytest.fixture
def client(database: str, tmp_path: Path) -> Iterator[httpx.Client]:
    with client_of(sources_of(database, [live()]), tmp_path) as one:
        yield one


def test_what_runs_and_what_is_remembered_are_json(client: httpx.Client) -> None:
    (running,) = client.get("/api/live").json()
    assert (running["vm_name"], running["elapsed_ms"], running["throttle_percent"]) == ("db", 2500, 40)
    assert running["dirty_bytes_per_s"] is None
    rows = client.get("/api/migrations", params={"vm": "db-*"}).json()
    assert [(row["vm_name"], row["state"], row["total_time_ms"]) for row in rows] == [("db-1", "completed", 7000)]
    assert "Migration 1" in client.get("/migrations/1").text
    for number in ("99", "9" * 30):
        missing = client.get(f"/migrations/{number}")
        assert (missing.status_code, f"no migration {number}" in missing.json()["error"]) == (404, True)
    assert client.post("/api/live").status_code == 405


def test_a_socket_is_its_owners_alone_and_gone_at_the_end(database: str, tmp_path: Path) -> None:
    path = tmp_path / "page.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))  # by an agent that was killed
    with web(sources_of(database), str(path)):
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(HostError, match="Address already in use"), listening(str(path)):
            pass
        assert path.exists()
    assert not path.exists()


def test_at_a_port_nothing_is_told_without_the_token(database: str) -> None:
    port = free_port()
    wrong = [{}, bearer("no"), {"Authorization": "Basic !"}, bearer(f"{READ_TOKEN}x")]
    with (
        web(sources_of(database, [live()]), f"127.0.0.1:{port}", READ_TOKEN),
        httpx.Client(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        for path in ("/", "/api/live", "/api/events", "/api/migrations", "/migrations/1", "/none"):
            for headers in wrong:
                answer = client.get(path, headers=headers)
                assert (answer.status_code, "db" in answer.text) == (401, False)
            if path != "/api/events":
                answer = client.get(path, headers=bearer(READ_TOKEN))
                assert answer.status_code == (404 if path == "/none" else 200)


def test_a_token_is_secret_and_long(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"{READ_TOKEN}\n")
    path.chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        read_token(str(path))
    path.chmod(0o600)
    assert read_token(str(path)) == READ_TOKEN
    path.write_text("short")
    with pytest.raises(UsageError, match="has 5 characters"):
        read_token(str(path))
    with pytest.raises(UsageError, match="No such file"):
        read_token(str(tmp_path / "none"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with open_chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


def opened(browser: Page, port: int, width: int = 1280, *, dark: bool = False) -> None:
    """Open the page with the token for reading, as a browser does that has asked for it."""
    browser.open("about:blank", width)  # the page of the test before asks for its agent again and again
    browser.requests.clear()
    browser.complaints.clear()
    password = base64.b64encode(f"x:{READ_TOKEN}".encode()).decode()
    browser.call("Network.setExtraHTTPHeaders", headers={"Authorization": f"Basic {password}"})
    browser.open(f"http://127.0.0.1:{port}/", width, dark=dark)


def text_of(browser: Page) -> str:
    return str(browser.evaluate("document.body.innerText"))


@pytest.mark.chromium
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_shows_what_runs_as_it_changes_and_what_was(
    browser: Page, database: str, width: int, dark: bool
) -> None:
    port = free_port()
    running = [live(), live(HOSTILE)]
    running[1].key = "other"
    running[0].tell("2.5 s: dirty 165 MiB > 50 % of 54 MiB sent, second time: 0 -> 50 %")
    with web(sources_of(database, running), f"127.0.0.1:{port}", READ_TOKEN):
        opened(browser, port, width, dark=dark)
        wait_until(lambda: "0 -> 50 %" in text_of(browser) and "db-1" in text_of(browser))
        for words in ("2.5 s", "0.977 KiB", "977 KiB/s", "40 %", "unknown", HOSTILE, "7.0 s", "20 ms", "✓ kept"):
            assert words in text_of(browser)
        seen = running[0].progress
        assert seen
        running[0].watch(replace(seen, elapsed_ms=5000, remaining_bytes=500))
        wait_until(lambda: "5.0 s" in text_of(browser))
        course = "document.querySelector('#live svg .remaining').getAttribute('d')"
        assert browser.evaluate(course).count("L") == 1
        assert "500 B of 3.91 KiB" in browser.evaluate("document.querySelector('#live svg').getAttribute('aria-label')")
        running[0].tell("another reason")
        wait_until(lambda: "another reason" in text_of(browser))
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
        if directory := os.environ.get("VMFERRY_LOOKS"):
            browser.screenshot(Path(directory) / f"agent-{width}-{'dark' if dark else 'light'}.png")
        running.clear()
        wait_until(lambda: "No VM migrates." in text_of(browser))
        assert browser.evaluate("document.title") == "Live migrations"
        assert browser.complaints == []
        here = (f"http://127.0.0.1:{port}/", "data:")  # the browser draws its own icons
        assert [url for url in browser.requests if not url.startswith(here)] == []


@pytest.mark.chromium
def test_all_can_be_reached_by_keyboard_and_is_seen_to_be(browser: Page, database: str) -> None:
    port = free_port()
    with web(sources_of(database, [live()]), f"127.0.0.1:{port}", READ_TOKEN):
        opened(browser, port)
        wait_until(lambda: "db-1" in text_of(browser) and "Steer" in text_of(browser))
        reached = []
        for _ in range(40):
            for kind in ("keyDown", "keyUp"):
                browser.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
            reached.append(browser.evaluate("document.activeElement.textContent || document.activeElement.name"))
            outline = browser.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert (outline, reached[-1]) == ("solid", reached[-1]) or browser.evaluate(
                "document.activeElement === document.body"
            )
        for name in ("Now", "History", "Token for actions", "Steer", "Set limits", "Cancel", "Search", "from"):
            assert name in reached
        assert any(name.startswith("What was decided") for name in reached)


@pytest.mark.chromium
def test_of_a_thousand_migrations_the_newest_are_shown_and_that_there_are_more_is_told(
    browser: Page, database: str
) -> None:
    columns = "host, vm_name, vm_uuid, address, mode, rule, variant, ended_ms, followed, status, outcome, remark"
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)"
    one = f"SELECT {columns}, began_ms + i FROM migration, n WHERE id = 1"
    change(database, f"{numbers} INSERT INTO migration ({columns}, began_ms) {one}")
    port = free_port()
    with web(sources_of(database), f"127.0.0.1:{port}", READ_TOKEN):
        opened(browser, port)
        wait_until(lambda: "The newest 200 are shown; a search finds older ones." in text_of(browser))
        assert browser.evaluate("document.querySelectorAll('#history tbody a').length") == 200
        newest = "document.querySelector('#history tbody a')"
        browser.evaluate(f"{newest}.isFromBefore = true")
        browser.evaluate(f"{newest}.focus()")
        browser.evaluate("document.querySelector('#search').requestSubmit()")
        wait_until(lambda: not browser.evaluate(f"{newest}.isFromBefore ?? false"))
        assert browser.evaluate(f"document.activeElement === {newest}")


@pytest.mark.chromium
def test_what_somebody_writes_into_a_form_stays_while_the_migration_goes_on(browser: Page, database: str) -> None:
    port, running = free_port(), [live()]
    with web(sources_of(database, running), f"127.0.0.1:{port}", READ_TOKEN):
        opened(browser, port)
        wait_until(lambda: "Set limits" in text_of(browser))
        browser.evaluate("document.querySelectorAll('.actions details')[1].open = true")
        field = "document.querySelectorAll('.actions form')[1].elements.downtime"
        browser.evaluate(f"{field}.focus()")
        browser.evaluate(f"{field}.value = '77'")
        running[0].tell("it goes on")
        wait_until(lambda: "it goes on" in text_of(browser))
        assert browser.evaluate(f"{field}.value") == "77"
        assert browser.evaluate(f"document.activeElement === {field}")


def test_the_page_takes_nothing_inline_and_nothing_from_elsewhere(client: httpx.Client) -> None:
    page = client.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "style=" not in page.text
    for answered in (page, client.get("/page.js"), client.get("/api/live")):
        assert answered.headers["x-content-type-options"] == "nosniff"
        assert answered.headers["cache-control"] == "no-store"


def test_changes_come_as_events_within_the_stream(database: str, tmp_path: Path) -> None:
    running: list[Live] = []
    with (
        client_of(sources_of(database, running), tmp_path) as one,
        one.stream("GET", "/api/events", timeout=60) as stream,
    ):
        lines = (line.partition(": ") for line in stream.iter_lines() if line)
        told = ((name, json.loads(data)) for (_, _, name), (_, _, data) in zip(lines, lines, strict=False))
        data = (what for name, what in told if name == "live")
        assert next(data) == []
        running.append(live())
        assert [each["vm_name"] for each in next(data)] == ["db"]
        running[0].watch(SEEN.after(SEEN))
        running[0].tell("said")
        assert next(data)[0]["said"] == ["said"]


def test_whoever_reads_events_is_told_when_the_list_of_migrations_has_changed(database: str, tmp_path: Path) -> None:
    sources = sources_of(database)
    memory = sources.followers._memory
    with client_of(sources, tmp_path) as one, one.stream("GET", "/api/events", timeout=60) as stream:
        lines = stream.iter_lines()
        counts = (int(next(lines).removeprefix("data: ")) for line in lines if line == "event: history")
        assert next(counts) == 0
        recording = memory.begin(facts(began_ms=9_000_000))
        memory.keep()
        assert next(counts) == 1
        memory.keep()
        complete(recording)
        memory.keep()
        assert next(counts) == 2


def test_more_readers_of_events_than_there_is_room_for_are_refused(database: str, tmp_path: Path) -> None:
    sources = sources_of(database)
    with client_of(sources, tmp_path) as one:
        sources.events._readers = MAX_READERS
        assert one.get("/api/events").status_code == 503
        assert one.get("/api/live").status_code == 200


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=1001", "limit=x", "since_ms=-1", "until_ms=9007199254740993", f"vm={'x' * 257}", "order=desc"],
)
def test_a_query_beyond_its_bounds_is_refused_in_one_line(client: httpx.Client, query: str) -> None:
    answered = client.get(f"/api/migrations?{query}")
    assert (answered.status_code, "\n" in answered.json()["error"]) == (400, False)


def test_history_is_searched_by_name_state_and_time(client: httpx.Client) -> None:
    def found(**query: str | int) -> list[str]:
        return [row["vm_name"] for row in client.get("/api/migrations", params=query).json()]

    assert sorted(found()) == sorted(["db-1", HOSTILE])
    assert found(vm="db-?", status="completed") == ["db-1"]
    assert found(status="failed") == []
    assert len(found(since_ms=1_000_000, until_ms=1_000_001)) == 2
    assert found(since_ms=1_000_001) == found(until_ms=1_000_000) == []
    assert len(found(limit=1)) == 1


def test_one_token_is_not_for_both() -> None:
    with pytest.raises(UsageError, match="write another one"):
        Access(READ_TOKEN, READ_TOKEN)


def test_the_course_of_a_migration_is_told_in_few_points(client: httpx.Client) -> None:
    (running,) = client.get("/api/live").json()
    (point,) = client.get(f"/api/live/{running['key']}/course").json()
    assert (point["elapsed_ms"], point["remaining_bytes"], point["dirty_bytes_per_s"]) == (2500, 1000, None)
    assert client.get("/api/live/no-such/course").status_code == 404


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=1500))
def test_a_sketch_keeps_the_first_point_and_all_of_the_course_within_its_bound(gaps: list[int]) -> None:
    sketch, elapsed_ms = Sketch(), 0
    for gap in gaps:
        elapsed_ms += gap
        sketch.add(replace(SEEN, elapsed_ms=elapsed_ms), NOTHING_EXPECTED)
    times = [point.elapsed_ms for point in sketch.points]
    assert len(times) <= MAX_POINTS
    assert times == sorted(set(times))
    assert times[0] == gaps[0]
    assert elapsed_ms - times[-1] <= 5000 + 4 * elapsed_ms / MAX_POINTS


def connected(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(path / "page.sock"))
    client.settimeout(30)
    return client


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"GET / HT",
        b"POST /api/vms/a/forecast HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{",
    ],
)
def test_who_does_not_ask_for_something_whole_is_sent_away(
    database: str, tmp_path: Path, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "_PATIENCE_S", 0.2)
    with client_of(sources_of(database), tmp_path), connected(tmp_path) as slow:
        slow.sendall(said)
        with suppress(ConnectionResetError):
            while slow.recv(1 << 16):
                pass


def test_who_reads_no_events_is_sent_away_and_who_reads_them_is_not(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "_PATIENCE_S", 0.2)
    monkeypatch.setattr("vmferry.agent.web.events.LOOK_S", 0.001)
    running = live()
    sources = sources_of(database, [running])
    with client_of(sources, tmp_path) as client, connected(tmp_path) as deaf:
        deaf.sendall(b"GET /api/events HTTP/1.1\r\nHost: a\r\n\r\n")
        with client.stream("GET", "/api/events", timeout=60) as stream:
            lines = stream.iter_lines()
            wait_until(lambda: sources.events._readers == 2)
            while sources.events._readers == 2:
                running.tell("x" * 10_000)
                next(line for line in lines if line == "event: live")
            assert sources.events._readers == 1
            running.tell("the last")
            assert next(line for line in lines if "the last" in line)


def test_no_more_connect_than_there_is_room_for(database: str, tmp_path: Path) -> None:
    with client_of(sources_of(database), tmp_path) as client, ExitStack() as stack:
        idle = [stack.enter_context(connected(tmp_path)) for _ in range(150)]
        with suppress(ConnectionResetError):
            assert idle[-1].recv(1) == b""
        for one in idle:
            one.close()
        wait_until(lambda: client.get("/api/live").status_code == 200)
