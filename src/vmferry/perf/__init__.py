"""Measures migrations of real guests."""
