"""Tests that need KVM, QEMU, libvirt or Chromium are skipped where there is none, but never in CI."""

import importlib.util
import os
import shutil

import pytest


def _missing(item: pytest.Item) -> str | None:
    if item.get_closest_marker("kvm") and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "needs a usable /dev/kvm"
    if item.get_closest_marker("qemu") and not shutil.which("qemu-system-x86_64"):
        return "needs qemu-system-x86_64"
    if item.get_closest_marker("chromium") and not shutil.which("chromium"):
        return "needs chromium"
    if item.get_closest_marker("libvirt") and not (shutil.which("libvirtd") and importlib.util.find_spec("libvirt")):
        return "needs libvirtd and libvirt-python"
    return None


def pytest_runtest_setup(item: pytest.Item) -> None:
    missing = _missing(item)
    if missing and os.environ.get("CI"):
        pytest.fail(f"{missing}, and CI must not skip it")
    if missing:
        pytest.skip(missing)
