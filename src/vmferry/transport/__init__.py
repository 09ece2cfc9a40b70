"""Connections between the two sides of a migration."""
