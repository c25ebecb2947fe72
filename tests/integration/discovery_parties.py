"""The parties of the agent discovery tests as processes: what they hear and do goes to stdout.

advertise INTERFACE INTERVAL FA_ADDRESS      an agent; SIGUSR1 gives it its next key,
                                             SIGUSR2 has it invite NODE
hear INTERFACE TIMEOUT                       a node that hears one agent, as one JSON line
follow INTERFACE TIMEOUT                     and then says how it lost it
send INTERFACE HEX...                        whole IPv4 datagrams, header included
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from ipaddress import IPv4Address
from pathlib import Path

from aaa.roles.mobile_node import Heard
from aaa.serve.advertiser import Advertiser
from aaa.serve.hearing import HeardAgent, Hearing
from aaa.serve.process import configure_log
from kdc.config import LogSettings
from kdc.errors import LocalError
from kdc.model import Nai
from kdc.wire.advertisement import FaAnnouncement

NODE = "198.51.100.99"


def _say(**what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def advertise(interface: str, interval_s: str, fa_address: str) -> None:
    generation = 1

    def content() -> Heard:
        fk = bytes([generation]) * 16
        address = IPv4Address(fa_address)
        return Heard(FaAnnouncement(Nai.parse("fa1@visited.example"), fk), address, address)

    def rotate() -> None:
        nonlocal generation
        generation += 1
        advertiser.renew()

    def invite() -> None:
        advertiser.invite(IPv4Address(NODE))
        _say(event="invited")

    advertiser = Advertiser(interface, float(interval_s), content)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGUSR1, rotate)
    loop.add_signal_handler(signal.SIGUSR2, invite)
    advertiser.start()
    _say(event="advertising")
    await stop.wait()
    advertiser.stop()
    _say(event="stopped", peak_kb=_peak_kb())


def _peak_kb() -> int:
    """Of this program alone: what getrusage says includes the process that has started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def _heard(agent: HeardAgent, waited_s: float) -> dict[str, object]:
    return {
        "event": "heard",
        "nai": str(agent.heard.announcement.nai),
        "fk": agent.heard.announcement.fk.hex(),
        "fa_address": str(agent.heard.fa_address),
        "care_of_address": str(agent.heard.care_of_address),
        "address": list(agent.address),
        "registration_lifetime_s": agent.registration_lifetime_s,
        "waited_s": waited_s,
    }


async def hear(interface: str, timeout_s: str, *, follow: bool = False) -> None:
    loop = asyncio.get_running_loop()
    async with Hearing.open(interface) as hearing:
        _say(event="listening")
        started = loop.time()
        try:
            agent = await hearing.agent(float(timeout_s))
        except LocalError as error:
            _say(event="nobody", text=str(error))
            return
        _say(**_heard(agent, loop.time() - started))
        if follow:
            hearing.follow(agent)
            change = await asyncio.wait_for(hearing.moved(), float(timeout_s))
            _say(event="moved", change=change.value)


def send(interface: str, *datagrams: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for text in datagrams:
            octets = bytes.fromhex(text)
            raw.sendto(octets, (socket.inet_ntoa(octets[16:20]), 0))


def main() -> None:
    configure_log(LogSettings())  # to standard error
    party, *arguments = sys.argv[1:]
    try:
        if party == "advertise":
            asyncio.run(advertise(*arguments))
        elif party in ("hear", "follow"):
            asyncio.run(hear(*arguments, follow=party == "follow"))
        else:
            send(*arguments)
    except LocalError as error:
        _say(event="refused", text=str(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
