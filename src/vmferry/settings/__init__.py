"""The tables of QEMU's parameters and capabilities; QMP, HMP, the command line and the docs are made from them."""
