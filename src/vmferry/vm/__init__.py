"""A VM process: guest, engine and monitor put together."""
