"""What the kernel of this host tells of a VM's threads and connections, and the groups that it gives to threads."""
