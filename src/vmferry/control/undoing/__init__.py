"""What was set on a VM or its host is put back, by the driver or by a process that outlives it."""
