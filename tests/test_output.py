"""Real pipes, FIFOs and devices: what matters is what the kernel does to whoever writes."""

import io
import os
import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.wait import wait_until
from vmferry.output import MAX_WAITING_BYTES, Output, TextOutput

LINE = b"x" * 999 + b"\n"


def opened(descriptor: int) -> io.FileIO:
    return io.FileIO(descriptor, "wb")


@contextmanager
def piped(told: list[str]) -> Iterator[tuple[Output, int]]:
    """An output into a pipe, and the end to read from."""
    reader, writer = os.pipe()
    with Output(opened(writer), "the pipe", told.append) as output:
        yield output, reader
        os.close(reader)


def read_until(reader: int, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        assert select.select([reader], [], [], 10)[0], "nothing more comes"
        data += os.read(reader, 1 << 20)
    return data


@settings(max_examples=30, deadline=None)
@given(pieces=st.lists(st.binary(max_size=2000), max_size=20))
def test_what_is_written_arrives_in_order(pieces: list[bytes]) -> None:
    reader, writer = os.pipe()
    with Output(opened(writer), "the pipe", print) as output:
        assert all(output.write(piece) for piece in pieces)
        output.close()
        assert os.read(reader, 100_000) == b"".join(pieces)
    assert os.read(reader, 1) == b"", "the descriptor is closed"
    os.close(reader)


def test_nobody_waits_for_a_reader_and_what_is_missing_is_told() -> None:
    told: list[str] = []
    with piped(told) as (output, reader):
        kept = 0
        while output.write(LINE):
            kept += 1
        assert not output.write(b"late\n")
        assert not output.flush(0.01)
        assert MAX_WAITING_BYTES // len(LINE) <= kept <= 3 * MAX_WAITING_BYTES // len(LINE)
        assert told == []
        assert read_until(reader, LINE * 2).replace(LINE, b"") == b""
        received = 0
        while not told:
            if select.select([reader], [], [], 0.01)[0]:
                received += len(os.read(reader, 1 << 20))
        assert told == ["1005 bytes are missing in the pipe, which could not be written in time"]
        assert output.write(b"it flows again\n")
        read_until(reader, b"again\n")


def test_all_that_was_kept_arrives_whole() -> None:
    told: list[str] = []
    with piped(told) as (output, reader):
        kept = 0
        while output.write(b"%06d\n" % kept):
            kept += 1
        lines: list[bytes] = []
        while len(lines) < kept:
            lines += read_until(reader, b"\n").split()
        assert lines == [b"%06d" % number for number in range(kept)]


def test_a_file_that_refuses_is_told_once_and_tried_again(tmp_path: Path) -> None:
    told: list[str] = []
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with Output(io.FileIO(path, "wb"), "the fifo", told.append) as output:
        os.close(reader)
        output.write(b"one\n")
        wait_until(lambda: told)
        output.write(b"two\n")
        assert not output.flush(10), "it does not wait where nothing can come of it"
        assert told == ["cannot write the fifo: Broken pipe; that is tried again every second"]
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        assert output.flush(10)
        assert os.read(reader, 100) == b"one\ntwo\n"
        os.close(reader)
        output.write(b"three\n")
        wait_until(lambda: len(told) == 2)


@pytest.mark.parametrize("write", [True, False])
def test_a_full_device_keeps_nobody(write: bool) -> None:
    told: list[str] = []
    with Output(io.FileIO("/dev/full", "wb"), "the journal", told.append) as output:
        if write:
            output.write(LINE, sync=True)
        assert output.flush(10) is not write
    wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name == "output to the journal"])
    assert told == ["cannot write the journal: No space left on device; that is tried again every second"] * write


def test_a_descriptor_that_does_not_block_is_waited_for() -> None:
    told: list[str] = []
    with piped(told) as (output, reader):
        os.set_blocking(output._file.fileno(), False)
        for _ in range(200):
            assert output.write(LINE)
        assert not output.flush(0.01)
        assert read_until(reader, LINE) == LINE * 200 or output.flush(10)
        assert told == []


def test_what_is_to_be_synced_is_put_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal"
    synced: list[bytes] = []
    fsync = os.fsync

    def spy(descriptor: int) -> None:
        fsync(descriptor)
        synced.append(path.read_bytes())

    monkeypatch.setattr(os, "fsync", spy)
    with Output(io.FileIO(path, "wb"), "the journal", print) as output:
        output.write(b"begun\n")
        assert output.flush(10)
        assert synced == []
        output.write(b"committed\n", sync=True)
        assert output.flush(10)
        assert synced == [b"begun\ncommitted\n"]


def test_half_a_line_is_not_held_back_for_long() -> None:
    with piped([]) as (output, reader):
        for byte in b"login: ":
            output.write(bytes([byte]))
        assert read_until(reader, b"login: ") == b"login: "


def test_it_may_tell_itself(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with Output(io.FileIO(path, "wb"), "stderr", lambda text: output.write(f"{text}\n".encode())) as output:
        os.close(reader)
        output.write(b"first\n")
        assert not output.flush(10)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        assert output.flush(10)
        assert os.read(reader, 1000).startswith(b"first\ncannot write stderr: Broken pipe")
        os.close(reader)


def test_text_of_any_kind_can_be_written() -> None:
    with piped([]) as (output, reader):
        print("half \ud800 a character", file=TextOutput(output))
        assert read_until(reader, b"\n") == b"half \\ud800 a character\n"


def test_an_end_does_not_wait_for_a_pipe_that_nobody_reads() -> None:
    reader, writer = os.pipe()
    output = Output(opened(writer), "the pipe", print)
    for _ in range(200):
        output.write(LINE)
    output.close()
    assert not output.flush(0.01)
    os.close(reader)  # lets the thread end
    wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name == "output to the pipe"])
