"""An agent in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.wait import wait_until
from vmferry.agent import store
from vmferry.agent.database import reading
from vmferry.agent.remembered_run import RememberedRun
from vmferry.agent.store import Wanted


class Agent:
    """`start` starts it with the file that `write` has written; what it says is in `said`."""

    def __init__(self, directory: Path) -> None:
        self.database = f"sqlite:///{directory}/agent.db"
        self.said: list[dict[str, Any]] = []
        self._path = directory / "agent.toml"

    def write(self, text: str) -> None:
        self._path.write_text(f'database = "{self.database}"\nhost = "{self._path.parent}"\n{text}')

    def start(self, **environment: str) -> None:
        command = [sys.executable, "-m", "vmferry", "agent", "--config", str(self._path), "--log-format", "json"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | environment)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.wait_for("ready")

    def kill(self) -> None:
        self.process.kill()
        self._end()

    def stop(self) -> int:
        """End it as systemd does, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self._end()

    def reload(self) -> None:
        self.process.send_signal(signal.SIGHUP)

    def lines(self, words: str) -> list[dict[str, Any]]:
        return [line for line in self.said if words in line["message"]]

    def wait_for(self, words: str, count: int = 1, timeout_s: float = 60) -> dict[str, Any]:
        """Return the line that has these words, once it has come so often."""
        try:
            wait_until(lambda: len(self.lines(words)) >= count or self.process.poll() is not None, timeout_s)
        except AssertionError:
            raise AssertionError(f"it never said '{words}': {self.said}") from None
        assert len(self.lines(words)) >= count, self.said
        return self.lines(words)[count - 1]

    def remembered(self) -> list[RememberedRun]:
        with reading(self.database) as connection:
            return list(store.find(connection, Wanted()))

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.said.append(json.loads(line))

    def _end(self) -> int:
        code = self.process.wait(60)
        self._reader.join()
        assert self.process.stderr
        self.process.stderr.close()
        return code


@contextmanager
def agent(directory: Path) -> Iterator[Agent]:
    """An agent that is not started yet, and is gone at the end."""
    one = Agent(directory)
    try:
        yield one
    finally:
        if one.process.poll() is None:
            one.kill()
