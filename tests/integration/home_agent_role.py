"""A home agent that a test plays itself, to ask a KDC what no home agent that works would ask."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from aaa.exchange import AccessRequest, Peer
from aaa.net.radsec_client import RadsecClient
from aaa.radius.attributes import decode_key_reply, encode_key_request
from aaa.radius.packet import ACCESS_REJECT, ACCESS_REQUEST, VerifiedResponse
from aaa.roles.foreign_agent import FaIdentity, ForeignAgent, Relayed
from aaa.roles.foreign_agent_terms import FaTerms
from aaa.roles.home_agent import Agreeable, HomeAgent, HomeAgentPolicy
from aaa.roles.home_agent_request import StructuredRequest, read_request
from aaa.roles.mobile_node import Heard
from aaa.roles.mobile_node_terms import MnTerms
from aaa.serve.registrar import Registrar
from kdc.crypto.dh import DhJob, private_octets, respond
from kdc.model import DEFAULT_VENDOR_ID, Nai, Secret
from kdc.records import Admission, GrantDecision
from kdc.wire.keydist import (
    AdmitRequest,
    GrantRequest,
    KeyReply,
    KeyRequest,
    decode_key_reply_message,
    encode_key_request_message,
)
from kdc.wire.keydist_items import Judged, State
from tests.integration.split import ADDRESSES, TERMS, Node

REALM = "home.example"
VISITED = Peer("visited", frozenset({"visited.example"}))


def new_agent(fa_terms: FaTerms | None = None) -> ForeignAgent:
    address = IPv4Address("198.51.100.7")
    identity = FaIdentity(Nai.parse("fa1@visited.example"), address, address, b"fa1")
    agent = ForeignAgent(identity, fa_terms or FaTerms())
    agent.rotate_key(now=time.time(), entropy=os.urandom)
    return agent


def heard_of(agent: ForeignAgent) -> Heard:
    identity = agent.identity
    return Heard(agent.announcement, identity.address, identity.care_of_address)


@dataclass
class PlayedHomeAgent:
    """Its certificate is the client's; `name` says which policy and name it goes by."""

    client: RadsecClient
    name: str = "ha1"
    agent: ForeignAgent = field(default_factory=new_agent)
    _links: int = 1024

    @property
    def policy(self) -> HomeAgentPolicy:
        address = IPv4Address(ADDRESSES[self.name])
        return HomeAgentPolicy(address, Nai.parse(f"{self.name}@{REALM}"), REALM)

    async def send(self, octets: bytes) -> VerifiedResponse:
        """Any octets as a Key-Request; raises `NoAnswer`."""
        attributes = encode_key_request(
            octets, home_agent=self.name, realm=REALM, vendor_id=DEFAULT_VENDOR_ID
        )
        return await self.client.exchange(ACCESS_REQUEST, attributes)

    async def ask(self, request: KeyRequest) -> KeyReply:
        response = await self.send(encode_key_request_message(request, DEFAULT_VENDOR_ID))
        assert response.code != ACCESS_REJECT
        octets = decode_key_reply(response, DEFAULT_VENDOR_ID)
        return decode_key_reply_message(octets, DEFAULT_VENDOR_ID)

    def hear(
        self, node: Node, *, terms: MnTerms = TERMS, lifetime_s: int = 600
    ) -> StructuredRequest:
        """A node's request as it comes from its foreign agent."""
        pending = node.request(heard_of(self.agent), terms=terms, lifetime_s=lifetime_s)
        self._links += 1
        relayed = self.agent.on_request(pending.octets, ("192.0.2.99", self._links))
        assert isinstance(relayed, Relayed)
        self.agent.settle(relayed)  # nobody will answer it
        access: AccessRequest = relayed.access
        return read_request(access, vendor_id=DEFAULT_VENDOR_ID)

    async def judge(self, structured: StructuredRequest) -> GrantRequest:
        """Steps 5 and 6, as a home agent that works makes them."""
        admission = await self.ask(AdmitRequest(structured.request.octets))
        assert isinstance(admission, Admission), admission
        registrar = Registrar(HomeAgent(self.policy))
        verdict = registrar.judge(structured, admission, VISITED)
        if isinstance(verdict, Agreeable):
            shares = {
                e.pair: respond(
                    DhJob(e.group, Secret(os.urandom(private_octets(e.group))), e.peer_value)
                )
                for e in verdict.exponentiations
            }
            verdict = registrar.home_agent.conclude(verdict, shares)
        decision = registrar.decide(verdict, admission)
        assert isinstance(decision, GrantDecision)
        return grant_of(decision)


def grant_of(decision: GrantDecision) -> GrantRequest:
    verified = decision.verified
    return GrantRequest(
        state=State(decision.spi, decision.record.revision, decision.admission.ticket),
        judged=Judged(
            verified.identification,
            verified.lifetime_s,
            verified.care_of_address,
            decision.digest,
        ),
        fa_nai=verified.fa_nai,
        nas_address=verified.nas_address,
        home_agent_nai=verified.home_agent_nai,
        realm=verified.realm,
        operator_realm=verified.operator_realm,
        fa_public_key=verified.fa_public_key,
        terms=verified.terms,
    )
