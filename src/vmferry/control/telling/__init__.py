"""What people are told of a migration, while it runs and when it has ended."""
