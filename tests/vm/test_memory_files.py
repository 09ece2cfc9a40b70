import os
import resource
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vmferry.errors import CancelledError, UsageError
from vmferry.vm.memory_files import MAX_AT_ONCE, MemoryFiles

MEMORY = memoryview(os.urandom(40 << 20))


def save(path: Path, memory: memoryview = MEMORY) -> None:
    MemoryFiles(lambda: None).write(memory, str(path))


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_memory_is_written_for_its_owners_eyes_only(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    old_mask = os.umask(0)
    try:
        save(path)
    finally:
        os.umask(old_mask)
    assert path.read_bytes() == MEMORY
    assert mode_of(path) == 0o600


def test_a_file_that_is_there_stays_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    path.write_bytes(b"x" * 100)
    path.chmod(0o644)
    with path.open("rb") as reader:  # as a client that has made the file has it
        save(path, MEMORY[:10])
        assert reader.read() == MEMORY[:10]
    assert mode_of(path) == 0o600


def test_nothing_but_a_regular_file_is_written(tmp_path: Path) -> None:
    fifo, link, precious = tmp_path / "fifo", tmp_path / "link", tmp_path / "precious"
    os.mkfifo(fifo)
    precious.write_text("precious")
    link.symlink_to(precious)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    for path in (fifo, link, Path("/dev/full")):
        with pytest.raises(UsageError, match=f"'{path}' is there and is no regular file"):
            save(path)
    os.close(reader)
    with pytest.raises(UsageError, match=f"'{fifo}' is there and is no regular file"):
        save(fifo)
    with pytest.raises(UsageError, match="Is a directory"):
        save(tmp_path)
    assert fifo.is_fifo()
    assert precious.read_text() == "precious"


@contextmanager
def file_size_limit(size_bytes: int) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_half_a_file_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    with file_size_limit(20 << 20), pytest.raises(UsageError, match=f"cannot write '{path}': File too large"):
        save(path)
    assert not path.exists()


def test_whoever_ends_is_not_kept(tmp_path: Path) -> None:
    written: list[int] = []

    def check_stop() -> None:
        written.append((tmp_path / "memory").stat().st_size)
        if len(written) == 3:
            raise CancelledError("this process is ending")

    with pytest.raises(CancelledError):
        MemoryFiles(check_stop).write(MEMORY, str(tmp_path / "memory"))
    assert written[0] < written[2] < len(MEMORY)
    assert not os.listdir(tmp_path)


def test_few_are_written_at_once(tmp_path: Path) -> None:
    gate = threading.Event()
    started = threading.Semaphore(0)

    def wait() -> None:
        started.release()
        gate.wait()

    files = MemoryFiles(wait)
    writers = [
        threading.Thread(target=files.write, args=(MEMORY, str(tmp_path / str(number))))
        for number in range(MAX_AT_ONCE)
    ]
    for writer in writers:
        writer.start()
        assert started.acquire(timeout=10)
    with pytest.raises(UsageError, match="4 pieces of memory are being written already"):
        files.write(MEMORY, str(tmp_path / "more"))
    files.end(0.01)
    gate.set()
    for writer in writers:
        writer.join()
    assert sorted(os.listdir(tmp_path)) == ["0", "1", "2", "3"]
