"""The words of a bitmap: counting, finding and making bits.

Bit i of a bitmap is bit i % 64 of the little-endian uint64 word i // 64.
"""

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
ONES = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
BLOCK_WORDS = 1 << 15
"""Words looked at in one go: 2 million pages, 256 KiB, which stays in the processor's cache."""

_FULL = int(ONES)
_ONE = np.uint64(1)
_TOP = np.uint64(63)
_DOUBLINGS = [np.uint64(1 << power) for power in range(6)]
_CHANCE_DIGITS = 12


def count_bits(words: Words) -> int:
    """Return how many bits are set."""
    return int(np.bitwise_count(words).sum(dtype=np.int64))


def take_out(words: Words, others: Words) -> None:
    """Clear those bits that are set in as many other words."""
    for at in range(0, len(words), BLOCK_WORDS):
        words[at : at + BLOCK_WORDS] &= ~others[at : at + BLOCK_WORDS]


def flags_of(words: Words) -> NDArray[np.bool_]:
    """Return the bits, one flag for each."""
    return np.unpackbits(words.view(np.uint8), bitorder="little").view(np.bool_)


def words_of(flags: NDArray[np.bool_]) -> Words:
    """Return whole words with these bits."""
    return np.packbits(flags, bitorder="little").view(np.uint64)


def positions_of(words: Words) -> NDArray[np.int64]:
    """Return the positions of the set bits, ascending; words without any are passed over if they prevail."""
    used = np.flatnonzero(words)
    if 2 * len(used) > len(words):
        return np.flatnonzero(flags_of(words))
    positions = np.flatnonzero(flags_of(words[used]))
    bits: NDArray[np.int64] = used[positions >> 6] * 64 + (positions & 63)
    return bits


def first_position(words: Words) -> int:
    """Return the position of the first set bit; there must be one."""
    used = 0 if words[0] else int(np.argmax(words != 0))
    word = int(words[used])
    return used * 64 + (word & -word).bit_length() - 1


def last_position(words: Words) -> int:
    """Return the position of the last set bit; there must be one."""
    used = len(words) - 1 - (0 if words[-1] else int(np.argmax(words[::-1] != 0)))
    return used * 64 + int(words[used]).bit_length() - 1


def drawn_words(count: int, chance: float, random: np.random.Generator) -> Words:
    """Return words each of whose bits is set with this chance, to 1 / 2^12, independently of the others.

    By the binary digits of the chance, from the last one on: a 1 sets what is drawn, a 0 keeps only that.
    """
    digits = round(chance * (1 << _CHANCE_DIGITS))
    if digits == 1 << _CHANCE_DIGITS:
        return np.full(count, ONES)
    words = np.zeros(count, np.uint64)
    for place, drawn in enumerate(random.integers(1 << 64, size=(_CHANCE_DIGITS, count), dtype=np.uint64)):
        (np.bitwise_or if digits >> place & 1 else np.bitwise_and)(words, drawn, out=words)
    return words


def first_bits(words: Words, count: int) -> tuple[Words, int]:
    """Return the words up to that many set bits, or all of them if they have fewer, and how many these are.

    May write the last of the words.
    """
    sums = np.bitwise_count(words).cumsum(dtype=np.int64)
    found = int(sums[-1])
    if found <= count:
        return words, found
    last = int(sums.searchsorted(count))
    words[last] = _without_last_bits(int(words[last]), int(sums[last]) - count)
    return words[: last + 1], count


def _without_last_bits(word: int, count: int) -> int:
    if word == _FULL:
        return word >> count
    for _ in range(count):
        word ^= 1 << (word.bit_length() - 1)
    return word


def run_count_of(words: Words) -> int:
    """Return how many runs the set bits form."""
    starts = words & ~_predecessors(words, np.uint64(0))
    return count_bits(starts)


def runs_of(words: Words) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the runs that the set bits form, as their first positions and their lengths."""
    # Room for the worst case, runs of one page; what is not written takes no memory.
    bounds = np.empty(2 * count_bits(words) + 1, np.int64)
    used = 0
    for at in range(0, len(words), BLOCK_WORDS):
        block = words[at : at + BLOCK_WORDS]
        # The bits that differ from their predecessor: where runs start, and one past where they end.
        positions = positions_of(block ^ _predecessors(block, words[at - 1] if at else np.uint64(0)))
        np.add(positions, at * 64, out=bounds[used : used + len(positions)])
        used += len(positions)
    if used % 2:
        bounds[used] = len(words) * 64
        used += 1
    return bounds[0:used:2], bounds[1:used:2] - bounds[0:used:2]


def words_of_runs(first: NDArray[np.int64], count: NDArray[np.int64], word_count: int) -> Words:
    """Return so many words with the bits of ascending runs set."""
    words = np.zeros(word_count + 1, np.uint64)
    for edges in (first, first + count):
        np.bitwise_xor.at(words, edges >> 6, _ONE << (edges & 63).astype(np.uint64))
    # Each bit is to differ from its predecessor where there is an edge: it is the parity of all edges up to it.
    for shift in _DOUBLINGS:
        words ^= words << shift
    odd_before = np.bitwise_xor.accumulate(words >> _TOP)[:-1]
    words[1:] ^= odd_before * ONES
    return words[:-1]


def _predecessors(words: Words, word_before: np.uint64) -> Words:
    """Return of each bit the one before it."""
    predecessors = words << _ONE
    predecessors[1:] |= words[:-1] >> _TOP
    predecessors[:1] |= word_before >> _TOP
    return predecessors
