"""The two statements of the hot path, and the rows that go in and come out of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from ipaddress import IPv4Address
from typing import Any, Final

from kdc.audit.items import EventItem, RegistrationItem, item_of
from kdc.crypto.kek import RowSeal, RowSealBroken
from kdc.crypto.merkle import leaf_hash, merkle_root
from kdc.model import HomeAddressKind, Identification, Nai, Secret
from kdc.records import UNSPENT_SPIS, NewRegistration, Record, RecordChange, StoredRecord
from kdc.store.chains import Link
from kdc.store.keyring import ASSOCIATION, RECORD, Entropy, Keyring

Row = dict[str, Any]
KEY0_COLUMN: Final = "key0_records.sealed_key0"
OUTCOME_COLUMN: Final = "key0_records.sealed_outcome"
KEYS_COLUMN: Final = "associations.sealed_keys"

# Addresses come as numbers, which are read ten times as fast as text.
# One row with a NULL spi where nothing is found: the clock is always wanted.
LOAD: Final = """
SELECT extract(epoch FROM clock_timestamp())::float8, f.*
FROM (VALUES (1)) AS one(x)
LEFT JOIN LATERAL (
  SELECT k.spi, r.id, s.nai, s.status = 'active',
         extract(epoch FROM s.expires_at)::float8, r.static_spi, s.home_agent - '0.0.0.0'::inet,
         s.home_address_kind, s.home_address - '0.0.0.0'::inet, s.roam, r.unspent, r.last_spent,
         r.last_seen_second, r.last_seen_low, r.rounds, r.accepted_at, r.last_digest,
         r.current_fa, r.current_home_address - '0.0.0.0'::inet,
         extract(epoch FROM r.registered_until)::float8, r.revision,
         r.data_key_id, r.sealed_key0, r.outcome_key_id, r.sealed_outcome
  FROM key0_spis AS k
  JOIN key0_records AS r ON r.id = k.record_id
  JOIN subscribers AS s ON s.id = r.subscriber_id
  WHERE k.spi = ANY(%b::bigint[])
) AS f ON true
"""

KEY_IDS: Final = (-4, -2)  # where a row of LOAD names its data key and its outcome key

# Everything hangs on `changed`: a record that another node has changed takes nothing with it.  So
# does the audit: what is changed has its item, and its entry is made by the same statement.
# Rows come in as JSON: psycopg needs three times as long to write the same as 41 arrays.
COMMIT: Final = """
WITH audit AS (
  SELECT %s::bigint AS writer, %s::bigint AS sequence, %s::bytea AS previous, %s::bytea AS root,
    %s::bytea AS leaves, %s::integer AS size
), change AS (
  SELECT * FROM ROWS FROM (json_to_recordset(%s::json) AS (
    record_id bigint, revision bigint, unspent bigint[], last_spent bigint, second bigint,
    low bigint, rounds smallint, accepted_at bigint[], digest bytea, outcome_key_id bigint,
    sealed_outcome bytea, ended boolean, kind smallint, code integer)) WITH ORDINALITY AS t
), registration AS (
  SELECT * FROM json_to_recordset(%s::json) AS t(
    record_id bigint, class_id bytea, second bigint, low bigint, fa_nai text, nas_address inet,
    operator_realm text, care_of inet, home_address inet, alias bytea, lifetime_s integer,
    spis bigint[], dynamic_address inet)
), changed AS (
  UPDATE key0_records AS r SET
    unspent = c.unspent, last_spent = c.last_spent,
    last_seen_second = c.second, last_seen_low = c.low,
    rounds = c.rounds, accepted_at = c.accepted_at,
    last_digest = coalesce(c.digest, r.last_digest),
    outcome_key_id = CASE WHEN c.digest IS NULL THEN r.outcome_key_id ELSE c.outcome_key_id END,
    sealed_outcome = CASE WHEN c.digest IS NULL THEN r.sealed_outcome ELSE c.sealed_outcome END,
    previous_registration = CASE WHEN c.ended THEN NULL
      WHEN g.class_id IS NULL THEN r.previous_registration ELSE r.current_registration END,
    current_registration = CASE WHEN c.ended THEN NULL
      ELSE coalesce(g.class_id, r.current_registration) END,
    previous_until = CASE WHEN g.class_id IS NULL THEN r.previous_until
      ELSE clock_timestamp() + %s::float8 * interval '1 second' END,
    current_fa = CASE WHEN c.ended THEN NULL ELSE coalesce(g.fa_nai, r.current_fa) END,
    current_home_address = CASE WHEN c.ended THEN NULL
      ELSE coalesce(g.home_address, r.current_home_address) END,
    dynamic_address = CASE WHEN c.ended THEN NULL
      ELSE coalesce(g.dynamic_address, r.dynamic_address) END,
    registered_until = CASE WHEN c.ended THEN NULL WHEN g.class_id IS NULL THEN r.registered_until
      ELSE clock_timestamp() + g.lifetime_s * interval '1 second' END,
    revision = r.revision + 1
  FROM change AS c LEFT JOIN registration AS g ON g.record_id = c.record_id
  WHERE r.id = c.record_id AND r.revision = c.revision
  RETURNING r.id, c.ordinality - 1 AS position, c.kind, c.code, c.second, c.low, c.digest
), removed AS (
  DELETE FROM key0_spis
  USING changed, json_to_recordset(%s::json) AS t(record_id bigint, spi bigint)
  WHERE key0_spis.spi = t.spi AND t.record_id = changed.id AND key0_spis.record_id = changed.id
), added AS (
  INSERT INTO key0_spis (spi, record_id)
  SELECT t.spi, t.record_id
  FROM json_to_recordset(%s::json) AS t(record_id bigint, spi bigint)
  JOIN changed ON changed.id = t.record_id
), registered AS (
  INSERT INTO registrations (class_id, record_id, identification_second, identification_low,
    fa_nai, nas_address, operator_realm, care_of_address, home_address, alias, lifetime_s, spis,
    audit_writer, audit_sequence, audit_position)
  SELECT g.class_id, g.record_id, g.second, g.low, g.fa_nai, g.nas_address,
    g.operator_realm, g.care_of, g.home_address, g.alias, g.lifetime_s, g.spis,
    audit.writer, audit.sequence, changed.position
  FROM registration AS g JOIN changed ON changed.id = g.record_id CROSS JOIN audit
), associated AS (
  INSERT INTO associations (spi, record_id, class_id, pair, mode, derivation, suites, key_name,
    lifetime_s, expires_at, data_key_id, sealed_keys)
  SELECT t.spi, t.record_id, t.class_id, t.pair, t.mode, t.derivation, t.suites, t.key_name,
    t.lifetime_s, clock_timestamp() + t.lifetime_s * interval '1 second', t.data_key_id,
    t.sealed_keys
  FROM json_to_recordset(%s::json) AS t(record_id bigint, class_id bytea, spi bigint,
    pair smallint, mode smallint, derivation smallint, suites bytea, key_name bytea,
    lifetime_s integer, data_key_id bigint, sealed_keys bytea)
  JOIN changed ON changed.id = t.record_id
), event AS (
  INSERT INTO audit_events (writer, sequence, position, record_id, kind, code,
    identification_second, identification_low, digest)
  SELECT audit.writer, audit.sequence, c.position, c.id, c.kind, c.code, c.second, c.low, c.digest
  FROM changed AS c CROSS JOIN audit WHERE c.kind IS NOT NULL
), entry AS (
  INSERT INTO audit_entries (writer, sequence, at_us, size, root, absent, previous, hash)
  SELECT writer, sequence, at_us, size, root, absent, previous,
    sha256('roamkey audit entry v1'::bytea || previous || int8send(writer) || int8send(sequence)
      || int8send(at_us) || int4send(size) || root || absent)
  FROM (
    SELECT audit.*, (extract(epoch FROM now()) * 1000000)::bigint AS at_us,
      CASE WHEN (SELECT count(*) FROM changed) = size THEN ''::bytea ELSE (
        SELECT string_agg(int2send((ordinality - 1)::smallint)
          || substring(leaves FROM (32 * (ordinality - 1) + 1)::integer FOR 32), ''::bytea
          ORDER BY ordinality)
        FROM change WHERE NOT EXISTS (SELECT 1 FROM changed WHERE changed.id = change.record_id)
      ) END AS absent
    FROM audit
  ) AS judged
  WHERE EXISTS (SELECT 1 FROM changed)
  RETURNING hash
)
SELECT id, (SELECT hash FROM entry) FROM changed
"""


def read_record(row: Sequence[Any], keyring: Keyring) -> StoredRecord:
    """One row of LOAD behind the clock and the SPI; raises `RowSealBroken`."""
    (
        record_id, nai, active, expires_at, static_spi, home_agent, kind, home_address, roam,
        unspent, last_spent, second, low, rounds, accepted_at, digest, current_fa,
        current_address, registered_until, revision, key_id, sealed_key0, outcome_key_id,
        sealed_outcome,
    ) = row  # fmt: skip
    record = Record(
        record_id=record_id,
        nai=Nai.parse(nai),
        active=active,
        expires_at=expires_at,
        static_spi=static_spi,
        home_agent=IPv4Address(home_agent),
        home_address_kind=HomeAddressKind(kind),
        home_address=_address(home_address),
        roam=frozenset(roam) if roam is not None else None,
        unspent=tuple(unspent),
        last_spent=last_spent,
        last_seen=Identification(second, low) if second is not None else None,
        rounds=rounds,
        accepted_at=tuple(accepted_at),
        last_digest=digest,
        current_fa=Nai.parse(current_fa) if current_fa else None,
        current_home_address=_address(current_address),
        registered_until=registered_until,
        revision=revision,
    )
    seal = keyring.find(key_id)
    if seal is None:
        raise RowSealBroken("a sealed column of an unknown data key")
    key0 = seal.open(sealed_key0, column=KEY0_COLUMN, row=record_id, owner=record_id)
    outcome = None
    outcome_seal = keyring.find(outcome_key_id) if outcome_key_id is not None else None
    if outcome_seal is not None and sealed_outcome is not None:
        outcome = outcome_seal.open(
            sealed_outcome, column=OUTCOME_COLUMN, row=record_id, owner=record_id
        )
    return StoredRecord(record, key0, outcome)


def _address(number: int | None) -> IPv4Address | None:
    return None if number is None else IPv4Address(number)


def write_changes(
    changes: Sequence[RecordChange],
    keyring: Keyring,
    outcome_seal: RowSeal,
    *,
    overlap_s: float,
    entropy: Entropy,
    link: Link,
) -> list[Any]:
    """The parameters of COMMIT; what is committed becomes the entry at `link`."""
    seal = keyring.current(ASSOCIATION)
    registrations: list[Row] = []
    associations: list[Row] = []
    for change in changes:
        if change.registration is not None:
            registrations.append(_registration_row(change.record_id, change.registration))
            associations += _association_rows(change.record_id, change.registration, seal, entropy)
    removed = [{"record_id": c.record_id, "spi": spi} for c in changes for spi in c.removed_spis]
    added = [{"record_id": c.record_id, "spi": spi} for c in changes for spi in c.added_spis]
    items = [item_of(change) for change in changes]
    leaves = [leaf_hash(item.octets()) for item in items]
    records = [
        _change_row(change, outcome_seal, entropy) | _event_columns(item)
        for change, item in zip(changes, items, strict=True)
    ]
    return [
        *link,
        merkle_root(leaves),
        b"".join(leaves),
        len(leaves),
        json.dumps(records),
        json.dumps(registrations),
        overlap_s,
        json.dumps(removed),
        json.dumps(added),
        json.dumps(associations),
    ]


def _octets(value: bytes | None) -> str | None:
    """As PostgreSQL reads a bytea."""
    return None if value is None else "\\x" + value.hex()


def _change_row(change: RecordChange, outcome_seal: RowSeal, entropy: Entropy) -> Row:
    sealed = None
    if change.digest is not None and change.outcome is not None:
        sealed = outcome_seal.seal(
            change.outcome,
            column=OUTCOME_COLUMN,
            row=change.record_id,
            owner=change.record_id,
            entropy=entropy,
        )
    seen = change.last_seen
    return {
        "record_id": change.record_id,
        "revision": change.revision,
        "unspent": change.unspent,
        "last_spent": change.last_spent,
        "second": seen.second if seen else None,
        "low": seen.low if seen else None,
        "rounds": change.rounds,
        "accepted_at": change.accepted_at,
        "digest": _octets(change.digest),
        "outcome_key_id": outcome_seal.key_id if sealed is not None else None,
        "sealed_outcome": _octets(sealed),
        "ended": change.deregistration,
    }


def _event_columns(item: RegistrationItem | EventItem) -> Row:
    if isinstance(item, EventItem):
        return {"kind": int(item.kind), "code": item.code}
    return {"kind": None, "code": None}


def _registration_row(record_id: int, item: NewRegistration) -> Row:
    home_address = str(item.home_address)
    return {
        "record_id": record_id,
        "class_id": _octets(item.class_id),
        "second": item.identification.second,
        "low": item.identification.low,
        "fa_nai": str(item.fa_nai),
        "nas_address": str(item.nas_address),
        "operator_realm": item.operator_realm,
        "care_of": str(item.care_of_address),
        "home_address": home_address,
        "alias": _octets(item.alias),
        "lifetime_s": item.lifetime_s,
        "spis": [association.spi for association in item.associations],
        "dynamic_address": home_address if item.dynamic_address else None,
    }


def _association_rows(
    record_id: int, registration: NewRegistration, seal: RowSeal, entropy: Entropy
) -> list[Row]:
    rows: list[Row] = []
    class_id = _octets(registration.class_id)
    for item in registration.associations:
        sealed = None
        if item.keys is not None:
            sealed = seal.seal(
                item.keys, column=KEYS_COLUMN, row=item.spi, owner=record_id, entropy=entropy
            )
        suites = b"".join(bytes((s.protocol_id, s.transform_id)) for s in item.suites)
        rows.append(
            {
                "record_id": record_id,
                "class_id": class_id,
                "spi": item.spi,
                "pair": int(item.pair),
                "mode": int(item.mode),
                "derivation": item.derivation,
                "suites": _octets(suites),
                "key_name": _octets(item.key_name),
                "lifetime_s": item.lifetime_s,
                "data_key_id": seal.key_id if sealed is not None else None,
                "sealed_keys": _octets(sealed),
            }
        )
    return rows


def seal_key0(
    key0: Secret, record_id: int, keyring: Keyring, entropy: Entropy
) -> tuple[int, bytes]:
    """Data key id and sealed KEY0 of a record."""
    seal = keyring.current(RECORD)
    sealed = seal.seal(key0, column=KEY0_COLUMN, row=record_id, owner=record_id, entropy=entropy)
    return seal.key_id, sealed


def dummy_row(keyring: Keyring, entropy: Entropy) -> tuple[Any, ...]:
    """A row such as LOAD gives behind clock and SPI, of nobody."""
    key_id, sealed = seal_key0(Secret(entropy(32)), 0, keyring, entropy)
    spis = [0] * UNSPENT_SPIS
    who = (0, "nobody@example.invalid", False, None, False, 0, "hidden", 0, None)
    return (*who, spis, 0, 0, 0, 0, [], None, None, None, None, 0, key_id, sealed, None, None)


def open_association_keys(
    keyring: Keyring, *, key_id: int, sealed: bytes, spi: int, record_id: int
) -> Secret:
    """KEY1 or KEY2 of a stored association; raises `RowSealBroken`."""
    seal = keyring.find(key_id)
    if seal is None:
        raise RowSealBroken("a sealed column of an unknown data key")
    return seal.open(sealed, column=KEYS_COLUMN, row=spi, owner=record_id)
