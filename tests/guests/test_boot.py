"""ELF images are parsed as if a stranger had made them."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.errors import GuestError, UsageError
from vmferry.guests.kvm.boot import KernelImage, write_start_info
from vmferry.guests.payload import STRESS_ELF

IMAGE = STRESS_ELF.read_bytes()


def load(image: bytes) -> None:
    KernelImage.parse(image).load(memoryview(bytearray(4 << 20)))


def test_the_payload_loads() -> None:
    ram = memoryview(bytearray(4 << 20))
    image = KernelImage.parse(IMAGE)
    image.load(ram)
    assert 0x10_0000 <= image.entry < 0x10_1000
    assert bytes(ram[image.entry : image.entry + 2]) == b"\xfa\xfc"  # cli, cld


@pytest.mark.parametrize(
    ("image", "complaint"),
    [
        (b"", "not a 64-bit little-endian ELF"),
        (b"#!/bin/sh\n" * 100, "not a 64-bit little-endian ELF"),
        (IMAGE[:70], "cut off within its program headers"),
        (IMAGE[:5000], "cut off within a segment"),
        (IMAGE[:18] + b"\xb7\0" + IMAGE[20:], "for ELF machine 183"),
        (IMAGE[:56] + b"\xff\xff" + IMAGE[58:], "65535 program headers"),
        (IMAGE.replace(b"Xen\0", b"Zen\0"), "no PVH entry note"),
    ],
)
def test_what_is_no_kernel_is_named(image: bytes, complaint: str) -> None:
    with pytest.raises(GuestError, match=complaint):
        load(image)


def test_a_kernel_that_does_not_fit_is_refused() -> None:
    with pytest.raises(GuestError, match="give the guest more memory"):
        KernelImage.parse(IMAGE).load(memoryview(bytearray(1 << 20)))


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)), max_size=8))
def test_headers_with_any_bytes_changed_never_crash_the_parser(changes: list[tuple[int, int]]) -> None:
    image = bytearray(IMAGE)
    for at, value in changes:
        image[at] = value
    try:
        load(bytes(image))
    except GuestError as error:
        assert "\n" not in str(error)


@given(st.binary(max_size=300))
def test_notes_with_any_content_never_crash_the_parser(notes: bytes) -> None:
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 4, 4, 120, 0, 0, len(notes), len(notes), 4)
    try:
        load(header + segment + notes)
    except GuestError as error:
        assert "\n" not in str(error)


def test_a_command_line_that_is_too_long() -> None:
    ram = memoryview(bytearray(1 << 20))
    write_start_info(ram, [(0, 1 << 20)], "a" * 2047)
    with pytest.raises(UsageError, match="2048 bytes, 2047 are allowed"):
        write_start_info(ram, [(0, 1 << 20)], "a" * 2048)
