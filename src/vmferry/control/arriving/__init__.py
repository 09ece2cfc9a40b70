"""The other side of a migration: whether the guest has arrived, and who may let it run."""
