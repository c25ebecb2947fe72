"""[negotiation] of each process: what the operator allows, and the terms that the roles get.

Old algorithms, groups that anybody may define and raw shared secrets stand behind switches with a
name of their own; a list that needs one and has not got it is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, PlainValidator, model_validator

from aaa.roles.foreign_agent_terms import FaTerms
from aaa.roles.home_agent_terms import HomeTerms
from aaa.roles.mobile_node_terms import MnTerms
from kdc.config import StrictModel
from kdc.crypto.dh import DhGroup, user_group
from kdc.errors import NotAcceptable
from kdc.model import Mode, Pair, Suite
from kdc.negotiation import (
    DEFAULT_GROUPS,
    DEFAULT_POLICY_SUITES,
    FA_GROUP,
    LEGACY_GROUPS,
    LEGACY_SUITES,
    NULL,
    OfferPlan,
    Policy,
    measure_offer,
)
from kdc.wire.payloads import (
    AUTHENTICATION,
    MAXIMUM_FA_SA_PAYLOAD_OCTETS,
    MAXIMUM_KEY_EXCHANGES,
)

SUITES: Final = {
    "hmac-md5": Suite(1, 1),
    "hmac-sha1": Suite(1, 2),
    "hmac-sha2-256": Suite(1, 5),
    "hmac-sha2-512": Suite(1, 7),
    "3des-cbc": Suite(2, 3),
    "null": NULL,
    "aes-256-cbc": Suite(2, 12),
    "aes-256-gcm": Suite(3, 20),
    "chacha20-poly1305": Suite(3, 28),
}
GROUPS: Final = {
    "modp-768": 1,
    "modp-1024": 2,
    "modp-2048": 14,
    "modp-3072": 15,
    "modp-4096": 16,
    "p-256": 19,
    "x25519": 31,
}
MODES: Final = {
    "stateless": Mode.STATELESS,
    "stateful": Mode.STATEFUL,
    "semi-stateful": Mode.SEMISTATEFUL,
}
PAIRS: Final = {
    "mn-ha": Pair.MN_HA,
    "mn-fa": Pair.MN_FA,
    "fa-ha": Pair.FA_HA,
    "mn-smm": Pair.MN_SMM,
}
_GCM: Final = "aes-256-gcm"
_CHACHA: Final = "chacha20-poly1305"


def named(table: dict[str, Any]) -> PlainValidator:
    """A validator for one of the names of a table; the name stays, as the file has it."""

    def read(value: object) -> str:
        if isinstance(value, str) and value in table:
            return value
        raise ValueError(f"expected one of {', '.join(table)}")

    return PlainValidator(read)


def _not_empty(items: tuple[Any, ...]) -> tuple[Any, ...]:
    if not items:
        raise ValueError("expected at least one")
    return items


def _one_a_protocol(names: tuple[str, ...]) -> tuple[str, ...]:
    suites = suites_of(names)
    if len({suite.protocol_id for suite in suites}) != len(suites):
        raise ValueError("expected at most one suite of a kind: authentication, encryption, AEAD")
    if NULL in suites and all(suite.protocol_id != AUTHENTICATION for suite in suites):
        raise ValueError("expected an authentication suite beside null")
    return names


def _hex_number(value: object) -> bytes:
    try:
        octets = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        octets = b""
    if not octets or not octets[0]:
        raise ValueError("expected a number in hex, two digits an octet, no zero octet in front")
    return octets


def suites_of(names: Iterable[str]) -> tuple[Suite, ...]:
    """The suites of these names, in order."""
    return tuple(SUITES[name] for name in names)


def _names_of(suites: Iterable[Suite]) -> tuple[str, ...]:
    return tuple(name for name, suite in SUITES.items() if suite in set(suites))


# Not Field(min_length=1): pydantic would count a refused item as missing and tell it twice.
NotEmpty = AfterValidator(_not_empty)
SuiteName = Annotated[str, named(SUITES)]
GroupName = Annotated[str, named(GROUPS)]
ModeName = Annotated[str, named(MODES)]
HexNumber = Annotated[bytes, PlainValidator(_hex_number)]
SuiteSet = Annotated[tuple[SuiteName, ...], NotEmpty]
ModeSet = Annotated[tuple[ModeName, ...], NotEmpty]
Together = Annotated[tuple[SuiteName, ...], NotEmpty, AfterValidator(_one_a_protocol)]


class PairPolicy(StrictModel):
    """[negotiation.PAIR]: what differs for one pair."""

    suites: SuiteSet | None = None
    modes: ModeSet | None = None
    default_mode: ModeName | None = None
    preferred: tuple[Together, ...] | None = None


class NegotiationSettings(StrictModel):
    """What every party decides (PROTOCOL sections 4.3, 6 and 7)."""

    suites: SuiteSet = _names_of(DEFAULT_POLICY_SUITES)
    legacy_suites: bool = False
    null_encryption: bool = False
    modes: ModeSet = tuple(MODES)
    groups: tuple[GroupName, ...] = tuple(n for n, g in GROUPS.items() if g in DEFAULT_GROUPS)
    legacy_groups: bool = False
    user_groups: bool = False
    raw_dh: bool = False
    formula_5: bool = False
    maximum_lifetime_s: int = Field(default=86400, ge=1, le=2**32 - 2)
    preferred: tuple[Together, ...] = ((_GCM,), (_CHACHA,))

    @model_validator(mode="after")
    def _check_switches(self) -> Self:
        used = {name for names in self._suite_lists() for name in names}
        _require(self.legacy_suites, used & set(_names_of(LEGACY_SUITES)), "legacy_suites")
        _require(self.null_encryption, used & set(_names_of({NULL})), "null_encryption")
        offered = {name for offer in self.offers().values() for name in offer.groups}
        legacy = {n for n in offered.union(self.groups) if GROUPS[n] in LEGACY_GROUPS}
        _require(self.legacy_groups, legacy, "legacy_groups")
        return self

    @model_validator(mode="after")
    def _check_offers(self) -> Self:
        for pair, offer in self.offers().items():
            policy = self.build_policy(pair)
            if MODES[offer.mode] not in policy.modes:
                raise ValueError(f"expected {offer.mode} among modes, as it is offered")
            for name in offer.groups:
                if GROUPS[name] not in policy.groups:
                    raise ValueError(f"expected {name} among groups, as it is offered")
        return self

    def offers(self) -> dict[Pair, Offer]:
        """What the process offers by itself."""
        return {}

    def _suite_lists(self) -> Iterable[tuple[str, ...]]:
        yield self.suites
        yield from self.preferred
        for pair in self.pair_policies().values():
            yield pair.suites or ()
            yield from pair.preferred or ()

    def pair_policies(self) -> dict[Pair, PairPolicy]:
        """The sections of single pairs, of those that the process negotiates."""
        return {}

    def _allowed_suites(self) -> frozenset[Suite]:
        added = LEGACY_SUITES if self.legacy_suites else frozenset()
        null = frozenset({NULL}) if self.null_encryption else frozenset()
        return frozenset(suites_of(self.suites)) | added | null

    def build_policy(
        self, pair: Pair, *, default_mode: str = "stateful", fa_dh_any: bool = False
    ) -> Policy:
        """The policy for one pair; raises `LocalError` if it contradicts itself."""
        own = self.pair_policies().get(pair, PairPolicy())
        modes = own.modes or self.modes
        default = own.default_mode or default_mode
        preferred = self.preferred if own.preferred is None else own.preferred
        groups = frozenset(GROUPS[name] for name in self.groups)
        return Policy(
            suites=frozenset(suites_of(own.suites)) if own.suites else self._allowed_suites(),
            modes=frozenset(MODES[name] for name in modes),
            default_mode=MODES[default if default in modes else modes[0]],
            groups=groups | (LEGACY_GROUPS if self.legacy_groups else frozenset()),
            user_groups=self.user_groups,
            fa_dh_any=fa_dh_any,
            raw_dh=self.raw_dh,
            formula_5=self.formula_5,
            maximum_lifetime_s=self.maximum_lifetime_s,
            preferred=tuple(suites_of(names) for names in preferred),
        )


def _require(switch: bool, found: set[str], name: str) -> None:
    if found and not switch:
        raise ValueError(f"expected {name} = true beside {', '.join(sorted(found))}")


class HomeNegotiation(NegotiationSettings):
    """[negotiation] of a home agent; `preferred` is what it counter-proposes."""

    default_mode: ModeName = "stateful"
    fa_dh: Literal["x25519", "any"] = "x25519"
    mn_ha: PairPolicy = PairPolicy()
    mn_fa: PairPolicy = PairPolicy()
    fa_ha: PairPolicy = PairPolicy()
    mn_smm: PairPolicy = PairPolicy()

    def pair_policies(self) -> dict[Pair, PairPolicy]:
        return {
            Pair.MN_HA: self.mn_ha,
            Pair.MN_FA: self.mn_fa,
            Pair.FA_HA: self.fa_ha,
            Pair.MN_SMM: self.mn_smm,
        }

    @model_validator(mode="after")
    def _check_default_modes(self) -> Self:
        for pair in Pair:
            own = self.pair_policies()[pair]
            default = own.default_mode or self.default_mode
            if default == "stateless":
                raise ValueError("expected default_mode to need no offer: stateful, semi-stateful")
            if default not in (own.modes or self.modes):
                raise ValueError("expected default_mode to be one of modes")
        return self

    def build_terms(self, default_suites: tuple[str, ...]) -> HomeTerms:
        """What the home agent negotiates by."""
        policies = {
            pair: self.build_policy(
                pair, default_mode=self.default_mode, fa_dh_any=self.fa_dh == "any"
            )
            for pair in Pair
        }
        return HomeTerms(policies, suites_of(default_suites))


class UserGroup(StrictModel):
    """A group of the user's own: a safe prime of 2,048 to 4,096 bits and a generator, in hex."""

    prime: HexNumber
    generator: HexNumber

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        try:
            self.build()
        except NotAcceptable as error:
            raise ValueError(f"expected a group as PROTOCOL 7.3 allows it: {error}") from None
        return self

    def build(self) -> DhGroup:
        """The group, its primality still to be verified."""
        return user_group(self.prime, self.generator)


