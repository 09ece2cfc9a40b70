"""Real guests on Linux KVM (kernel: Documentation/virt/kvm/api.rst); all ioctls are made here."""
