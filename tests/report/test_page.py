"""The report page and the picture: complete, safe with hostile journals, and seen by a real browser."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.report.test_series import COURSE, SCENARIO, decided, ended, journal, started, window
from tests.support.chromium import Page, open_chromium
from vmferry.errors import UsageError
from vmferry.experiment.scenario import parse_scenario
from vmferry.migration.events import BandwidthWindow, Decided, Ended, Event, SwitchoverBegan, Synced
from vmferry.migration.journal import Entry, split_migrations
from vmferry.migration.status import MigrationStatus as Status
from vmferry.report.journal_runs import run_series
from vmferry.report.page import MAX_PAGE_BYTES, Row, Section, page
from vmferry.report.panels import COLOURS, colour_of_labels, linear_ticks, size_axis
from vmferry.report.plot import make_figure
from vmferry.report.series import RunSeries
from vmferry.report.summary import RESULT_COLUMNS, configuration, verdict
from vmferry.report.svg import picture
from vmferry.report.text_report import text_report
from vmferry.report.tradeoff import costs_of
from vmferry.simulation.run import simulate

DOCS = Path(__file__).parents[2] / "docs"
HOSTILE = "</script><script>document.title='taken'</script><img src=http://a.b/><b a='\">"
SAMPLES = [(time / 2, [100 * time, 150 * time]) for time in range(40)]


@cache
def simulated_runs() -> list[RunSeries]:
    scenario = parse_scenario(SCENARIO, "small")
    return [
        run_series(simulate(scenario, variant, seed).entries, variant)
        for variant in scenario.variants
        for seed in (0, 1)
    ]


def hostile_run() -> RunSeries:
    events: list[tuple[float, Event]] = [
        (0, started(**{HOSTILE: HOSTILE})),
        (1, decided(0, 20, HOSTILE)),
        (2, ended(2)),
    ]
    return run_series(journal(*events), HOSTILE, SAMPLES)


def hostile_rows() -> list[Row]:
    figures = {"status": "completed", HOSTILE: HOSTILE}
    return [Row(HOSTILE, HOSTILE, figures), Row("a failed one", "no line", figures, [HOSTILE, "the link broke"])]


def make_page(runs: list[RunSeries]) -> str:
    return page("A title", [Section("", verdict(runs), runs)])


class Parsed(HTMLParser):
    """The elements of a page and the text of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        assert not {"src", "href", "onerror"} & {name for name, _ in attrs}
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1] == "script":
            self.scripts[-1] += data


def test_a_page_has_every_run_in_its_table_and_every_panel_in_its_figure() -> None:
    text = make_page(simulated_runs())
    figure = msgspec.json.decode(Parsed(text).scripts[0])
    names = [run.label for run in simulated_runs()]
    panels = [note["text"] for note in figure["layout"]["annotations"]]
    assert len(panels) == 6
    for number in range(1, 7):
        lines = [t for t in figure["data"] if t["yaxis"] == f"y{number}" and t["mode"] == "lines"]
        assert [line["name"] for line in lines] == names, panels[number - 1]
        # One of the two repeats of each variant is drawn strongly.
        assert sorted(line["opacity"] for line in lines) == [0.3] * 4 + [1] * 4
        assert {line["line"]["color"] for line in lines if line["name"] == "original"} == {COLOURS[0]}
    for run in simulated_runs():
        assert all(column(run) in text for column in RESULT_COLUMNS.values())


def test_a_variant_has_its_colour_on_every_page() -> None:
    by_variant = {run.variant: run for run in simulated_runs()}
    alone = {name: colour_of_labels([run])[run.label] for name, run in by_variant.items()}
    assert len(set(alone.values())) == 4
    recorded = replace(by_variant["background-sync"], label="recorded")
    of_a_journal = replace(by_variant["original"], label="a.journal: original")
    page_of_all = colour_of_labels([recorded, of_a_journal, *by_variant.values()])
    assert {name: page_of_all[name] for name in by_variant} == alone
    assert not {page_of_all["recorded"], page_of_all["a.journal: original"]} & set(alone.values())
    assert colour_of_labels([of_a_journal]) == {"a.journal: original": alone["original"]}


