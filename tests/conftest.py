"""Tests that need KVM, QEMU, libvirt, Chromium or another program are skipped where there is none, not in CI."""

import importlib.util
import os
import shutil
import signal
import stat
import subprocess
from functools import cache

import pytest
from hypothesis import HealthCheck, settings

from tests.support.postgresql import binaries

# Under nohup, or in the background of a script, these are ignored, and what the tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# How fast the machine is proves nothing about what is drawn.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")


def _missing(item: pytest.Item) -> str | None:
    if item.get_closest_marker("kvm") and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "needs a usable /dev/kvm"
    if item.get_closest_marker("qemu") and not shutil.which("qemu-system-x86_64"):
        return "needs qemu-system-x86_64"
    if item.get_closest_marker("chromium") and not shutil.which("chromium"):
        return "needs chromium"
    if item.get_closest_marker("libvirt") and not (shutil.which("libvirtd") and importlib.util.find_spec("libvirt")):
        return "needs libvirtd and libvirt-python"
    if item.get_closest_marker("postgresql") and not binaries():
        return "needs postgresql"
    if item.get_closest_marker("systemd") and not shutil.which("systemd-analyze"):
        return "needs systemd-analyze"
    if item.get_closest_marker("prometheus") and not (shutil.which("prometheus") and shutil.which("promtool")):
        return "needs prometheus and promtool"
    if item.get_closest_marker("man") and not (shutil.which("groff") and shutil.which("lexgrog")):
        return "needs groff and man-db"
    if item.get_closest_marker("libvirt") and not _others_may_use_kvm():
        return "needs a /dev/kvm that its group may use, for libvirt's VMs run as an unprivileged user"
    return None


@cache
def _can_start_machines() -> bool:
    places = ("/usr/lib/systemd/systemd", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/devices")
    if os.geteuid() or not all(map(os.path.exists, places)):
        return False
    overlay = """
        mount -t tmpfs tmpfs /mnt && mkdir /mnt/upper /mnt/work
        mount -t overlay overlay /opt -o lowerdir=/opt,upperdir=/mnt/upper,workdir=/mnt/work
    """
    namespaces = ["unshare", "--mount", "--uts", "--ipc", "--pid", "--cgroup", "--fork"]
    return subprocess.run([*namespaces, "bash", "-ec", overlay], capture_output=True).returncode == 0


def _others_may_use_kvm() -> bool:
    both = stat.S_IRGRP | stat.S_IWGRP
    return os.stat("/dev/kvm").st_mode & both == both


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("machine") and not _can_start_machines():  # no CI can install another kernel
        pytest.skip("needs root, systemd, namespaces, overlays and control groups v1, for a machine in namespaces")
    missing = _missing(item)
    if missing and os.environ.get("CI"):
        pytest.fail(f"{missing}, and CI must not skip it")
    if missing:
        pytest.skip(missing)
