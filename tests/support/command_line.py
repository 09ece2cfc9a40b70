"""The command line as `python -m vmferry` runs it, but in this process, which takes no second to start."""

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout

import pytest

from vmferry.cli import main
from vmferry.cli.log_option import STDERR


def run(*words: str | bytes) -> subprocess.CompletedProcess[str]:
    """Return what a command says, and its exit code."""
    out, errors = (io.TextIOWrapper(io.BytesIO(), write_through=True) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(errors):
        patch.setattr(main, "raise_interruptions", lambda: None)
        patch.setattr(sys, "argv", ["vmferry", *map(os.fsdecode, words)])
        with pytest.raises(SystemExit) as ended:
            main.main()
    STDERR.choose("text", "")
    assert isinstance(ended.value.code, int)
    said = [text.buffer.getvalue().decode() for text in (out, errors)]
    return subprocess.CompletedProcess(words, ended.value.code, *said)
