from pathlib import Path

from vmferry.monitor.commands import COMMANDS
from vmferry.monitor.events import EVENTS
from vmferry.monitor.reference import reference

PAGE = Path(__file__).parents[2] / "docs" / "qmp.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == reference(), "run: python -m vmferry.monitor.reference > docs/qmp.md"


def test_nothing_is_left_out() -> None:
    text = reference()
    for name in (*COMMANDS, *EVENTS):
        assert f"| `{name}` |" in text


def test_tables_have_as_many_cells_as_headers() -> None:
    for section in reference().split("\n## ")[1:]:
        lines = [line.replace("\\|", "") for line in section.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1, section[:40]
