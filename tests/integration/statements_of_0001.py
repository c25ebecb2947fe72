"""The commit statement of the releases before 0006, frozen: it runs on every later schema."""

from __future__ import annotations

from typing import Final

COMMIT_OF_0001: Final = """
WITH change AS (
  SELECT * FROM json_to_recordset(%s::json) AS t(
    record_id bigint, revision bigint, unspent bigint[], last_spent bigint, second bigint,
    low bigint, rounds smallint, accepted_at bigint[], digest bytea, outcome_key_id bigint,
    sealed_outcome bytea, ended boolean)
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
  RETURNING r.id
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
    fa_nai, nas_address, operator_realm, care_of_address, home_address, alias, lifetime_s, spis)
  SELECT g.class_id, g.record_id, g.second, g.low, g.fa_nai, g.nas_address,
    g.operator_realm, g.care_of, g.home_address, g.alias, g.lifetime_s, g.spis
  FROM registration AS g JOIN changed ON changed.id = g.record_id
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
)
SELECT id FROM changed
"""
