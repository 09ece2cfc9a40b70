"""A modelled QEMU with its monitor, in virtual time: what `control/` drives when there is no real one."""
