"""When a page that was written is logged anew."""

from enum import StrEnum


class Rearm(StrEnum):
    """`late` arms a page just before it is sent, `early` all that were written at every sync."""

    LATE = "late"
    EARLY = "early"
