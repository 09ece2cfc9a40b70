"""Lines typed at a terminal: editing, completion, and a history that is kept (with `readline`, where Python has it)."""

import os
from collections.abc import Callable
from pathlib import Path

try:
    import readline
except ImportError:  # some builds of Python lack it
    readline = None  # type: ignore[assignment]

_MAX_HISTORY_LINES = 1000


def history_path() -> Path:
    """Return where lines are kept: `vmferry/monitor_history` in the user's state directory (XDG base directories)."""
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if os.path.isabs(state) else Path("~/.local/state").expanduser()
    return base / "vmferry" / "monitor_history"


class LineEditor:
    """Reads lines; `complete` is given a line up to the cursor and returns what its last word can become.

    The history is readable for its owner only. `kept` is False if it cannot be written.
    """

    def __init__(self, complete: Callable[[str], list[str]], history: Path) -> None:
        self._complete = complete
        self._history = history
        self._candidates: list[str] = []
        self.kept = False
        if readline:
            readline.set_completer_delims(" \t")
            readline.set_completer(self._completion)
            readline.parse_and_bind("tab: complete")
            readline.set_auto_history(False)
            readline.clear_history()
            self._read_history()

    def read(self, prompt: str) -> str:
        """Return a line and remember it. Raises EOFError at the end and KeyboardInterrupt."""
        line = input(prompt)
        if readline and line.strip():
            self._remember(line)
        return line

    def _read_history(self) -> None:
        readline.set_history_length(_MAX_HISTORY_LINES)
        try:
            self._history.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self._history, os.O_RDWR | os.O_CREAT, 0o600))
            readline.read_history_file(self._history)
        except OSError:
            return
        self.kept = True

    def _remember(self, line: str) -> None:
        readline.add_history(line)
        if self.kept:
            try:
                readline.append_history_file(1, self._history)
            except OSError:
                self.kept = False

    def _completion(self, _word: str, number: int) -> str | None:
        """Return the candidate of that number, as readline asks for them: one by one."""
        if number == 0:
            self._candidates = self._complete(readline.get_line_buffer()[: readline.get_endidx()])
            if len(self._candidates) == 1:
                self._candidates[0] += " "
        return self._candidates[number] if number < len(self._candidates) else None
