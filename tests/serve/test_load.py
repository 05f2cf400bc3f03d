"""A little of the load that `python -m warpcortex_cli.lab.load` makes, against the server of these tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.serve.conftest import Running
from warpcortex_cli.lab.load import KINDS, Clients


def test_all_kinds_of_clients_leave_nothing_behind(server: Running, settled: Callable[[], None]) -> None:
    kinds = dict.fromkeys(KINDS, 1)
    clients = Clients(server.url, 7, 12, kinds, long=6000)
    seen = asyncio.run(clients.run(6, rounds=4))
    assert not seen.wrong and not seen.leaked and sum(seen.done.values()) == 24
    assert set(seen.done) == set(kinds) and seen.tokens
    settled()
    assert not server.loop.stepper._conversations or len(server.loop.stepper._conversations) == len(server.loop.shelf)
