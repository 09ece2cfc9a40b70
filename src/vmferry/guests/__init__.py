"""Guests that can be migrated."""
