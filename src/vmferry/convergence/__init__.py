"""Decides when and how hard to slow the guest. Pure: no clock, no I/O, no threads."""
