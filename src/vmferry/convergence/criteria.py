"""The two criteria that tell that a migration does not converge.

*Dirty rate high* is QEMU's (`migration_trigger_throttle`): the guest dirtied more than a threshold's
share of what was sent. *Dirty ratio high* is the seed's: the ratio of the two is above the
threshold and does not fall. Their counters belong to one migration.
"""

from vmferry.convergence.sample import SyncSample

HIGH_COUNT_TO_ACT = 2


class DirtyRateCriterion:
    """Counts periods in which the guest dirtied too much, two of which call for action.

    A period that is not high does not reset the count; QEMU does not either.
    """

    def __init__(self) -> None:
        self.high_count = 0

    def observe(self, sample: SyncSample, threshold_percent: int) -> bool:
        """Return whether this period was high, and count it if so."""
        high = sample.dirty_bytes * 100 > sample.sent_bytes * threshold_percent
        self.high_count += high
        return high

    def take_action(self) -> bool:
        """Return whether it is time to act; if it is, start counting afresh."""
        if self.high_count < HIGH_COUNT_TO_ACT:
            return False
        self.high_count = 0
        return True


class DirtyRatioCriterion:
    """Counts periods whose dirty ratio is above the threshold and has not fallen since the last one."""

    def __init__(self) -> None:
        self.ratio_percent = 0
        self.previous_ratio_percent = 0
        self.high_count = 0

    def observe(self, sample: SyncSample, threshold_percent: int) -> bool:
        """Return whether the ratio was high for the second time; a period with nothing sent is skipped."""
        if sample.sent_bytes == 0:
            return False
        self.previous_ratio_percent = self.ratio_percent
        self.ratio_percent = 100 * sample.dirty_bytes // sample.sent_bytes
        if self.previous_ratio_percent == 0:
            return False
        if threshold_percent < self.ratio_percent >= self.previous_ratio_percent:
            self.high_count += 1
        if self.high_count < HIGH_COUNT_TO_ACT:
            return False
        self.high_count = 0
        return True
