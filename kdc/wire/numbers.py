"""The numbers of the protocol, each named once with its source.

No layouts are here; those stand with their readers and writers.
"""

from __future__ import annotations

from typing import Final, NamedTuple

REGISTRATION_REQUEST: Final = 1  # RFC 5944 §3.3
REGISTRATION_REPLY: Final = 3  # RFC 5944 §3.4
REQUEST_HEADER_OCTETS: Final = 24
REPLY_HEADER_OCTETS: Final = 20
MAXIMUM_MESSAGE_OCTETS: Final = 3072  # PROTOCOL section 3
INFINITE_LIFETIME: Final = 0xFFFF  # RFC 5944 §3.3; refused here
CO_LOCATED_FLAG: Final = 0x20  # RFC 5944 §3.3, the D bit: S B D M G r T x

# Extension types of RFC 5944 §1.8 and its registry.
MOBILE_HOME_AUTHENTICATION: Final = 32
MOBILE_FOREIGN_AUTHENTICATION: Final = 33
CRITICAL_VENDOR: Final = 38  # RFC 3115 §2.1
MOBILE_NODE_NAI: Final = 131  # RFC 2794 §2
NORMAL_VENDOR: Final = 134  # RFC 3115 §2.2
FIRST_SKIPPABLE: Final = 128  # RFC 5944 §1.8: unknown ones from here on are skipped
AUTHENTICATOR_OCTETS: Final = 32  # HMAC-SHA-256

# Agent discovery.
MOBILE_IP_PORT: Final = 434  # RFC 5944 §3.3: UDP
ROUTER_ADVERTISEMENT: Final = 9  # RFC 1256 §3: ICMP types
ROUTER_SOLICITATION: Final = 10
PADDING: Final = 0  # RFC 5944 §2.1.3: one octet, without a length
MOBILITY_AGENT: Final = 16  # RFC 5944 §2.1.1
PREFIX_LENGTHS: Final = 19  # RFC 5944 §2.1.2

# Vendor-Types of PROTOCOL 4.1 (Figs 8-11).
TYPE_NAI: Final = 1
TYPE_IP: Final = 2
TYPE_LAYER2: Final = 3
TYPE_SA: Final = 4
TYPE_SA_PAYLOAD: Final = 5
TYPE_FA_KEY: Final = 6
TYPE_NEXT_SPI: Final = 9
TYPE_STATUS: Final = 10
TYPE_TRANSCRIPT: Final = 12


class Kind(NamedTuple):
    """Which extension of 4.1: its type and content type."""

    type: int
    content_type: int


NAI_MN: Final = Kind(TYPE_NAI, 0)
NAI_FA: Final = Kind(TYPE_NAI, 1)
NAI_HA: Final = Kind(TYPE_NAI, 2)
IP_MN: Final = Kind(TYPE_IP, 0)
IP_FA: Final = Kind(TYPE_IP, 1)
LAYER2_ETHERNET: Final = Kind(TYPE_LAYER2, 0)
LAYER2_IMSI: Final = Kind(TYPE_LAYER2, 1)
LAYER2_MIN: Final = Kind(TYPE_LAYER2, 2)
SA_MN_FA: Final = Kind(TYPE_SA, 0)  # Fig. 11
SA_FA_HA: Final = Kind(TYPE_SA, 1)
SA_MN_HA: Final = Kind(TYPE_SA, 2)  # ours: Fig. 11 has no code for it
SA_MN_SMM: Final = Kind(TYPE_SA, 3)
FA_KEY: Final = Kind(TYPE_FA_KEY, 1)
NEXT_SPI: Final = Kind(TYPE_NEXT_SPI, 0)
STATUS: Final = Kind(TYPE_STATUS, 0)
TRANSCRIPT: Final = Kind(TYPE_TRANSCRIPT, 0)

FK_OCTETS: Final = 16  # PROTOCOL section 8
TRANSCRIPT_OCTETS: Final = 16
MAXIMUM_STATUS_DETAIL_OCTETS: Final = 128
KEM_X25519: Final = 0x0020  # RFC 9180 §7.1: DHKEM(X25519, HKDF-SHA256)
FA_PUBLIC_KEY_OCTETS: Final = 38  # attribute 3: KEM-Id(2) SPI(4) public key(32)

SEAL_BUCKETS: Final = (32, 64, 96, 128, 192, 256, 512, 1024, 2048)  # PROTOCOL 5.2
SEAL_TAG_OCTETS: Final = 16  # RFC 5297: the synthetic IV
