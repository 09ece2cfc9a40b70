"""What looking at guest memory costs in time: the cost model of the simulation.

In virtual time nothing takes time unless a model says so. Sending does, by the link's rate. Of all that a migration
does with memory, two more things do, because they grow with the size of the guest and not with what is sent:

- A page that holds nothing is not sent, but one must read it whole to know that it is zero. A page in use shows
  that in its first or last word, so looking at it costs nothing here. Of a guest of 100 GiB that uses 3, the first pass
  is mostly this search: 97 GiB at 1 GiB/s take 97 s. Where it costs nothing, such memory counts as never touched, and
  our engine passes over it.
- A dirty sync looks at the log of every page and re-arms it. At 5 ns for each, that is 0.13 s for 100 GiB, and 1.3 s
  for 1 TiB.

Both hold up the sender, and the guest writes on meanwhile. So each of them makes the next pass longer, too.

The destination has a cost of its own: a page that it gets for the first time has no memory there yet. Until the host
has found and cleared some, QEMU's destination reads nothing, so the first pass is slower than those after it. While it
does that the link goes on, so what counts is the slower of the two.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class GuestCosts:
    """How many nanoseconds it takes to look at a page."""

    scan_ns_per_zero_page: float = 0.0
    """To read a whole page and find it zero."""
    sync_ns_per_page: float = 0.0
    """To collect and re-arm its bit of the dirty log, which a sync does for every page of the guest."""
    populate_ns_per_page: float = 0.0
    """To take it at the destination, if that has no memory for it yet; at least what the link needs for it."""


FREE = GuestCosts()
"""Here looking costs nothing."""
