"""Shows what a record tells: as text, page, picture and JSON."""
