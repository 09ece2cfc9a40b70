"""How soon the agent's page is there, and how old what it shows gets: `python -m bench.page --help`.

A migration that is made up goes on by ten polls per second. The agent notes when it knew each, a headless Chromium
when it stood on the page. How old a figure gets is the time from the one to when the next takes its place.
"""

import tempfile
import threading
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import click
from tests.support.agent_web import made_up, sources_of, web
from tests.support.chromium import Page, open_chromium
from tests.support.ports import free_port

from bench.samples import Samples, recording
from vmferry.agent.live import Live
from vmferry.agent.recording import Facts
from vmferry.agent.rules import Mode, Vm
from vmferry.control.asking.progress import Progress
from vmferry.migration.events import Started
from vmferry.units import MIB

_POLL_S = 0.1
_OBSERVE = """
window.seen = {};
const note = () => {
  const text = document.querySelector("#live dl dd")?.textContent;
  if (text && !(text in window.seen)) window.seen[text] = Date.now();
};
new MutationObserver(note).observe(document.getElementById("live"),
  { subtree: true, childList: true, characterData: true });
"""
_PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"


class Made:
    """Migrations that go on by themselves."""

    def __init__(self, count: int) -> None:
        self.live = [_migration(number) for number in range(count)]
        self.known_ms: dict[str, float] = {}
        """When the agent knew what the page shows as the time that they have run for."""
        self.stop = threading.Event()

    def run(self) -> None:
        """Poll until the end."""
        elapsed_ms = 0
        while not self.stop.wait(_POLL_S):
            elapsed_ms += round(_POLL_S * 1000)
            for one in self.live:
                one.watch(_progress(elapsed_ms))
            self.known_ms[f"{elapsed_ms / 1000:.1f} s"] = time.time() * 1000

    def ages_ms(self, seen_ms: dict[str, float]) -> list[float]:
        """Return how old each figure was when the next one took its place."""
        shown = sorted((at_ms, text) for text, at_ms in seen_ms.items() if text in self.known_ms)
        return [after_ms - self.known_ms[text] for (_, text), (after_ms, _) in pairwise(shown)]


def _migration(number: int) -> Live:
    vm = Vm(f"vm-{number}", f"{number}")
    live = made_up(
        Facts(vm=vm, address=f"unix:/{number}", mode=Mode.STEER, rule="", variant="planned", began_ms=number)
    )
    parameters: dict[str, object] = {"downtime-limit": 300}
    live.recording.record(
        0, Started(page_size=4096, page_count=1 << 20, vcpu_count=4, auto_converge=True, parameters=parameters)
    )
    return live


def _progress(elapsed_ms: int) -> Progress:
    ram = {
        "remaining": max(0, 4096 * MIB - elapsed_ms * 20_000),
        "total": 4096 * MIB,
        "transferred": elapsed_ms * 100_000,
        "mbps": 800.0,
        "dirty-sync-count": 2 + elapsed_ms // 1000,
        "dirty-pages-rate": 12_000 + elapsed_ms // 1000,
    }
    seen = Progress.from_qmp({"status": "active", "total-time": elapsed_ms, "ram": ram})
    return replace(seen, throttle_percent=40)


def measure(samples: Samples, page: Page, count: int, watched_s: float, directory: Path) -> None:
    """Load the page while so many migrations run, and watch it."""
    made, port = Made(count), free_port()
    running = threading.Thread(target=made.run)
    with web(sources_of(f"sqlite:///{directory}/agent.db", made.live), f"127.0.0.1:{port}"):
        running.start()
        try:
            page.open(f"http://127.0.0.1:{port}/", 1280)
            page.evaluate(_OBSERVE)
            time.sleep(watched_s)
            samples.add("page_first_paint", page.evaluate(_PAINT), "ms", migrations=count)
            for age_ms in made.ages_ms(page.evaluate("window.seen")):
                samples.add("page_figure_age", age_ms, "ms", migrations=count)
        finally:
            made.stop.set()
            running.join()


@click.command()
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Append the raw samples to this file.")
@click.option("--runs", default=3, show_default=True, help="How often to load the page.")
@click.option("--migrations", default=1, show_default=True, help="How many run.")
@click.option("--seconds", default=10.0, show_default=True, help="How long to watch.")
def main(output: Path | None, runs: int, migrations: int, seconds: float) -> None:
    """Measure the page's first paint, and how old its figures get."""
    with recording(output) as samples, tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with open_chromium(directory / "profile") as page:
            for _ in range(runs):
                measure(samples, page, migrations, seconds, directory)


if __name__ == "__main__":
    main()
