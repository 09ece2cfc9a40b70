"""One description of a migration to try, in integers and SI units, for all bodies that can run it."""
