"""The tables in which migrations are remembered. `migrations/` makes them, and brings older ones up to date."""

from sqlalchemy import JSON, BigInteger, Boolean, Column, ForeignKey, Index, Integer, LargeBinary, MetaData, Table, Text
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData()
_JSON = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")

migration = Table(
    "migration",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("host", Text, nullable=False, comment="on which the source was"),
    Column("vm_name", Text, nullable=False),
    Column("vm_uuid", Text, nullable=False),
    Column("address", Text, nullable=False, comment="of the source's monitor"),
    Column("mode", Text, nullable=False, comment="what the agent did: watch, shadow or steer"),
    Column("rule", Text, nullable=False, comment="why"),
    Column("variant", Text, nullable=False, comment="what decided, or would have"),
    Column("began_ms", BigInteger, nullable=False, comment="milliseconds since the Unix epoch"),
    Column("ended_ms", BigInteger, comment="null if nobody saw the end"),
    Column("followed", Boolean, nullable=False, comment="whether an agent follows it now"),
    Column("status", Text, nullable=False, comment="the last that was seen"),
    Column("outcome", _JSON, comment="the figures, as in a report"),
    Column("limits", _JSON, comment="verdicts on the limits that were set"),
    Column("arrival", Text, comment="whether the guest has arrived: verified or unverified"),
    Column("forecast", _JSON, comment="the first that there was, and when"),
    Column("remark", Text, nullable=False, comment="what went wrong with following it"),
    Index("migration_began", "began_ms"),
    Index("migration_followed", "host", "followed"),
    sqlite_autoincrement=True,
)

journal = Table(
    "journal",
    metadata,
    Column("migration_id", Integer, ForeignKey("migration.id", ondelete="CASCADE"), primary_key=True),
    Column("part", Integer, primary_key=True, comment="one for each agent that followed it, after one was killed"),
    Column("number", Integer, primary_key=True, comment="of the piece in its part"),
    Column("data", LargeBinary, nullable=False, comment="the pieces of a part are one zstd frame of JSON lines"),
)
