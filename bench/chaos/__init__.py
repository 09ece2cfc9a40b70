"""The chaos suite: migrations under faults, and what must hold whatever breaks; see docs/reliability.md."""
