"""Asks a RADIUS server whether it is alive: one Status-Server (RFC 5997)."""

from __future__ import annotations

from aaa.net.radius_client import RadiusClient, Server
from aaa.net.udp import Address
from aaa.radius.counters import Counters
from aaa.radius.errors import NoAnswer
from aaa.radius.packet import ACCESS_ACCEPT, STATUS_SERVER
from kdc.errors import Unavailable
from kdc.model import Secret


async def answers_status(
    address: Address, secret: bytes, *, timeout_s: float, source: str | None = None
) -> bool:
    """Whether an authentic answer comes within `timeout_s`; `source` is our own address."""
    client = RadiusClient(Counters(), bind_host=source)
    try:
        response = await client.exchange(
            STATUS_SERVER, (), Secret(secret), Server(address, timeout_s=timeout_s, retries=0)
        )
    except (NoAnswer, Unavailable):
        return False
    finally:
        client.close()
    return response.code == ACCESS_ACCEPT
