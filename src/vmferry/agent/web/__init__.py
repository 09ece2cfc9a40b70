"""What an agent shows and takes over HTTP: a page, JSON, events, and actions."""
