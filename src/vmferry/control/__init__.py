"""Drives a migration from outside, over QMP."""
