"""`work: mcp`: a tool of an MCP server (Model Context Protocol) that speaks over stdin and stdout.

The server is a program: it runs only if the user has named it with `--allow-program`, starts when its tool is called,
and ends with the answer. The package `mcp` (`pip install "warpcortex[mcp]"`) implements the protocol; the pipes are
read here, so that a server that never stops writing is ended before it fills memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import subprocess
from collections.abc import Iterable, Mapping
from typing import Any

from warpcortex_cli.engine.brief import Brief
from warpcortex_cli.engine.workers.base import Host, Work, Worker, WorkError
from warpcortex_cli.engine.workers.elsewhere import Elsewhere, allowed, ended, fields_of, started

MOST_BYTES = 1 << 20  # that a server may write for one call, its list of tools included
MOST_MESSAGES = 1000


class McpWorker(Worker):
    """Makes calls of tools, which share nothing."""

    def take(self, brief: Brief) -> Work:
        return Calling(self.host, brief)


class Calling(Elsewhere):
    """One call of a tool, on a server of its own."""

    def __init__(self, host: Host, brief: Brief) -> None:
        super().__init__(host, brief)
        self._process: subprocess.Popen[bytes] | None = None
        self._flooded = False

    def start(self) -> None:
        """Starts the server.

        Raises:
            WorkError: the package is missing, or the server is not allowed or cannot be started.
        """
        program = self._brief.role.command[0]
        allowed(self._host, program)
        try:
            import mcp  # noqa: F401
        except ImportError:
            raise WorkError('it takes the package mcp; pip install "warpcortex[mcp]" has it') from None
        logging.getLogger("mcp").setLevel(logging.CRITICAL)  # it logs a traceback for each invalid message
        self._process = started(self._brief.role.command, stdin=subprocess.PIPE)
        super().start()

    def fetch(self) -> str:
        program = self._brief.role.command[0]
        try:
            return asyncio.run(self._called())
        except Exception as error:
            cause = _first_of(error)
            if self._flooded:
                raise WorkError(f"{program} wrote more than {MOST_BYTES:,} bytes or {MOST_MESSAGES:,} lines") from error
            if isinstance(cause, WorkError):
                raise cause from None
            raise WorkError(f"{program} gave no answer: {cause}") from error
        finally:
            self._rest()

    def _rest(self) -> None:
        """Kills the server, waits for it and closes its pipes."""
        assert self._process is not None
        self.close()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    async def _called(self) -> str:
        import anyio
        from mcp import ClientSession

        heard, incoming = anyio.create_memory_object_stream[Any](16)
        outgoing, said = anyio.create_memory_object_stream[Any](16)
        answer = ""
        async with anyio.create_task_group() as group:
            group.start_soon(self._listen, heard)
            group.start_soon(self._speak, said)
            try:
                async with ClientSession(incoming, outgoing) as session:
                    await session.initialize()
                    answer = await self._answer(session)
            finally:
                self.close()  # ends the wait for its next line
                group.cancel_scope.cancel()
        return answer

    async def _listen(self, heard: Any) -> None:
        """Passes on what the server writes, as messages."""
        from mcp.shared.message import SessionMessage
        from mcp.types import jsonrpc_message_adapter

        assert self._process is not None and self._process.stdout is not None
        read, left = self._process.stdout.readline, MOST_BYTES
        async with heard:
            for _ in range(MOST_MESSAGES):
                line = await asyncio.to_thread(read, left + 1)
                left -= len(line)
                if not line or left < 0:
                    self._flooded = left < 0
                    return
                with contextlib.suppress(ValueError):  # skips what is not a message of the protocol
                    await heard.send(SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False)))
            self._flooded = True

    async def _speak(self, said: Any) -> None:
        """Writes messages to the server."""
        assert self._process is not None and self._process.stdin is not None
        pipe = self._process.stdin
        async for message in said:
            text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
            with contextlib.suppress(OSError, ValueError):  # the server has ended, which `_listen` notices
                pipe.write(text.encode() + b"\n")
                pipe.flush()

    async def _answer(self, session: Any) -> str:
        """Calls the tool and returns the text of its answer."""
        name = self._brief.role.tool
        tools = (await session.list_tools()).tools
        tool = next((t for t in tools if t.name == name), None)
        if tool is None:
            known = ", ".join(sorted(t.name for t in tools)) or "none"
            raise WorkError(f"the server has no tool {name}; its tools are {known}")
        result = await session.call_tool(name, arguments(self._brief, tool.input_schema))
        text = "\n".join(part.text for part in result.content if part.type == "text")
        if result.is_error:
            raise WorkError(f"{name}: {(text.strip().splitlines() or ['it failed'])[0]}")
        return text

    def close(self) -> None:
        if self._process is not None:
            ended(self._process)


def arguments(brief: Brief, schema: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a tool, with the fields of a Brief filled in, as numbers where the tool's schema wants them.

    Raises:
        WorkError: a number is wanted and the value is not one.
    """
    wanted = schema.get("properties") or {}
    found: dict[str, Any] = {}
    for name, value in brief.role.arguments.items():
        kind = (wanted.get(name) or {}).get("type")
        found[name] = value.format(**fields_of(brief)) if isinstance(value, str) else value
        if isinstance(value, str) and kind in ("integer", "number"):
            try:
                found[name] = int(found[name]) if kind == "integer" else float(found[name])
            except ValueError:
                raise WorkError(f"its argument {name} is to be a number, not {found[name][:40]!r}") from None
    return found


def _first_of(error: BaseException) -> BaseException:
    """The first WorkError in an exception group, or else its first error."""
    while isinstance(error, BaseExceptionGroup):
        inner: Iterable[BaseException] = error.exceptions
        error = next((e for e in inner if isinstance(_first_of(e), WorkError)), next(iter(inner)))
    return error