class Offer(StrictModel):
    """How one pair is offered."""

    mode: ModeName = "stateful"
    groups: tuple[GroupName, ...] = ()
    user_group: UserGroup | None = None
    carrier: Literal["sa-info", "ke-c", "clear"] = "sa-info"
    alternatives: int = Field(default=1, ge=1, le=8)
    lifetime_s: int = Field(default=3600, ge=1, le=2**32 - 2)

    @model_validator(mode="after")
    def _check(self) -> Self:
        computed = bool(self.groups) or self.user_group is not None
        if self.mode == "stateless" and not computed:
            raise ValueError("expected groups for a stateless offer")
        if computed and self.carrier != "sa-info":
            raise ValueError("expected either groups or another place for the secret, not both")
        return self

    def build_plan(self) -> OfferPlan:
        """What the role offers by."""
        return OfferPlan(
            MODES[self.mode],
            tuple(GROUPS[name] for name in self.groups),
            self.user_group.build() if self.user_group is not None else None,
            sealed=self.carrier == "ke-c",
            in_the_clear=self.carrier == "clear",
            lifetime_s=self.lifetime_s,
            alternatives=self.alternatives,
        )


class AgentNegotiation(NegotiationSettings):
    """[negotiation] of a foreign agent; `preferred` is what it offers and counter-proposes."""

    fa_dh: Literal["x25519", "any"] = "x25519"
    mn_fa: PairPolicy = PairPolicy()
    fa_ha: PairPolicy = PairPolicy()
    mn_smm: PairPolicy = PairPolicy()
    offer_fa_ha: Offer | None = None

    def pair_policies(self) -> dict[Pair, PairPolicy]:
        return {Pair.MN_FA: self.mn_fa, Pair.FA_HA: self.fa_ha, Pair.MN_SMM: self.mn_smm}

    @model_validator(mode="after")
    def _check_fa_dh(self) -> Self:
        offered = {name for offer in self.offers().values() for name in offer.groups}
        if self.fa_dh != "any" and any(GROUPS[name] != FA_GROUP for name in offered):
            raise ValueError("expected fa_dh = any to offer groups beside x25519")
        return self

    @model_validator(mode="after")
    def _check_length(self) -> Self:
        terms = self.build_terms()
        if terms.fa_ha_plan is None:
            return self
        plan = terms.fa_ha_plan
        if plan.user_group is not None:
            raise ValueError("expected no user_group in offer_fa_ha, but named groups")
        if len(plan.groups) > MAXIMUM_KEY_EXCHANGES:
            raise ValueError(f"expected at most {MAXIMUM_KEY_EXCHANGES} groups in an offer")
        octets = measure_offer(Pair.FA_HA, terms.policies[Pair.FA_HA], plan)
        if octets > MAXIMUM_FA_SA_PAYLOAD_OCTETS:
            raise ValueError(
                f"expected an offer_fa_ha of at most {MAXIMUM_FA_SA_PAYLOAD_OCTETS} octets, not "
                f"{octets}: fewer or smaller groups, or fewer alternatives"
            )
        return self

    def offers(self) -> dict[Pair, Offer]:
        return {} if self.offer_fa_ha is None else {Pair.FA_HA: self.offer_fa_ha}

    def build_terms(self) -> FaTerms:
        """What the foreign agent negotiates by."""
        any_group = self.fa_dh == "any"
        policies = {
            pair: self.build_policy(pair, fa_dh_any=any_group) for pair in self.pair_policies()
        }
        groups = policies[Pair.FA_HA].groups - {FA_GROUP}
        return FaTerms(
            policies,
            self.offer_fa_ha.build_plan() if self.offer_fa_ha is not None else None,
            tuple(sorted(groups)) if any_group else (),
        )


