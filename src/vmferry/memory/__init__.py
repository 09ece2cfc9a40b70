"""Sets of guest pages, pure numpy."""
