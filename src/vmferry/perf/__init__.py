"""Experiments: runs, comparisons and their tables."""
