"""How fast memory can be copied here, beside which a migration's speed is seen. By itself: takes memory and ends."""

import mmap
import sys
import time

import numpy as np

from vmferry.units import MIB

_PIECE_BYTES = 128 * MIB
_TIMES = 2
_MADV_POPULATE_WRITE = 23
"""Linux 5.14, <asm-generic/mman-common.h>."""


def fresh_memory(size_bytes: int) -> mmap.mmap:
    """Return memory that is not there before it is written, in huge pages where there are any, as guests have it."""
    memory = mmap.mmap(-1, size_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def copied_gb_per_s(*, present: bool) -> float:
    """Return how fast one thread copies memory to where memory is `present`, or else has to be taken and cleared."""
    source, taken_s = np.full(_PIECE_BYTES, 7, np.uint8), 0.0
    for _ in range(_TIMES):
        for is_measured in (False, True):  # what the first has given back is not waited for by the second
            with fresh_memory(_PIECE_BYTES) as target:
                if present or not is_measured:
                    target.madvise(_MADV_POPULATE_WRITE)
                start_s = time.monotonic()
                if is_measured:
                    target[:] = source.data
                    taken_s += time.monotonic() - start_s
    return _TIMES * _PIECE_BYTES / taken_s / 1e9


if __name__ == "__main__":
    fresh_memory(int(sys.argv[1]) * MIB).madvise(_MADV_POPULATE_WRITE)
