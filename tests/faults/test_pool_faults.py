"""Servers of a pool die and come back under load: nobody waits for them, nothing is lost."""

from __future__ import annotations

import asyncio
import time

from aaa.demo.configurations import text_of
from tests.faults.test_split_faults import check_rows, crowd_of, told
from tests.integration.split import Node, SplitHome

NODES = 150


def _serve_ha1_in_two_processes(split: SplitHome) -> None:
    """`ha1` and `ha1b` of one address; the first in the file is the first to be asked."""
    home = split.folder / "home.toml"
    home.write_text(
        f'{home.read_text()}\n[[home_agent]]\nname = "ha1b"\naddress = "192.0.2.1"\n'
        f'server = "{text_of(split.ports["ha1b"])}"\nsecret_file = "ha1b.secret"\n'
    )


async def _says(split: SplitHome, process: str, *words: str) -> None:
    until = time.monotonic() + 30
    while not any(all(word in line for word in words) for line in split.log(process).splitlines()):
        assert time.monotonic() < until, split.log(process)
        await asyncio.sleep(0.05)


async def test_a_home_agent_dies_its_twin_takes_over_and_it_comes_back(split: SplitHome) -> None:
    _serve_ha1_in_two_processes(split)
    crowd = crowd_of(split, NODES)
    await split.launch("kdc1", "kdc2", "ha1", "ha1b", "home", "foreign", "fa1")
    crowd.start()
    await crowd.reach(40)
    split.kill("ha1")
    await crowd.finish()
    told(split, f"a home agent of two killed: the slowest of {NODES} took {crowd.slowest_s:.2f} s")
    check_rows(split, crowd)
    assert split.count() == (NODES, 3 * NODES), "a registration twice"
    await _says(split, "home", "server=ha1", "now=dead")
    await split.launch("ha1")
    await _says(split, "home", "server=ha1", "now=alive", "was=reviving")
    (later,) = (Node(each, 1) for each in split.subscribers(1, name="later"))
    assert await later.try_once(split, "fa1") == 0
    assert {split.stop(name) for name in ("ha1", "ha1b", "home")} == {0}
    assert "home.registrations=" in split.log("ha1"), "not asked after it had come back"
    assert "home.registrations=" in split.log("ha1b")
