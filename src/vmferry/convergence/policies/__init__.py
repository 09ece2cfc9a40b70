"""The policies that decide, one to a module."""
