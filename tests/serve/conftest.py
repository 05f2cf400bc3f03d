"""One server for the file: pocket on a free port, in a thread of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from warpcortex_cli.prism.opening import choose, loaded
from warpcortex_cli.prism.options import LoadOptions
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.profile import Profile
from warpcortex_cli.serve.limits import Limits
from warpcortex_cli.serve.loop import Loop
from warpcortex_cli.serve.server import bound, server_of
from warpcortex_cli.serve.service import Service

NOTES = "Mara keeps ropes: 47, brown, in the old mill.\nThe lamps of Otto: 86, red, in the old mill."
QUESTION = f"{NOTES}\n\nHow many ropes of Mara and lamps of Otto in total?"
ROPES = "How many ropes does Mara have?"
LIMITS = Limits(replies=8, waiting=8, choices=4, body=1 << 16, tokens=64, patience=600, outbox=16, kept=8 << 20)


class Running:
    """A server while it runs. `url`: without a path."""

    def __init__(self, service: Service, url: str) -> None:
        self.service, self.loop, self.url = service, service.loop, url


@contextmanager
def running(prism: Prism, profile: Profile, limits: Limits, **more: Any) -> Iterator[Running]:
    listening = bound("127.0.0.1", 0)
    service = Service(Loop(prism, profile, limits), **more)
    ready = threading.Event()
    server = server_of(service, ready.set)
    server.install_signal_handlers = lambda: None
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    assert ready.wait(60)
    try:
        yield Running(service, f"http://127.0.0.1:{listening.getsockname()[1]}")
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive() and not service.loop.alive


@pytest.fixture(scope="module")
def pocket() -> tuple[Prism, Profile]:
    source, profile = choose("pocket", None)
    return loaded(source, LoadOptions(quantize="none")), profile


@pytest.fixture(scope="module")
def server(pocket: tuple[Prism, Profile]) -> Iterator[Running]:
    with running(*pocket, LIMITS) as found:
        yield found


@pytest.fixture
def settled(server: Running) -> Callable[[], None]:
    """Waits until nothing is written and nothing waits."""

    def wait() -> None:
        for _ in range(1000):
            if server.loop.load == (0, 0):
                return
            threading.Event().wait(0.01)
        raise AssertionError(f"still at work: {server.loop.load}")

    return wait
