"""The first tables."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None

_JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    """Make them."""
    op.create_table(
        "migration",
        sa.Column("id", sa.Integer, primary_key=True),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("host", "vm_name", "vm_uuid", "address")),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("mode", "rule", "variant")),
        sa.Column("began_ms", sa.BigInteger, nullable=False),
        sa.Column("ended_ms", sa.BigInteger),
        sa.Column("followed", sa.Boolean, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("outcome", _JSON),
        sa.Column("limits", _JSON),
        sa.Column("arrival", sa.Text),
        sa.Column("forecast", _JSON),
        sa.Column("remark", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("migration_began", "migration", ["began_ms"])
    op.create_index("migration_followed", "migration", ["host", "followed"])
    op.create_table(
        "journal",
        sa.Column("migration_id", sa.Integer, sa.ForeignKey("migration.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("part", sa.Integer, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )
