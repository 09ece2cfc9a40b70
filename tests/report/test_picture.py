"""The picture at the door is what its command draws."""

import re
import shlex
from pathlib import Path

from click.testing import CliRunner

from vmferry.cli.simulate import command

ROOT = Path(__file__).parents[2]


def test_the_picture_in_the_readme_is_what_the_command_beside_it_draws(tmp_path: Path) -> None:
    text = re.sub(r"\\\n\s*", "", (ROOT / "README.md").read_text())
    line = re.search(r"^vmferry simulate (.* --picture (\S+))$", text, re.MULTILINE)
    assert line
    words = shlex.split(line[1])
    drawn = tmp_path / "drawn.svg"
    assert CliRunner().invoke(command, [*words[:-1], str(drawn)]).exit_code == 0
    assert drawn.read_text() == (ROOT / line[2]).read_text(), f"run: {line[0]}"