class NodeNegotiation(NegotiationSettings):
    """[negotiation] of a mobile node; `preferred` is what it offers, best first."""

    mn_ha: PairPolicy = PairPolicy()
    mn_fa: PairPolicy = PairPolicy()
    mn_smm: PairPolicy = PairPolicy()
    offer_mn_ha: Offer | None = Offer(groups=("x25519",))
    offer_mn_fa: Offer | None = None
    offer_mn_smm: Offer | None = None
    offer_nothing: bool = False

    def pair_policies(self) -> dict[Pair, PairPolicy]:
        return {Pair.MN_HA: self.mn_ha, Pair.MN_FA: self.mn_fa, Pair.MN_SMM: self.mn_smm}

    @model_validator(mode="after")
    def _check_carriers(self) -> Self:
        if any(offer.carrier == "clear" for offer in self.offers().values()):
            raise ValueError("expected carrier clear for fa_ha alone")
        return self

    def offers(self) -> dict[Pair, Offer]:
        offers = {
            Pair.MN_HA: self.offer_mn_ha,
            Pair.MN_FA: self.offer_mn_fa,
            Pair.MN_SMM: self.offer_mn_smm,
        }
        given = {pair: offer for pair, offer in offers.items() if offer is not None}
        return {} if self.offer_nothing else given

    def build_terms(self) -> MnTerms:
        """What the mobile node negotiates by."""
        return MnTerms(
            {pair: self.build_policy(pair) for pair in self.pair_policies()},
            {pair: offer.build_plan() for pair, offer in self.offers().items()},
        )
