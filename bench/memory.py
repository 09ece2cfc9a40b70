"""Benchmarks of bitmaps, zero pages and the codec: `python -m bench.memory --help`."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np

from bench.samples import Samples, recording
from vmferry.memory.bitmap import Bitmap
from vmferry.memory.delta import apply_delta
from vmferry.memory.pages import zero_pages
from vmferry.memory.ranges import EMPTY, PageRuns
from vmferry.migration.delta import Deltas
from vmferry.testing.memory_guest import MemoryGuest
from vmferry.units import PAGE_SIZE_BYTES
from vmferry.wire.decoder import Decoder
from vmferry.wire.encoder import Encoder
from vmferry.wire.messages import Pages

PAGES_PER_GIB = 1 << 18
BATCH_PAGES = 1024


def timed_ms(call: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1000


def random_bitmap(page_count: int, density: float, seed: int) -> Bitmap:
    bitmap = Bitmap(page_count)
    bits = np.random.default_rng(seed).random(page_count) < density
    packed = np.packbits(bits, bitorder="little")
    bitmap.words.view(np.uint8)[: len(packed)] = packed
    return bitmap


def bitmaps(samples: Samples, gib: int, density: float) -> None:
    """Merge, count, and turn into runs."""
    page_count = gib * PAGES_PER_GIB
    left, right = random_bitmap(page_count, density, 1), random_bitmap(page_count, density, 2)
    operations: dict[str, Callable[[], object]] = {
        "merge": lambda: left.__ior__(right),
        "count": right.count,
        "count_and_not": lambda: right.count_and_not(left),
        "runs": lambda: right.runs().first,
    }
    for name, operation in operations.items():
        samples.add(f"bitmap_{name}", timed_ms(operation), "ms", gib=gib, density=density)


def taking(samples: Samples, gib: int, density: float) -> None:
    """Take batch after batch from a bitmap, as the sender does."""
    bitmap = random_bitmap(gib * PAGES_PER_GIB, density, 3)
    batches, cursor, start = 0, 0, time.perf_counter()
    while batches < 500 and len(pages := bitmap.take(cursor, BATCH_PAGES)):
        cursor = pages.last_page + 1
        batches += 1
    elapsed_us = (time.perf_counter() - start) * 1e6
    samples.add("bitmap_take", elapsed_us / max(1, batches), "us", gib=gib, density=density, batch=BATCH_PAGES)


def zero_scan(samples: Samples, mib: int, content: str) -> None:
    """Look for zero pages, in one run and page by page."""
    ram = np.zeros((mib * 256, 512), np.uint64)
    ram[:] = 0  # takes real memory
    if content == "last word":
        ram[:, -1] = 1
    everything = PageRuns.of([(0, len(ram))])
    every_other = PageRuns.from_indices(np.arange(0, len(ram), 2))
    for layout, pages in (("one run", everything), ("every other page", every_other)):
        elapsed_ms = timed_ms(lambda pages=pages: zero_pages(ram, pages))  # type: ignore[misc]
        rate = pages.page_count * 4096 / elapsed_ms / 1e6
        samples.add("zero_pages", rate, "GB/s", content=content, layout=layout)


def codec(samples: Samples, run_count: int) -> None:
    """Encode and decode one batch of pages."""
    length = BATCH_PAGES // run_count
    message = Pages(PageRuns.of([(2 * length * i, length) for i in range(run_count)]), EMPTY)
    encoder, decoder = Encoder(), Decoder(1 << 20)
    frame = encoder.encode(message)
    samples.add("encode", timed_ms(lambda: Encoder().encode(message)) * 1000, "us", runs=run_count)
    header = memoryview(frame)[: decoder.wanted_bytes]
    body = memoryview(frame)[len(header) :]

    def decode() -> None:
        decoder.feed(header)
        decoder.feed(body)

    samples.add("decode", timed_ms(decode) * 1000, "us", runs=run_count)


def deltas(samples: Samples, changed_words: int) -> None:
    """Make what is sent of 64 MiB, of which so many words of each page have changed, and apply it."""
    guest = MemoryGuest(PAGES_PER_GIB // 16)
    size_bytes = guest.layout.size_bytes
    maker = Deltas(guest, lambda: size_bytes)
    for iteration in (2, 3, 4):  # in the first of them the cache is filled
        guest.ram[:, :changed_words] += np.uint64(1)
        start = time.thread_time()
        messages = list(_messages(maker, guest.layout.page_count, iteration))
    samples.add("delta_make", size_bytes / (time.thread_time() - start) / 1e9, "GB/s", changed_words=changed_words)
    if not messages[0].is_delta:
        return
    start = time.thread_time()
    for message in messages:
        views = [guest.view(first, count) for first, count in message.data]
        apply_delta(message.content or b"", views, PAGE_SIZE_BYTES)
    samples.add("delta_apply", size_bytes / (time.thread_time() - start) / 1e9, "GB/s", changed_words=changed_words)


def _messages(maker: Deltas, page_count: int, iteration: int) -> Iterator[Pages]:
    for first in range(0, page_count, maker.max_batch_pages):
        yield from maker.messages(PageRuns.of([(first, maker.max_batch_pages)]), EMPTY, iteration, final=False)


@click.command()
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Append the raw samples to this file.")
@click.option("--runs", default=5, show_default=True, help="How often to measure everything.")
@click.option("--gib", default=100, show_default=True, help="Size of the guest whose bitmaps are measured.")
def main(output: Path | None, runs: int, gib: int) -> None:
    """Measure what the page path is made of."""
    with recording(output) as samples:
        for _ in range(runs):
            for density in (0.001, 0.01, 0.1, 0.5):
                bitmaps(samples, gib, density)
                taking(samples, gib, density)
            for content in ("zero", "last word"):
                zero_scan(samples, 64, content)
            for run_count in (1, BATCH_PAGES):
                codec(samples, run_count)
            for changed_words in (1, 64, 512):
                deltas(samples, changed_words)


if __name__ == "__main__":
    main()
