"""One process per host that notices every migration, steers it within its VM's rules, and remembers it."""
