"""Runs schema migrations over the connection that `database.py` gives."""

from alembic import context

from vmferry.agent.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
