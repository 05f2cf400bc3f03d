"""The bounds of a server, so that no client can take more than its share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds on what clients may ask for.

    Attributes:
        replies: written at the same time.
        waiting: requests that wait for their turn; more are turned away with 429.
        choices: of one request.
        body: bytes of a request.
        prompt: tokens of a prompt; None: the model's context.
        tokens: of a reply, at most, whatever is asked for.
        seconds: that a reply may take.
        patience: seconds that a reader may leave a full outbox unread.
        outbox: events that wait for a reader before its reply pauses.
        kept: bytes of keys and values of conversations that nobody writes in now.
    """

    replies: int = 64
    waiting: int = 256
    choices: int = 16
    body: int = 4 << 20
    prompt: int | None = None
    tokens: int = 4096
    seconds: float = 600.0
    patience: float = 60.0
    outbox: int = 512
    kept: int = 1 << 30
