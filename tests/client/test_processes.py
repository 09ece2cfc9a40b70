"""What /proc tells of threads."""

import threading
from pathlib import Path

from vmferry.client.processes import PROC, Thread, status_field


def test_a_name_that_is_no_text_is_no_obstacle() -> None:
    """The kernel cuts names off after 15 bytes, also in the middle of a character."""
    found: list[object] = []

    def look() -> None:
        number = threading.get_native_id()
        task = PROC / "self" / "task" / str(number)
        Path(task / "comm").write_bytes("fourteen bytesß".encode()[:15])
        found.extend([Thread.of(number), status_field(task, "State")[:1]])

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert isinstance(found[0], Thread)
    assert found[1] == "R"
