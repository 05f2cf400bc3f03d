"""Runs the application on a socket."""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Callable
from typing import Any

from warpcortex_cli.errors import UsageError
from warpcortex_cli.serve.service import Service

_CONNECTIONS = 1024  # at once; more are answered with 503
_GRACE = 5  # seconds that open replies have when the server is told to stop
_BACKLOG = 256


def check_host(host: str, key: str | None) -> None:
    """Refuses to serve other machines without a key.

    Raises:
        UsageError: with what to do.
    """
    if not is_local(host) and not key:
        raise UsageError(
            f"--host {host} serves other machines, which takes an API key.",
            "Set WARPCORTEX_API_KEY, or give --api-key.",
        )


def is_local(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens there. Port 0: any free one.

    Raises:
        UsageError: the address cannot be used.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError as error:
        said = f"{host}:{port} cannot be listened at: {(error.strerror or str(error)).lower()}."
        raise UsageError(said, "Choose another --port or --host.") from error
    return listening


def run(service: Service, listening: socket.socket, ready: Callable[[], None] = lambda: None) -> None:
    """Serves until a signal says to stop.

    Args:
        ready: called once connections are accepted.
    """
    server_of(service, ready).run(sockets=[listening])


def server_of(service: Service, ready: Callable[[], None] = lambda: None) -> Any:
    """A uvicorn server, not yet running. Its logs are off: nothing of a client's is written anywhere."""
    import uvicorn

    from warpcortex_cli.serve.app import app_of

    logging.getLogger("uvicorn.error").addFilter(lambda record: record.levelno >= logging.ERROR)
    config = uvicorn.Config(
        app_of(service),
        log_level="critical",
        access_log=False,
        server_header=False,
        ws="none",
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=_GRACE,
    )

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready()

    return Server(config)
