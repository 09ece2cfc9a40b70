"""What docs/policies.md says of writing a policy is true of its example."""

import json
import re
from pathlib import Path

from click.testing import CliRunner

from vmferry.cli.simulate import command
from vmferry.convergence.variants import FIELD_VARIANTS
from vmferry.migration.events import Decided
from vmferry.migration.journal import read_journal

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLE = DOCS / "examples" / "just_enough.py"
PAGE = (DOCS / "policies.md").read_text()

BUSY_THEN_IDLE = """
name = "busy, then idle"
link = { rate = "20MiB/s" }
[guest]
memory = "128M"
vcpus = 2
loads = [
    { pattern = "sweep", memory = "60M", write-rate = "80MiB/s", duration = "4s" },
    { pattern = "sweep", memory = "60M", write-rate = "2MiB/s", duration = "60s" },
]
"""


def test_the_example_on_the_page_is_the_file() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert blocks[0] == EXAMPLE.read_text()


def test_the_example_slows_a_guest_and_lets_it_go_again(tmp_path: Path) -> None:
    scenario, journal = tmp_path / "busy.toml", tmp_path / "journal"
    scenario.write_text(BUSY_THEN_IDLE)
    words = [str(scenario), "--policy", f"{EXAMPLE}:JustEnough", "--set", "policy.share=40", "--journal", str(journal)]
    answer = CliRunner().invoke(command, [*words, "--json"])
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout)["status"] == "completed"
    percents = [entry.event.throttle_percent for entry in read_journal(journal) if isinstance(entry.event, Decided)]
    assert max(percents) > 50
    assert percents[-1] < max(percents)


def test_every_variant_of_another_system_is_in_the_table() -> None:
    rows = re.findall(r"^\| `([^`]+)` \|", PAGE, re.MULTILINE)
    assert [row for row in rows if row in FIELD_VARIANTS] == list(FIELD_VARIANTS)
