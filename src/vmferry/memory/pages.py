"""Looking into pages: which of them hold only zero bytes."""

import numpy as np
from numpy.typing import NDArray

from vmferry.memory.ranges import PageRuns


def zero_pages(ram: NDArray[np.uint64], pages: PageRuns) -> NDArray[np.bool_]:
    """Return one flag for each page of `pages`, in order: does it hold only zero bytes?

    `ram` is guest memory as an array of words, one row for each page. Most pages in use show it in their first word,
    or else in their last one; only the others are read as a whole. Each look at another line of memory takes time.
    """
    if len(pages) == 1:
        first, count = int(pages.first[0]), int(pages.count[0])
        return _zero_rows(ram[first : first + count])
    indices = pages.indices()
    flags: NDArray[np.bool_] = ram[indices, 0] == 0
    flags[flags] = ram[indices[flags], -1] == 0
    flags[flags] = _all_zero(ram[indices[flags]])
    return flags


def _zero_rows(rows: NDArray[np.uint64]) -> NDArray[np.bool_]:
    flags: NDArray[np.bool_] = rows[:, 0] == 0
    flags[flags] = rows[flags, -1] == 0
    if flags.all():
        return _all_zero(rows)  # no copy
    flags[flags] = _all_zero(rows[flags])
    return flags


def _all_zero(rows: NDArray[np.uint64]) -> NDArray[np.bool_]:
    flags: NDArray[np.bool_] = np.bitwise_or.reduce(rows, axis=1) == 0
    return flags
