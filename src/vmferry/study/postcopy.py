"""What post-copy would come to, by arithmetic: one pass, and then the guest runs there and fetches what is dirty.

Every page that is dirty when the guest moves has to come over the link, and a vCPU that writes one before it is there
waits. So the guest gets its set written no sooner than the link brings it: what it loses is the time that takes, less
what it would have needed for that by itself. What it only reads is not known, nor how long it stands still when it
moves, which does not depend on what is left to send.
"""

import numpy as np

from vmferry.migration.outcome import Outcome
from vmferry.migration.status import MigrationStatus
from vmferry.study.draws import Draw
from vmferry.study.survey import Survey
from vmferry.units import MS_PER_S, NS_PER_S


def postcopy(survey: Survey, strategy: str, draw: Draw) -> Outcome:
    """Return the outcome for one of the guests that are possible; its downtime is None."""
    bytes_per_s = survey.memory_bytes_per_s * draw.link
    pass_s = survey.used_bytes / bytes_per_s
    dirty_bytes = min(survey.used_bytes, draw.written * _distinct_bytes(survey, pass_s))
    fetching_s = dirty_bytes / bytes_per_s
    lost_s = max(0.0, fetching_s - _writing_s(survey, dirty_bytes / draw.written))
    return Outcome(
        status=MigrationStatus.COMPLETED.value,
        total_time_ms=round((pass_s + fetching_s) * MS_PER_S),
        sent_bytes=round((survey.used_bytes + dirty_bytes) / survey.times_smaller),
        work_lost_vcpu_s=lost_s * survey.vcpu_count,
        vcpu_count=survey.vcpu_count,
    )


def _distinct_bytes(survey: Survey, work_s: float) -> float:
    return float(survey.curve().distinct_bytes(np.array([work_s * NS_PER_S]))[0])


def _writing_s(survey: Survey, size_bytes: float) -> float:
    """Return how long the guest needs to write so much, each page once."""
    work_ns = np.linspace(0.0, max(point.duration_ns for point in survey.written), 1000)
    written = survey.curve().distinct_bytes(work_ns)
    return float(work_ns[min(int(np.searchsorted(written, 0.99 * size_bytes)), len(work_ns) - 1)]) / NS_PER_S
