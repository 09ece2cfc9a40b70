"""Whether compressing pays is found out by measuring, in no time."""

import random

from vmferry.migration.compression import CompressionTrial

MIB = 1 << 20
NS_PER_S = 10**9


class Link:
    """Carries 1 MiB batches: it takes `packing_s` to pack one, and a second for each `mib_per_s` on the wire."""

    def __init__(self, mib_per_s: float, packing_s: float, ratio: float) -> None:
        self.mib_per_s, self.packing_s, self.ratio = mib_per_s, packing_s, ratio
        self.now_ns = 5 * NS_PER_S
        self.trial = CompressionTrial(self.now_ns)
        self.compressed = self.batches = 0

    def send(self, seconds: float) -> None:
        end_ns = self.now_ns + int(seconds * NS_PER_S)
        while self.now_ns < end_ns:
            on = self.trial.on
            wire_bytes = int(MIB / self.ratio) if on else MIB
            self.now_ns += int((self.packing_s * on + wire_bytes / MIB / self.mib_per_s) * NS_PER_S)
            self.batches += 1
            self.compressed += on
            self.trial.moved(self.now_ns, compressed=on, plain_bytes=MIB, wire_bytes=wire_bytes)

    def compresses(self) -> bool:
        return self.trial.on

    def share(self, seconds: float) -> float:
        """Return how many of the batches of that time are compressed."""
        self.compressed = self.batches = 0
        self.send(seconds)
        return self.compressed / self.batches


def test_on_a_slow_link_what_shrinks_is_compressed() -> None:
    link = Link(60, 0.002, 3)
    link.send(1)
    assert link.share(60) > 0.95
    compressed, plain = link.trial.bytes_per_s[True], link.trial.bytes_per_s[False]
    assert compressed
    assert plain
    assert 2 < compressed / plain < 3


def test_on_a_fast_link_nothing_is_compressed() -> None:
    link = Link(3000, 0.002, 3)
    link.send(1)
    assert link.share(60) < 0.02


def test_what_hardly_shrinks_is_found_out_at_once() -> None:
    link = Link(60, 0.002, 1.02)
    link.send(0.2)
    assert link.trial.choices == 1
    assert not link.compresses()
    assert link.share(60) < 0.02


def test_when_the_content_changes_the_choice_does() -> None:
    link = Link(60, 0.002, 1)
    link.send(20)
    assert not link.compresses()
    link.ratio = 3
    link.send(30)
    assert link.compresses()
    link.ratio = 1
    link.send(10)
    assert not link.compresses()


def test_when_the_link_changes_the_choice_does() -> None:
    link = Link(60, 0.002, 3)
    link.send(10)
    assert link.compresses()
    link.mib_per_s = 3000
    link.send(30)
    assert not link.compresses()


def test_what_is_reported_late_does_not_count_for_the_other_way() -> None:
    trial, now_ns, chance = CompressionTrial(0), 0, random.Random(1)
    for _ in range(20_000):
        now_ns += 10_000_000
        late = chance.random() < 0.3
        compressed = trial.on is not late
        trial.moved(now_ns, compressed=compressed, plain_bytes=MIB, wire_bytes=MIB // 3 if compressed else MIB)
    assert trial.choices
