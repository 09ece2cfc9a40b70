"""What is told of a guest that moves."""

import pytest

from vmferry.migration.events import CompressionChosen
from vmferry.vm.telling import choice


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        (
            CompressionChosen(on=True, ratio=3.14, compressed_bytes_per_s=20 << 20, plain_bytes_per_s=10 << 20),
            "compression is on: it makes pages 3.1 times smaller, and memory moves at 20 MiB/s with it and at 10 MiB/s "
            "without it",
        ),
        (
            CompressionChosen(on=False, ratio=None, compressed_bytes_per_s=1 << 20, plain_bytes_per_s=None),
            "compression is off: memory moves at 1 MiB/s with it",
        ),
    ],
)
def test_whether_pages_are_compressed_is_told_with_what_was_measured(chosen: CompressionChosen, told: str) -> None:
    assert choice(chosen) == told