def test_a_page_of_many_runs_is_not_larger_than_allowed() -> None:
    many = [replace(run, label=f"run {number}") for number, run in enumerate(simulated_runs() * 5)]
    assert len(make_page(many).encode()) <= MAX_PAGE_BYTES
    shipped = DOCS / "results" / "seed" / "report.html"
    assert shipped.stat().st_size < MAX_PAGE_BYTES - (128 << 10)  # plotly.js grows
    with pytest.raises(UsageError, match="1600 migrations are too many for one page of 5 MiB"):
        make_page(simulated_runs() * 200)


def test_what_a_journal_says_cannot_become_part_of_the_page() -> None:
    runs = [hostile_run(), *simulated_runs()[:1]]
    parsed = Parsed(page(HOSTILE, [Section(HOSTILE, HOSTILE, runs, hostile_rows())], HOSTILE))
    assert parsed.elements.count("script") == 3
    assert not {"img", "b"} & set(parsed.elements)
    root = ET.fromstring(picture(HOSTILE, HOSTILE, [hostile_run()]))
    assert {element.tag.rpartition("}")[2] for element in root.iter()} == {"svg", "style", "rect", "path", "text"}


def test_pictures_can_be_made_of_hardly_anything() -> None:
    for events in (COURSE[:1], COURSE[:4], [(0, started()), (0, ended(0))], [(0, started()), (1, window(0, 0))]):
        run = run_series(journal(*events), "little")
        ET.fromstring(picture("", verdict([run]), [run]))
        make_page([run])


ANY = st.integers(0, 2**63) | st.integers(0, 3)
PERCENT = st.integers(0, 100)
EVENTS = st.one_of(
    st.builds(
        BandwidthWindow,
        duration_ns=ANY,
        sent_bytes=ANY,
        remaining_bytes=ANY,
        throttle_percent=PERCENT,
        threshold_bytes=ANY,
    ),
    st.builds(
        Synced,
        kind=st.sampled_from(["iteration", "background", "last", "?"]),
        dirty_sync_count=ANY,
        iteration_count=ANY,
        newly_dirty_pages=ANY,
        remaining_pages=ANY,
        duration_ns=ANY,
    ),
    st.builds(
        Decided,
        period_ns=ANY,
        dirty_bytes=ANY,
        sent_bytes=ANY,
        old_throttle_percent=PERCENT,
        throttle_percent=PERCENT,
        reason=st.text(),
    ),
    st.builds(SwitchoverBegan, remaining_bytes=ANY, threshold_bytes=ANY),
    st.builds(
        Ended,
        status=st.sampled_from(Status),
        total_time_ns=ANY,
        downtime_ns=ANY,
        downtime_parts_ns=st.dictionaries(st.text(), ANY, max_size=2),
        sent_bytes=ANY,
        iteration_count=ANY,
        dirty_sync_count=ANY,
        max_throttle_percent=PERCENT,
        error=st.text(),
    ),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(ANY, EVENTS), max_size=8), st.text())
def test_any_journal_can_be_shown(events: list[tuple[int, Event]], label: str) -> None:
    entries = [Entry(0, started()), *(Entry(*event) for event in events)]
    run = run_series(next(split_migrations(entries)), label)
    ET.fromstring(picture(label, verdict([run]), [run]))
    assert max(map(len, text_report([run]).splitlines())) <= 80
    figure = msgspec.json.encode(make_figure([run]))
    assert b"null" not in figure  # neither infinite nor undefined


