"""The tables (DESIGN section 4).  `alembic check` holds the migrations to them.

SPIs are one number space: KEY0 records have 2**16..2**29-1, associations the rest in 28 slots of
2**27, one for each hour of expiry.  So the primary key on the SPI alone is unique among all live
SPIs, expiry truncates one partition, and the key stays fit for distribution by SPI.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    Sequence,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, CIDR, INET, UUID

KEY0_SPI_FIRST: Final = 2**16
ASSOCIATION_SPI_FIRST: Final = 2**29
SLOT_SPIS: Final = 2**27
FIRST_SLOT: Final = ASSOCIATION_SPI_FIRST // SLOT_SPIS
SLOTS: Final = 32 - FIRST_SLOT
SLOT_S: Final = 3600


def slot_of(expires_at: float) -> int:
    """Which slot the SPI of an association comes from that ends at `expires_at` (Unix seconds)."""
    return FIRST_SLOT + int(expires_at // SLOT_S) % SLOTS


def partition_of(slot: int) -> str:
    return f"associations_s{slot:02d}"


metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

_now = func.now()

key_encryption_keys = Table(
    "key_encryption_keys",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("check_value", LargeBinary, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=_now),
    Column("state", Text, nullable=False, server_default=text("'active'")),
    Column("changed_at", DateTime(timezone=True), nullable=False, server_default=_now),
    Column("root", Text),  # which root wraps it; NULL: it is what a root file holds
    Column("wrapped", LargeBinary),
    CheckConstraint("state IN ('pending', 'active', 'retiring', 'purged')", name="state"),
    CheckConstraint("(root IS NULL) = (wrapped IS NULL)", name="root"),
    CheckConstraint("state <> 'purged' OR wrapped IS NULL", name="purged"),
    Index(
        "uq_key_encryption_keys_active",
        "state",
        unique=True,
        postgresql_where=text("state = 'active'"),
    ),
)

data_keys = Table(
    "data_keys",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("purpose", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False, server_default=text("0")),
    Column("kek_version", Integer, ForeignKey("key_encryption_keys.version"), nullable=False),
    Column("wrapped", LargeBinary, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=_now),
    Column("replaced_at", DateTime(timezone=True)),  # by one of a later epoch, which now seals
    UniqueConstraint("purpose", "epoch"),
    CheckConstraint(
        "purpose IN ('record', 'association', 'outcome', 'identity', 'client')", name="purpose"
    ),
)

subscribers = Table(
    "subscribers",
    metadata,
    Column("id", BigInteger, Identity(always=False), primary_key=True),
    Column("nai", Text, nullable=False),
    Column("folded_nai", Text, nullable=False, unique=True),
    Column("realm", Text, nullable=False),
    Column("internal_name", UUID, nullable=False, server_default=func.gen_random_uuid()),
    Column("home_agent", INET, nullable=False),
    Column("home_agent_nai", Text, nullable=False),
    Column("home_address_kind", Text, nullable=False, server_default=text("'hidden'")),
    Column("home_address", INET),
    Column("roam", ARRAY(Text)),
    Column("status", Text, nullable=False, server_default=text("'active'")),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=_now),
    Column("expires_at", DateTime(timezone=True)),
    UniqueConstraint("internal_name"),
    CheckConstraint("status IN ('active', 'suspended', 'revoked')", name="status"),
    CheckConstraint("home_address_kind IN ('hidden', 'static', 'dynamic')", name="kind"),
    CheckConstraint("(home_address_kind = 'dynamic') = (home_address IS NULL)", name="address"),
)

key0_records = Table(
    "key0_records",
    metadata,
    Column("id", BigInteger, Identity(always=False), primary_key=True),
    Column("subscriber_id", BigInteger, ForeignKey("subscribers.id"), nullable=False, index=True),
    Column("algorithm", SmallInteger, nullable=False, server_default=text("1")),
    Column("data_key_id", BigInteger, ForeignKey("data_keys.id"), nullable=False),
    Column("sealed_key0", LargeBinary, nullable=False),
    Column("static_spi", Boolean, nullable=False, server_default=text("false")),
    Column("unspent", ARRAY(BigInteger), nullable=False),
    Column("last_spent", BigInteger),
    Column("last_seen_second", BigInteger),
    Column("last_seen_low", BigInteger),
    Column("rounds", SmallInteger, nullable=False, server_default=text("0")),
    Column("accepted_at", ARRAY(BigInteger), nullable=False, server_default=text("'{}'")),
    Column("last_digest", LargeBinary),
    Column("outcome_key_id", BigInteger),
    Column("sealed_outcome", LargeBinary),
    Column("current_registration", LargeBinary),
    Column("previous_registration", LargeBinary),
    Column("previous_until", DateTime(timezone=True)),
    Column("current_fa", Text),
    Column("current_home_address", INET),
    Column("dynamic_address", INET, unique=True),
    Column("registered_until", DateTime(timezone=True)),
    Column("revision", BigInteger, nullable=False, server_default=text("0")),
    Column("version", Integer, nullable=False, server_default=text("1")),
    Column("replaces", BigInteger),  # the record before, until a registration uses this one
    CheckConstraint("cardinality(unspent) <= 4", name="unspent"),
    postgresql_with={"fillfactor": "70"},
)

# No foreign keys from here on: a check of each row would be the larger part of a commit, and the
# commit statement joins every row to its record.  Registrations are evidence and outlive records.
key0_spis = Table(
    "key0_spis",
    metadata,
    Column("spi", BigInteger, primary_key=True, autoincrement=False),
    Column("record_id", BigInteger, nullable=False),
    CheckConstraint(f"spi >= {KEY0_SPI_FIRST} AND spi < {ASSOCIATION_SPI_FIRST}", name="range"),
)

registrations = Table(
    "registrations",
    metadata,
    Column("class_id", LargeBinary, primary_key=True),
    Column("record_id", BigInteger, nullable=False),
    Column("identification_second", BigInteger, nullable=False),
    Column("identification_low", BigInteger, nullable=False),
    Column("fa_nai", Text, nullable=False),
    Column("nas_address", INET, nullable=False),
    Column("operator_realm", Text),
    Column("care_of_address", INET, nullable=False),
    Column("home_address", INET, nullable=False),
    Column("alias", LargeBinary, nullable=False),
    Column("lifetime_s", Integer, nullable=False),
    Column("spis", ARRAY(BigInteger), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=_now),
    # Where its audit entry is; NULL in what a release before 0006 has written.
    Column("audit_writer", BigInteger),
    Column("audit_sequence", BigInteger),
    Column("audit_position", SmallInteger),
    Index(
        "uq_registrations_identification",
        "record_id",
        "identification_second",
        "identification_low",
        unique=True,
    ),
)

associations = Table(
    "associations",
    metadata,
    Column("spi", BigInteger, primary_key=True, autoincrement=False),
    Column("record_id", BigInteger, nullable=False),
    Column("class_id", LargeBinary, nullable=False),
    Column("pair", SmallInteger, nullable=False),
    Column("mode", SmallInteger, nullable=False),
    Column("derivation", SmallInteger, nullable=False),
    Column("suites", LargeBinary, nullable=False),
    Column("key_name", LargeBinary, nullable=False),
    Column("lifetime_s", Integer, nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("data_key_id", BigInteger),
    Column("sealed_keys", LargeBinary),
    CheckConstraint(f"spi >= {ASSOCIATION_SPI_FIRST} AND spi < 4294967296", name="range"),
    CheckConstraint("pair BETWEEN 1 AND 4", name="pair"),
    CheckConstraint("(data_key_id IS NULL) = (sealed_keys IS NULL)", name="sealed"),
    postgresql_partition_by="RANGE (spi)",
)

# A rotation is over when the new record is first used (a trigger: migrations/versions/0005) or
# when its time is.  The newest record of a subscriber is the one with the greatest version.
key0_rotations = Table(
    "key0_rotations",
    metadata,
    Column("record_id", BigInteger, primary_key=True, autoincrement=False),
    Column("replaced_id", BigInteger, nullable=False),
    Column("started_at", DateTime(timezone=True), nullable=False, server_default=_now),
    Column("valid_until", DateTime(timezone=True), nullable=False),
    Column("ended_at", DateTime(timezone=True)),
    Index("ix_key0_rotations_open", "valid_until", postgresql_where=text("ended_at IS NULL")),
)

enrolment_codes = Table(
    "enrolment_codes",
    metadata,
    Column("code_hash", LargeBinary, primary_key=True),
    Column("record_id", BigInteger, nullable=False, index=True),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=_now),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("used_at", DateTime(timezone=True)),
    Column("refused", BigInteger, nullable=False, server_default=text("0")),
)

transport_keys = Table(
    "transport_keys",
    metadata,
    Column("id", BigInteger, Identity(always=False), primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("data_key_id", BigInteger, ForeignKey("data_keys.id"), nullable=False),
    Column("sealed_key", LargeBinary, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=_now),
)

# How far an import has come: written in the transaction of what it says.
subscriber_imports = Table(
    "subscriber_imports",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("source_digest", LargeBinary, nullable=False),
    Column("options", Text, nullable=False),
    Column("next_octet", BigInteger, nullable=False, server_default=text("0")),
    Column("next_line", BigInteger, nullable=False, server_default=text("1")),
    Column("added", BigInteger, nullable=False, server_default=text("0")),
    Column("unchanged", BigInteger, nullable=False, server_default=text("0")),
    Column("updated", BigInteger, nullable=False, server_default=text("0")),
    Column("differing", BigInteger, nullable=False, server_default=text("0")),
    Column("bad", BigInteger, nullable=False, server_default=text("0")),
    Column("enrolments_octets", BigInteger, nullable=False, server_default=text("0")),
    Column("report_octets", BigInteger, nullable=False, server_default=text("0")),
    Column("started_at", DateTime(timezone=True), nullable=False, server_default=_now),
    Column("finished_at", DateTime(timezone=True)),
    Index(
        "uq_subscriber_imports_source_digest",
        "source_digest",
        unique=True,
        postgresql_where=text("finished_at IS NULL"),
    ),
)

radius_clients_revision = Sequence(
    "radius_clients_revision", metadata=metadata, data_type=BigInteger
)

radius_clients = Table(
    "radius_clients",
    metadata,
    Column("id", BigInteger, Identity(always=False), primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("network", CIDR, nullable=False),
    Column("data_key_id", BigInteger, ForeignKey("data_keys.id"), nullable=False),
    Column("sealed_secret", LargeBinary, nullable=False),
    Column("sealed_previous", LargeBinary),  # under the same data key; valid until previous_until
    Column("previous_until", DateTime(timezone=True)),
    Column("realms", ARRAY(Text), nullable=False),
    Column("require_message_authenticator", Boolean, nullable=False, server_default=text("true")),
    Column("requests_per_second", Integer),
    Column("dynamic_authorization", Text),
    Column("enabled", Boolean, nullable=False, server_default=text("true")),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=_now),
    Column("changed_at", DateTime(timezone=True), nullable=False, server_default=_now),
    Column(
        "revision",
        BigInteger,
        nullable=False,
        server_default=radius_clients_revision.next_value(),
    ),
    CheckConstraint("requests_per_second > 0", name="rate"),
    CheckConstraint("(sealed_previous IS NULL) = (previous_until IS NULL)", name="previous"),
    Index("uq_radius_clients_network", "network", unique=True, postgresql_where=text("enabled")),
)

# Keyed by what a NAS says of itself and by who brings it: no peer can touch another's sessions.
accounting_sessions = Table(
    "accounting_sessions",
    metadata,
    Column("peer", Text, primary_key=True),
    Column("nas", Text, primary_key=True),
    Column("session_id", Text, primary_key=True),
    Column("status", SmallInteger, nullable=False),  # kdc.store.accounting: only ever grows
    Column("class_id", LargeBinary),
    Column("spis", ARRAY(BigInteger), nullable=False),
    Column("user_name", Text),
    Column("tie_rank", LargeBinary, nullable=False),  # of the request that the three are from
    Column("operator_realm", Text),
    Column("fa_nai", Text),
    Column("nas_identifier", Text),
    Column("nas_address", INET),
    Column("started_at", DateTime(timezone=True)),
    Column("event_time", DateTime(timezone=True), nullable=False),
    Column("stopped_at", DateTime(timezone=True)),
    Column("session_time_s", BigInteger),
    Column("input_octets", Numeric(20, 0)),
    Column("output_octets", Numeric(20, 0)),
    Column("input_packets", Numeric(20, 0)),
    Column("output_packets", Numeric(20, 0)),
    Column("terminate_cause", BigInteger),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=_now),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=_now),
    CheckConstraint("status BETWEEN 1 AND 4", name="status"),
    Index("ix_accounting_sessions_class_id", "class_id"),
    Index("ix_accounting_sessions_created_at", "created_at"),
    Index(
        "ix_accounting_sessions_open",
        "peer",
        "nas",
        "session_id",
        postgresql_where=text("status < 3"),
    ),
    postgresql_with={"fillfactor": "80"},
)

disconnects = Table(
    "disconnects",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("kind", Text, nullable=False),
    Column("record_id", BigInteger, nullable=False),
    Column("class_id", LargeBinary, nullable=False),
    Column("spis", ARRAY(BigInteger), nullable=False),
    Column("realm", Text, nullable=False),  # where it goes
    Column("operator_realm", Text),
    Column("fa_nai", Text, nullable=False),
    Column("nas_identifier", Text),
    Column("nas_address", INET, nullable=False),
    Column("reason", Text),  # an operator's words, which stay here
    Column("requested_at", DateTime(timezone=True), nullable=False, server_default=_now),
    Column("not_after", DateTime(timezone=True), nullable=False),
    Column("state", Text, nullable=False, server_default=text("'pending'")),
    Column("error_cause", BigInteger),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("claimed_by", Text),
    Column("claimed_until", DateTime(timezone=True)),
    Column("finished_at", DateTime(timezone=True)),
    CheckConstraint("kind IN ('disconnect', 'coa')", name="kind"),
    CheckConstraint("state IN ('pending', 'sent', 'acked', 'naked', 'failed')", name="state"),
    Index("ix_disconnects_record_id", "record_id"),
    Index("ix_disconnects_open", "id", postgresql_where=text("state IN ('pending', 'sent')")),
)

# The audit (kdc.audit): a chain for each writer, an entry for each transaction, and what is in it.
audit_chains = Table(
    "audit_chains",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("kind", Text, nullable=False),
    Column("node", Text, nullable=False),
    Column("started_at", DateTime(timezone=True), nullable=False, server_default=_now),
    CheckConstraint("kind IN ('issuing', 'acts')", name="kind"),
    Index("uq_audit_chains_acts", "kind", unique=True, postgresql_where=text("kind = 'acts'")),
)

audit_entries = Table(
    "audit_entries",
    metadata,
    Column("writer", BigInteger, primary_key=True, autoincrement=False),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("at_us", BigInteger, nullable=False),
    Column("size", Integer, nullable=False),
    Column("root", LargeBinary, nullable=False),
    Column("absent", LargeBinary, nullable=False),
    Column("previous", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
)

audit_events = Table(
    "audit_events",
    metadata,
    Column("writer", BigInteger, primary_key=True, autoincrement=False),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("position", SmallInteger, primary_key=True, autoincrement=False),
    Column("record_id", BigInteger, nullable=False),
    Column("kind", SmallInteger, nullable=False),
    Column("code", Integer, nullable=False),
    Column("identification_second", BigInteger),
    Column("identification_low", BigInteger),
    Column("digest", LargeBinary),
)

audit_acts = Table(
    "audit_acts",
    metadata,
    Column("writer", BigInteger, primary_key=True, autoincrement=False),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("position", SmallInteger, primary_key=True, autoincrement=False),
    Column("actor", Text, nullable=False),
    Column("act", Text, nullable=False),
    Column("object", Text, nullable=False),
    Column("details", Text, nullable=False),  # octets are hashed: never jsonb
)

audit_checkpoints = Table(
    "audit_checkpoints",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("octets", LargeBinary, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("key_id", LargeBinary, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=_now),
)

# The view `live_associations` (migrations/versions/0001) says what is live: renewal and
# deregistration write no association, it follows from the record.  The trigger
# `tr_subscribers_revoked` (0004) keeps revoked who is revoked.
