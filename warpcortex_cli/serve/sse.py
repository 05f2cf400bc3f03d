"""Server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, Self

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from warpcortex_cli.errors import WarpError
from warpcortex_cli.serve.faults import fault_of
from warpcortex_cli.serve.reading import GoneError

DONE = b"data: [DONE]\n\n"


def sse(value: Mapping[str, Any], name: str | None = None) -> bytes:
    """One event: JSON on one line."""
    head = f"event: {name}\n" if name is not None else ""
    return f"{head}data: {json.dumps(value, ensure_ascii=False, allow_nan=False)}\n\n".encode("utf-8", "replace")


class EventStream(Response):
    """A response that is sent while it is made. A client that does not read for `patience` seconds is cut off."""

    media_type = "text/event-stream"

    def __init__(self, first: bytes | None, rest: AsyncIterator[bytes], patience: float) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._first, self._rest, self._patience = first, rest, patience

    @classmethod
    async def begun(cls, pieces: AsyncIterator[bytes], patience: float) -> Self:
        """The same, once there is a first piece: what is refused before has a status of its own."""
        return cls(await anext(pieces, None), pieces, patience)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def put(body: bytes, more: bool = True) -> None:
            async with asyncio.timeout(self._patience):
                await send({"type": "http.response.body", "body": body, "more_body": more})

        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            try:
                if self._first is not None:
                    await put(self._first)
                async for piece in self._rest:
                    await put(piece)
            except GoneError:
                return
            except WarpError as error:  # too late for a status
                await put(sse({"error": fault_of(error).body}))
            await put(b"", more=False)
        except TimeoutError:
            raise ConnectionError("the client does not read") from None  # closes the connection
        finally:
            await self._rest.aclose()  # type: ignore[attr-defined]
