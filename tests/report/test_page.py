"""The report page and the picture: the answer first, safe with hostile journals, and seen by a real browser."""

import base64
import hashlib
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.report.samples import ANY, EVENTS, HOSTILE, hostile_run, simulated_runs
from tests.report.test_series import COURSE, ended, journal, started, window
from tests.support.chromium import Page, open_chromium
from vmferry.errors import UsageError
from vmferry.migration.events import Event
from vmferry.migration.journal import Entry, split_migrations
from vmferry.migration.outcome import Outcome
from vmferry.report import page as page_module
from vmferry.report.journal_runs import run_series
from vmferry.report.labels import labelled
from vmferry.report.page import MAX_PAGE_BYTES, Section, page
from vmferry.report.page_runs import MAX_LINES
from vmferry.report.runs import Run
from vmferry.report.series import Deed, RunSeries
from vmferry.report.summary import RESULT_COLUMNS
from vmferry.report.svg import picture
from vmferry.report.text_report import text_report

DOCS = Path(__file__).parents[2] / "docs"
FAILED = Run(
    label="failed", name=HOSTILE, outcome=Outcome(status="failed", error=HOSTILE), troubles=("the link broke",)
)


def make_page(runs: list[RunSeries]) -> str:
    return page("A title", [Section("", runs)])


