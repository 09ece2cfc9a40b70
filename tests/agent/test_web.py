"""The agent's page and its JSON, over real sockets, in a real browser."""

import base64
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.agent.test_memory import STARTED, complete, facts, remembering
from tests.agent.test_metrics import SEEN, live
from tests.support.agent import free_port
from tests.support.chromium import Page, open_chromium
from tests.support.wait import wait_until
from vmferry.agent.live import Live
from vmferry.agent.rules import Vm
from vmferry.agent.web import Web, listening, read_token, shown
from vmferry.errors import HostError, UsageError

TOKEN = "a token of some length"
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


@contextmanager
def web(database: str, address: str, running: list[Live], token: str | None = None) -> Iterator[None]:
    with listening(address) as listener, shown(Web(lambda: running, database, token), listener):
        yield


@pytest.fixture
def client(database: str, tmp_path: Path) -> Iterator[httpx.Client]:
    path = f"{tmp_path}/page.sock"
    transport = httpx.HTTPTransport(uds=path)
    with web(database, path, [live()]), httpx.Client(transport=transport, base_url="http://agent") as one:
        yield one


def test_what_runs_and_what_is_remembered_are_json(client: httpx.Client) -> None:
    (running,) = client.get("/api/live").json()
    assert (running["vm_name"], running["elapsed_ms"], running["throttle_percent"]) == ("db", 2500, 40)
    assert running["dirty_bytes_per_s"] is None
    rows = client.get("/api/migrations", params={"vm": "db-*"}).json()
    assert [(row["vm_name"], row["state"], row["total_time_ms"]) for row in rows] == [("db-1", "completed", 7000)]
    assert "Migration 1" in client.get("/migrations/1").text
    missing = client.get("/migrations/99")
    assert (missing.status_code, "no migration 99" in missing.json()["error"]) == (404, True)
    assert client.post("/api/live").status_code == 405


def test_a_socket_is_its_owners_alone_and_gone_at_the_end(database: str, tmp_path: Path) -> None:
    path = tmp_path / "page.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))  # by an agent that was killed
    with web(database, str(path), []):
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(HostError, match="Address already in use"), listening(str(path)):
            pass
        assert path.exists()
    assert not path.exists()


@pytest.mark.parametrize("path", ["/", "/api/live", "/api/events", "/api/migrations", "/migrations/1", "/none"])
def test_at_a_port_nothing_is_told_without_the_token(database: str, path: str) -> None:
    port = free_port()
    wrong = [{}, {"Authorization": "Bearer no"}, {"Authorization": "Basic !"}, {"Authorization": f"Bearer {TOKEN}x"}]
    with web(database, f"127.0.0.1:{port}", [live()], TOKEN):
        for headers in wrong:
            answer = httpx.get(f"http://127.0.0.1:{port}{path}", headers=headers)
            assert (answer.status_code, "db" in answer.text) == (401, False)
        if path != "/api/events":
            answer = httpx.get(f"http://127.0.0.1:{port}{path}", headers={"Authorization": f"Bearer {TOKEN}"})
            assert answer.status_code == (404 if path == "/none" else 200)


def test_a_token_is_secret_and_long(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        read_token(str(path))
    path.chmod(0o600)
    assert read_token(str(path)) == TOKEN
    path.write_text("short")
    with pytest.raises(UsageError, match="has 5 characters"):
        read_token(str(path))
    with pytest.raises(UsageError, match="No such file"):
        read_token(str(tmp_path / "none"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with open_chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.mark.chromium
@pytest.mark.parametrize(("width", "dark"), [(390, True), (1280, False)])
def test_the_page_shows_what_runs_as_it_changes_and_what_was(
    browser: Page, database: str, width: int, dark: bool
) -> None:
    port = free_port()
    running = [live(), live(HOSTILE)]
    running[0].tell("2.5 s: dirty 165 MiB > 50 % of 54 MiB sent, second time: 0 -> 50 %")
    password = base64.b64encode(f"x:{TOKEN}".encode()).decode()
    browser.requests.clear()
    browser.complaints.clear()
    browser.call("Network.setExtraHTTPHeaders", headers={"Authorization": f"Basic {password}"})
    with web(database, f"127.0.0.1:{port}", running, TOKEN):
        browser.open(f"http://127.0.0.1:{port}/", width, dark=dark)
        text = "document.body.innerText"
        wait_until(lambda: "0 -> 50 %" in browser.evaluate(text) and "db-1" in browser.evaluate(text))
        shown_text = browser.evaluate(text)
        for words in ("2.5 s", "0.977 KiB", "977 KiB/s", "40 %", "unknown", HOSTILE, "7.0 s", "20 ms"):
            assert words in shown_text
        running[0].tell("another reason")
        wait_until(lambda: "another reason" in browser.evaluate(text))
        running.clear()
        wait_until(lambda: "No VM migrates." in browser.evaluate(text))
        assert browser.evaluate("document.title") == "Live migrations"
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
        background = "getComputedStyle(document.documentElement).colorScheme"
        assert browser.evaluate(background) == "light dark"
        if directory := os.environ.get("VMFERRY_LOOKS"):
            running.extend([live(), live(HOSTILE)])
            running[0].tell("2.5 s: dirty 165 MiB > 50 % of 54 MiB sent, second time: 0 -> 50 %")
            wait_until(lambda: "0 -> 50 %" in browser.evaluate(text))
            browser.screenshot(Path(directory) / f"agent-{width}.png")
        assert browser.complaints == []
        assert all(url.startswith(f"http://127.0.0.1:{port}/") for url in browser.requests)


def test_changes_come_as_events_within_the_stream(database: str, tmp_path: Path) -> None:
    path = f"{tmp_path}/page.sock"
    running: list[Live] = []
    with (
        web(database, path, running),
        httpx.Client(transport=httpx.HTTPTransport(uds=path), base_url="http://agent") as one,
        one.stream("GET", "/api/events", timeout=60) as stream,
    ):
        data = (json.loads(line.removeprefix("data: ")) for line in stream.iter_lines() if line.startswith("data: "))
        assert next(data) == []
        running.append(live())
        assert [each["vm_name"] for each in next(data)] == ["db"]
        running[0].watch(SEEN.after(SEEN))
        running[0].tell("said")
        assert next(data)[0]["said"] == ["said"]
