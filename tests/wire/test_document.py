"""The page about the wire format says what the code does."""

import re
from pathlib import Path

from tests.wire.test_codec import decode, encode
from vmferry.memory.layout import GuestLayout, RamBlock
from vmferry.memory.ranges import PageRuns
from vmferry.wire.format import MAX_BODY_BYTES
from vmferry.wire.messages import Commit, Finish, Hello, Message, Pages, Proof

DOCUMENT = (Path(__file__).parents[2] / "docs" / "wire-format.md").read_text()


def test_the_example_decodes_to_what_it_says() -> None:
    example = DOCUMENT.split("## Example")[1].split("```")[1]
    messages: list[Message] = [
        Hello(GuestLayout((RamBlock("pc.ram", 65536),), 2), bytes(range(32))),
        Proof(b"p" * 32),
        Pages(PageRuns.of([(16, 2)]), PageRuns.of([(18, 100)])),
        Finish(),
        Commit(run=True),
    ]
    assert encode(messages) == bytes.fromhex(example)
    assert decode(bytes.fromhex(example), 1 << 20, page_count=65536) == messages


def test_the_table_of_frames_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| (\d+) \| ([A-Z_]+) \| \w+ \| ([\d,]+) \|", DOCUMENT, re.MULTILINE)
    table = {(int(number), name): int(size.replace(",", "")) for number, name, size in rows}
    assert table == {(kind.value, kind.name): size for kind, size in MAX_BODY_BYTES.items()}
