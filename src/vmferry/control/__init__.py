"""Drives a migration from outside, over QMP: the drive itself here, and a room for each thing that it needs."""