class Parsed(HTMLParser):
    """The elements of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        assert not {"src", "href", "style", "onerror"} & {name for name, _ in attrs}


def test_the_answer_comes_first_and_every_run_after_it() -> None:
    text = make_page(simulated_runs())
    order = ['class="verdict"', '<table class="answer">', "<h3>Course", "<h3>Time against", "<h3>Every run", ">Conf"]
    places = [text.index(mark) for mark in order]
    assert places == sorted(places)
    assert text.count('<svg class="bar"') == 2 * 4
    assert text.count('<details class="label">') == 4
    for run in simulated_runs():
        assert all(column(run.outcome) in text for column in RESULT_COLUMNS.values())
        assert all(escape(decision.reason) in text for decision in run.decisions or ())


def test_a_page_has_no_script_and_allows_only_its_own_style() -> None:
    text = make_page(simulated_runs())
    assert Parsed(text).elements.count("style") == 1
    assert "script" not in Parsed(text).elements
    [sheet] = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}';" in text
    assert "unsafe" not in text


def test_the_only_run_tells_its_story_at_once() -> None:
    [*_, last] = simulated_runs()
    text = make_page([last])
    assert '<details class="label" open>' in text
    assert "<details open><summary>the run: What was decided, and why" in text
    assert "guest stops" in text


def test_names_are_those_of_vm_and_policy_and_the_file_is_a_small_note() -> None:
    [run] = labelled([replace(simulated_runs()[0], vm_name="db-1", source="/tmp/x.jsonl")])
    text = make_page([run])
    assert "db-1: original" in text
    assert '<p class="source">Read from /tmp/x.jsonl.</p>' in text
    assert text.count("x.jsonl") == 2  # and what the course is drawn from


def test_a_long_story_is_cut_and_that_is_said() -> None:
    run = replace(simulated_runs()[0], deeds=tuple(Deed(time, "note", f"no {time}") for time in range(MAX_LINES + 50)))
    text = make_page([run])
    assert text.count("<li><b>") == MAX_LINES
    assert re.search(r"\d+ more; `vmferry report` tells all of them", text)


def test_a_page_of_many_runs_is_not_larger_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    many = [replace(run, label=f"run {number}") for number, run in enumerate(simulated_runs() * 5)]
    assert len(make_page(many).encode()) <= MAX_PAGE_BYTES / 2
    shipped = DOCS / "results" / "seed" / "report.html"
    assert shipped.stat().st_size < MAX_PAGE_BYTES / 2
    monkeypatch.setattr(page_module, "MAX_PAGE_BYTES", 1 << 20)
    with pytest.raises(UsageError, match="80000 migrations are too many for one page of 1 MiB"):
        page("", [Section("", [FAILED] * 80_000)])


def test_what_a_journal_says_cannot_become_part_of_the_page() -> None:
    runs = [hostile_run(), *simulated_runs()[:1], FAILED]
    parsed = Parsed(page(HOSTILE, [Section(HOSTILE, runs)], HOSTILE))
    assert not {"img", "script"} & set(parsed.elements)
    root = ET.fromstring(picture(HOSTILE, [hostile_run()]))
    drawn = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert drawn <= {"svg", "style", "rect", "path", "text", "line", "circle", "title"}


def test_pictures_can_be_made_of_hardly_anything() -> None:
    for events in (COURSE[:1], COURSE[:4], [(0, started()), (0, ended(0))], [(0, started()), (1, window(0, 0))]):
        run = run_series(journal(*events), "little")
        ET.fromstring(picture("", [run]))
        make_page([run])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(ANY, EVENTS), max_size=8), st.text())
def test_any_journal_can_be_shown(events: list[tuple[int, Event]], label: str) -> None:
    entries = [Entry(0, started()), *(Entry(*event) for event in events)]
    [run] = labelled([run_series(next(split_migrations(entries)), label)])
    ET.fromstring(picture(label, [run]))
    assert max(map(len, text_report([run]).splitlines())) <= 80
    drawn = Parsed(make_page([run]))
    assert drawn.elements.count("svg") > 2
    assert not re.search(r'="(nan|inf|None)', make_page([run]))


def test_the_picture_has_the_answer_and_its_panels_on_one_time_axis() -> None:
    root = ET.fromstring(picture("A title", simulated_runs()))
    texts = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"A title", "Remaining memory, logarithmic", "Guest speed (100 - throttle), %"} <= set(texts)
    assert texts.count("0 s") == 2
    assert {"1 original, 2 of 2 completed", "4 periodic-sync, 2 of 2 completed"} <= set(texts)
    assert sum(bool(re.fullmatch(r".* s \(.* s to .* s\)", text)) for text in texts) == 4
    measured = picture("A title", [hostile_run()])
    assert all(f">{title}<" in measured for title in ("Throttle, %", "Guest&#x27;s work, measured: pages/s"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with open_chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.chromium
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_the_page_and_asks_for_nothing_else(
    browser: Page, tmp_path: Path, width: int, dark: bool
) -> None:
    path = tmp_path / "page.html"
    drawn: list[list[Run]] = [[hostile_run(), *simulated_runs()], [*simulated_runs()[:4], FAILED]]
    sections = [Section(HOSTILE, runs) for runs in drawn]
    path.write_text(page("A title", [*sections, Section("none drawn", [FAILED])], HOSTILE))
    browser.requests.clear()
    browser.open(path, width, dark=dark)
    assert browser.evaluate("document.title") == "A title"
    browser.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("document.querySelectorAll('section').length") == 3
    assert browser.evaluate("[...document.querySelectorAll('.plot')].every(p => p.getBoundingClientRect().width > 200)")
    fits = "[...document.querySelectorAll('.plot .title')].every(t => t.getBoundingClientRect().right <= innerWidth)"
    assert browser.evaluate(fits)
    background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(22, 25, 29)" if dark else "rgb(255, 255, 255)")
    contrast = "[...document.querySelectorAll('.plot .title')].map(t => getComputedStyle(t).fill)"
    assert set(browser.evaluate(contrast)) == {"rgb(228, 231, 234)" if dark else "rgb(28, 33, 38)"}
    assert browser.requests == [path.as_uri()]
    assert browser.complaints == []


@pytest.mark.chromium
def test_a_name_in_the_legend_hides_its_lines_also_by_keyboard(browser: Page, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(make_page(simulated_runs()))
    browser.open(path, 1280)
    lines = "[...document.querySelectorAll('.plot .line.k0')]"
    shown = f"{lines}.filter(line => getComputedStyle(line).display !== 'none').length"
    others = shown.replace("k0", "k1")
    before, kept = browser.evaluate(shown), browser.evaluate(others)
    assert before > 4
    browser.evaluate("document.querySelector('.legend input.k0').focus()")
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key=" ", code="Space", text=" ", windowsVirtualKeyCode=32)
    assert browser.evaluate(shown) == 0
    assert browser.evaluate(others) == kept
