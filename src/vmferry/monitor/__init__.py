"""The control interface of a VM: QMP."""
