"""Addresses lead to monitors."""

import sys

import pytest

from vmferry.client.monitor import open_monitor
from vmferry.errors import UsageError


def test_without_libvirt_python_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vmferry.client.libvirt_monitor", None)
    with pytest.raises(UsageError, match=r"pip install 'vmferry\[libvirt\]'"):
        open_monitor("libvirt:qemu:///system#busy")
