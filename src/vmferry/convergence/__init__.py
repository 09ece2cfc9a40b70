"""Decides how a migration is made to converge. Pure: no clock, no I/O, no threads.

A *body* carries a migration out: our engine, on a real or a modelled guest, or the driver of somebody else's QEMU. It
tells the brain (`brain.Convergence`) what it senses, and does what the brain answers.
"""
