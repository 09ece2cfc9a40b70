"""Talks to monitors: QMP, QEMU's and ours, and libvirt. Answers are checked."""
