"""The page of an agent in a real browser while a real QEMU migrates: looked at, acted upon, remembered."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.test_agent import Pair
from tests.support.agent import Agent, agent
from tests.support.agent_web import ACT_TOKEN, READ_TOKEN
from tests.support.chromium import Page, open_chromium
from tests.support.ports import free_port
from tests.support.wait import wait_until
from vmferry.agent.database import reading
from vmferry.agent.store import journal_of
from vmferry.control.asking.progress import ask
from vmferry.migration.events import Acted
from vmferry.perf.lab import Lab

pytestmark = [pytest.mark.kvm, pytest.mark.qemu, pytest.mark.chromium]
WAIT_S = 60


@pytest.fixture
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with open_chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def shown(tmp_path: Path, browser: Page) -> Iterator[Agent]:
    """An agent that shadows the VMs of a directory, and the browser at its page."""
    (tmp_path / "qmp").mkdir()
    files = {"token-file": READ_TOKEN, "action-token-file": ACT_TOKEN}
    for name, token in files.items():
        (tmp_path / name).touch(0o600)
        (tmp_path / name).write_text(token)
    places = "".join(f'{name} = "{tmp_path}/{name}"\n' for name in files)
    port = free_port()
    with agent(tmp_path) as one:
        one.write(f'sockets = ["{tmp_path}/qmp"]\npage = "127.0.0.1:{port}"\n{places}')
        one.start()
        browser.log_in(READ_TOKEN)
        browser.open(f"http://127.0.0.1:{port}/", 1280)
        yield one
        assert one.stop() == 0


def text(browser: Page, selector: str = "body") -> str:
    return str(browser.evaluate(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))


def submit(browser: Page, summary: str, **fields: str) -> None:
    """Open the form under a summary, fill it in and send it, as a person does."""
    browser.evaluate(
        f"""(() => {{
            const details = [...document.querySelectorAll("details")].find(
                (one) => one.querySelector("summary").textContent === {json.dumps(summary)});
            details.open = true;
            const form = details.querySelector("form");
            for (const [name, value] of Object.entries({json.dumps(fields)})) form.elements[name].value = value;
            form.querySelector("button").click();
        }})()"""
    )


def test_a_migration_is_drawn_as_it_runs_handed_over_limited_and_cancelled(
    shown: Agent, browser: Page, tmp_path: Path
) -> None:
    with Lab() as lab:
        pair = Pair(lab, tmp_path / "qmp")
        shown.wait_for("attended to at")
        pair.begin(20)
        wait_until(lambda: "busy" in text(browser, "#live h3"), WAIT_S)
        path = "document.querySelector('#live svg .remaining').getAttribute('d').split('L').length"
        wait_until(lambda: browser.evaluate(path) > 5, WAIT_S)
        wait_until(lambda: "migrates" in text(browser, "#roster"), WAIT_S)
        assert "no rule matches" in text(browser, "#live")
        submit(browser, "Token for actions", token=ACT_TOKEN)
        submit(browser, "Steer", variant="background-sync+responsive-throttle")
        wait_until(lambda: "✓ it is steered by background-sync+responsive-throttle" in text(browser, "#live"), WAIT_S)
        wait_until(lambda: pair.slowed, WAIT_S)
        submit(browser, "Set limits", finish="60", downtime="250")
        wait_until(lambda: "✓ these are kept from now on" in text(browser, "#live"), WAIT_S)
        assert pair.source.monitor.execute("query-migrate-parameters")["downtime-limit"] == 250
        wait_until(lambda: "in 59 min" in text(browser, "#live dl"), WAIT_S)
        if directory := os.environ.get("VMFERRY_LOOKS"):
            browser.screenshot(Path(directory) / "agent-steered.png")
        submit(browser, "Cancel")
        wait_until(lambda: "No VM migrates." in text(browser, "#live"), WAIT_S)
        assert ask(pair.source.monitor).status == "cancelled"
        wait_until(lambda: not pair.slowed, WAIT_S)
        assert pair.source.monitor.execute("query-migrate-parameters")["downtime-limit"] == 300
        wait_until(lambda: "cancelled" in text(browser, "#history tbody"), WAIT_S)
    with reading(shown.database) as connection:
        acts = [entry.event for entry in journal_of(connection, 1) if isinstance(entry.event, Acted)]
    assert any("asked to cancel it" in act.reason for act in acts)
    report = str(browser.evaluate("fetch('migrations/1').then((answer) => answer.text())"))
    assert "asked to do something else with it" in report
    assert "asked to cancel it" in report
    assert browser.complaints == []
    (row,) = shown.remembered()
    assert (row.mode, row.status, "asked for it" in row.rule) == ("steer", "cancelled", True)


def test_a_forecast_is_worked_out_while_the_page_goes_on(shown: Agent, browser: Page, tmp_path: Path) -> None:
    with Lab() as lab:
        Pair(lab, tmp_path / "qmp")
        shown.wait_for("attended to at")
        browser.open(str(browser.evaluate("location.href")), 1280)
        wait_until(lambda: "busy" in text(browser, "#roster"), WAIT_S)
        browser.evaluate("document.querySelector('#roster button').click()")
        browser.evaluate("document.querySelector('#forecast form').elements.link.value = '2000'")
        browser.evaluate("document.querySelector('#forecast form button').click()")
        wait_until(lambda: "working out" in text(browser, "#forecast"), WAIT_S)
        assert browser.evaluate("fetch('api/live').then((answer) => answer.json())") == []
        wait_until(lambda: "converge" in text(browser, "#forecast .answer"), 5 * WAIT_S)
        assert "%" in text(browser, "#forecast table")
        if directory := os.environ.get("VMFERRY_LOOKS"):
            browser.screenshot(Path(directory) / "agent-forecast.png")
        assert browser.complaints == []