def test_the_picture_has_its_panels_on_one_time_axis() -> None:
    root = ET.fromstring(picture("A title", verdict(simulated_runs()), simulated_runs()))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"A title", "Remaining memory, logarithmic", "Guest speed (100 - throttle), %"} <= set(texts)
    assert texts.count("0 s") == 2
    outcomes = [text for text in texts if text and re.fullmatch(r"(original|periodic-sync): .* s, \d+ % lost", text)]
    assert len(outcomes) == 2
    measured = picture("A title", "", [hostile_run()])
    assert all(f">{title}<" in measured for title in ("Throttle, %", "Guest pages/s per vCPU, measured"))


def test_the_verdict_says_what_came_out() -> None:
    runs = simulated_runs()
    fastest = min(runs, key=lambda run: run.total_s)
    assert "is the fastest with" in verdict(runs)
    assert verdict([fastest]).startswith("The migration completed in ")
    torn = run_series(journal(*COURSE[:4]), "torn")
    assert verdict([torn]) == "The migration was setup after 5 s: the journal ends before the migration does."
    assert verdict([torn, *runs]) == "8 of 9 migrations completed; not: torn."
    assert verdict([torn, torn]) == "0 of 2 migrations completed; not: torn."
    assert verdict([fastest, fastest]).startswith("The median of 2 migrations completed in ")
    unknown = replace(fastest, label="unknown", outcome=msgspec.structs.replace(fastest.outcome, total_time_ms=None))
    assert verdict([*runs, unknown]) == "All completed; how long unknown took is unknown."
    other = run_series(journal(*COURSE), "other")
    assert verdict([fastest, other]) == "All 2 migrations completed; their guests differ in size."
    assert verdict([fastest, replace(fastest, label="b")]).startswith("All took about the same time")


def test_the_configuration_tells_which_label_has_which_value() -> None:
    settings = configuration(simulated_runs()[:4])
    assert settings["guest memory"] == "256 MiB"
    assert settings["background-sync"] == "off (original); preserve (background-sync)"


def test_ticks_are_round() -> None:
    assert [text for _, text in linear_ticks(425, 8)] == ["0", "100", "200", "300", "400"]
    assert [text for _, text in linear_ticks(0.07)] == ["0", "0.02", "0.04", "0.06"]
    assert [text for _, text in size_axis(100 << 30).ticks] == ["64 MiB", "1 GiB", "16 GiB"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with open_chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.chromium
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_the_page_and_asks_for_nothing_else(browser: Page, tmp_path: Path, width: int) -> None:
    path = tmp_path / "page.html"
    drawn = [[hostile_run(), *simulated_runs()], simulated_runs()[:2]]
    costs = [costs_of((run.label, run.outcome) for run in runs) for runs in drawn]
    sections = [
        Section(HOSTILE, verdict(runs), runs, hostile_rows(), costs=cost)
        for runs, cost in zip(drawn, costs, strict=True)
    ]
    path.write_text(page("A title", [*sections, Section("none drawn", "none", [], hostile_rows())], HOSTILE))
    browser.requests.clear()
    browser.open(path, width, dark=width < 600)
    browser.evaluate("drawn.then(() => true)")
    assert browser.evaluate("document.title") == "A title"
    assert browser.evaluate("document.querySelectorAll('.scatterlayer .trace path.js-line').length") > 6 * 8
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    table = "[...document.querySelectorAll('.results')].every(t => t.scrollWidth <= t.closest('.box').clientWidth)"
    assert width > 600 or browser.evaluate(table)
    assert browser.evaluate("document.querySelectorAll('section').length") == 3
    assert browser.evaluate("document.querySelector('.plot svg').getBoundingClientRect().width") <= width
    browser.evaluate("document.querySelector('.legend button').click()")
    hidden = "[...document.querySelectorAll('.plot')].map(p => p.data.filter(t => t.visible === false).length)"
    tradeoff, course, *others = browser.evaluate(hidden)
    assert tradeoff == 1
    assert course >= 6
    assert set(others) == {0}
    assert browser.evaluate("document.querySelectorAll('.plot svg.main-svg').length") > 1
    assert browser.requests == [path.as_uri()]
    assert browser.complaints == []
