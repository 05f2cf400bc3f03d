"""Many clients at once, good and bad ones: `python -m warpcortex_cli.lab.load -m smollm2 --clients 64 --seconds 600`.

Good clients hold conversations of a few turns. Their words hold a canary each, which no other client may ever read. Of
the others some hang up in the middle, break their request off, read slowly, send a prompt that is too long, or send
what is no request. Beside them the memory of the server is watched.

With `--peer LLAMA-SERVER --gguf FILE` the good clients alone are served by both programs in turn, from the same file.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import psutil
from rich.console import Console
from rich.table import Table

CHAT = "/v1/chat/completions"
_CANARY = re.compile(r"zq[0-9a-f]{6}")
_TURNS = ("Say the word {canary} twice.", "Name three fruits.", "What was the word?")
KINDS = {"talk": 70, "cancel": 8, "break off": 6, "read slowly": 4, "too long": 6, "no request": 6}  # in percent
_NO_REQUESTS = (
    b"{",
    b"[]",
    b'{"messages": 7}',
    b'{"messages": [{"role": "king", "content": "x"}]}',
    b'{"messages": [{"role": "user", "content": "x"}], "n": 1000000}',
    b'{"messages": [{"role": "user", "content": "x"}], "temperature": 1e999}',
    b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": -1}',
    b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}',
    b'{"messages": [{"role": "user", "content": "x"}], "response_format": {"type": "json_schema"}}',
    b"\x00" * 64,
    b"[" * 100_000,
)


@dataclass
class Seen:
    """What clients saw."""

    first: list[float] = field(default_factory=list)  # seconds to the first token
    between: list[float] = field(default_factory=list)  # seconds from one piece of text to the next
    tokens: int = 0
    done: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)  # what must not happen
    issued: set[str] = field(default_factory=set)
    leaked: int = 0

    def check(self, text: str, own: str) -> None:
        """Looks for canaries of others. A model may misspell its own."""
        self.leaked += len(self.issued.intersection(_CANARY.findall(text)) - {own})


@asynccontextmanager
async def posted(url: str, body: bytes, path: str = CHAT) -> AsyncIterator[tuple[int, asyncio.StreamReader]]:
    """A request on a connection of its own: the status, and what follows the headers."""
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port, limit=1 << 20)
    try:
        head = (
            f"POST {path} HTTP/1.1\r\nhost: {place.netloc}\r\nconnection: close\r\ncontent-type: application/json\r\n"
        )
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        status = int((await reader.readline()).split()[1])
        while (await reader.readline()).strip():
            pass
        yield status, reader
    finally:
        writer.close()


async def pieces(reader: asyncio.StreamReader) -> AsyncIterator[dict[str, Any]]:
    """The JSON of a stream's events."""
    while line := await reader.readline():
        if line.startswith(b"data: {"):
            yield json.loads(line[6:])


class Clients:
    """Some clients of one server.

    Args:
        most: tokens of a reply.
        kinds: how often each kind of client comes.
        long: words of a prompt that is too long.
    """

    def __init__(self, url: str, seed: int, most: int, kinds: dict[str, int], long: int = 20_000) -> None:
        self._url, self._seed, self._most, self._kinds, self._long = url, seed, most, kinds, long
        self.seen = Seen()

    async def run(self, clients: int, *, seconds: float = 0.0, rounds: int = 0) -> Seen:
        """Lets clients come again and again, for a time or a number of rounds."""
        end = time.monotonic() + seconds

        async def one(number: int) -> None:
            rng, turn = random.Random(self._seed * 100_003 + number), 0
            while turn < rounds or time.monotonic() < end:
                kind = rng.choices(list(self._kinds), list(self._kinds.values()))[0]
                try:
                    await getattr(self, f"_{kind.replace(' ', '_')}")(rng)
                    self.seen.done[kind] += 1
                except Exception as error:
                    self.seen.wrong[f"{kind}: {type(error).__name__} {str(error)[:60]}"] += 1
                turn += 1

        await asyncio.gather(*(one(number) for number in range(clients)))
        return self.seen

    def _body(self, messages: list[dict[str, str]], **more: Any) -> bytes:
        return json.dumps({"messages": messages, "max_tokens": self._most, "temperature": 0, **more}).encode()

    async def _talk(self, rng: random.Random) -> None:
        """A conversation that is sent whole with each turn."""
        canary = f"zq{rng.randrange(1 << 24):06x}"
        self.seen.issued.add(canary)
        talk: list[dict[str, str]] = [{"role": "system", "content": "You are a helpful assistant."}]
        for words in _TURNS[: rng.randint(1, len(_TURNS))]:
            talk.append({"role": "user", "content": words.format(canary=canary)})
            began = last = time.monotonic()
            said = ""
            body = self._body(talk, stream=True, stream_options={"include_usage": True})
            async with posted(self._url, body) as (status, reader):
                if status != 200:
                    raise ValueError(f"status {status}")
                async for piece in pieces(reader):
                    if "error" in piece:
                        raise ValueError(piece["error"]["message"])
                    self.seen.tokens += (piece.get("usage") or {}).get("completion_tokens", 0)
                    new = piece["choices"][0]["delta"].get("content") if piece["choices"] else ""
                    if new:
                        now = time.monotonic()
                        (self.seen.between if said else self.seen.first).append(now - (last if said else began))
                        last, said = now, said + new
            self.seen.check(said, canary)
            talk.append({"role": "assistant", "content": said.strip() or "."})

    async def _cancel(self, rng: random.Random) -> None:
        """Hangs up after a few pieces, or before the first."""
        left = rng.randrange(4)
        words = [{"role": "user", "content": "Tell me a long story about the sea."}]
        async with posted(self._url, self._body(words, stream=True)) as (_, reader):
            async for _ in pieces(reader):
                left -= 1
                if left <= 0:
                    return

    async def _break_off(self, rng: random.Random) -> None:
        """Closes in the middle of its request, or right after it, without a goodbye."""
        place = urlsplit(self._url)
        body = self._body([{"role": "user", "content": "Tell me a long story."}], n=2)
        head = f"POST {CHAT} HTTP/1.1\r\nhost: {place.netloc}\r\ncontent-type: application/json\r\n"
        whole = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
        _, writer = await asyncio.open_connection(place.hostname, place.port)
        writer.write(whole[: rng.choice((10, len(whole) // 2, len(whole)))])
        await asyncio.sleep(rng.random() * 0.3)
        wire = writer.get_extra_info("socket")
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
        writer.close()

    async def _read_slowly(self, rng: random.Random) -> None:
        """A few bytes now and then; gives up after a while."""
        words = [{"role": "user", "content": "Tell me a long story about a mill."}]
        async with posted(self._url, self._body(words, stream=True)) as (_, reader):
            for _ in range(rng.randint(5, 20)):
                if not await reader.read(64):
                    return
                await asyncio.sleep(0.2)

    async def _too_long(self, rng: random.Random) -> None:
        words = [{"role": "user", "content": "word " * self._long}]
        await self._refused(self._body(words))

    async def _no_request(self, rng: random.Random) -> None:
        await self._refused(rng.choice(_NO_REQUESTS))

    async def _refused(self, body: bytes) -> None:
        async with posted(self._url, body) as (status, reader):
            said = await reader.read()
            if not 400 <= status < 500 or b'"error"' not in said:
                raise ValueError(f"status {status}")


# -- servers ---------------------------------------------------------------------------------------------------


@contextmanager
def ours(model: str, more: list[str]) -> Iterator[tuple[str, psutil.Process]]:
    command = [sys.executable, "-m", "warpcortex_cli", "serve", "-m", model, "--port", "0", *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            if not url.startswith("http"):
                raise SystemExit("the server did not start; try the same with `warpcortex serve`.")
            _wait(url)
            yield url, psutil.Process(process.pid)
        finally:
            process.terminate()


@contextmanager
def peer(program: str, file: str, clients: int, context: int) -> Iterator[tuple[str, psutil.Process]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cores = str(len(os.sched_getaffinity(0)))
    command = [
        program, "-m", file, "--port", str(port), "--parallel", str(clients), "-c", str(clients * context), "-t", cores,
        "-tb", cores,
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(url)
            yield url, psutil.Process(process.pid)
        finally:
            process.terminate()


def _wait(url: str) -> None:
    import urllib.request

    for _ in range(1200):
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{url}/health", timeout=5)
            return
        time.sleep(0.1)
    raise SystemExit("the server did not answer in two minutes.")


class Memory:
    """RSS of a server, twice a second."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self.mib: list[float] = []

    async def watch(self) -> None:
        while True:
            with contextlib.suppress(psutil.Error):
                self.mib.append(self._process.memory_info().rss / 2**20)
            await asyncio.sleep(0.5)

    def fifth(self, number: int) -> float:
        """The mean of one fifth of the time, from 0."""
        size = max(1, len(self.mib) // 5)
        return statistics.mean(self.mib[number * size : (number + 1) * size] or self.mib or [0.0])


async def measured(
    url: str, process: psutil.Process, args: argparse.Namespace, kinds: dict[str, int]
) -> tuple[Seen, Memory, float, str]:
    memory, clients = Memory(process), Clients(url, args.seed, args.max_tokens, kinds)
    watching = asyncio.create_task(memory.watch())
    began = time.monotonic()
    seen = await clients.run(args.clients, seconds=args.seconds)
    seconds = time.monotonic() - began
    watching.cancel()
    return seen, memory, seconds, await _left(url)


async def _left(url: str) -> str:
    """What the server still holds once all clients are gone."""
    place, said = urlsplit(url), ""
    for _ in range(100):
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        writer.write(f"GET /health HTTP/1.1\r\nhost: {place.netloc}\r\nconnection: close\r\n\r\n".encode())
        body = (await reader.read()).partition(b"\r\n\r\n")[2]
        writer.close()
        found = json.loads(body)
        said = f"{found.get('writing', 0)} writing, {found.get('waiting', 0)} waiting"
        if not found.get("writing") and not found.get("waiting"):
            break
        await asyncio.sleep(0.1)
    return said


def _row(name: str, seen: Seen, memory: Memory, seconds: float) -> tuple[str, ...]:
    def spread(values: list[float], unit: float, form: str) -> str:
        ordered = sorted(values) or [0.0]
        middle, late = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.95)]
        return f"{middle * unit:{form}} / {late * unit:{form}}"

    return (
        name,
        f"{sum(seen.done.values()):,}",
        f"{seen.tokens / seconds:.1f}",
        spread(seen.first, 1, ".2f"),
        spread(seen.between, 1000, ".0f"),
        f"{memory.fifth(1):,.0f} / {memory.fifth(4):,.0f}",
        str(seen.leaked),
        str(sum(seen.wrong.values())),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="pocket")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--good", action="store_true", help="good clients only")
    parser.add_argument("--peer", help="llama-server, to serve the same good clients")
    parser.add_argument("--gguf", help="its model file")
    parser.add_argument("--context", type=int, default=512, help="tokens of a conversation there")
    parser.add_argument("more", nargs="*", help="options of `warpcortex serve`, behind --")
    args = parser.parse_args()
    kinds = {"talk": 1} if args.good or args.peer else KINDS
    table = Table(
        "server", "requests", "tokens/s", "first token s\n50 / 95 %", "between ms\n50 / 95 %",
        "RSS MiB\n2nd / last 5th", "leaked", "wrong",
    )  # fmt: skip
    console = Console(width=120)
    with ours(args.model, args.more) as (url, process):
        seen, memory, seconds, left = asyncio.run(measured(url, process, args, kinds))
    table.add_row(*_row("warpcortex", seen, memory, seconds))
    if args.peer:
        with peer(args.peer, args.gguf, args.clients, args.context) as (url, process):
            theirs, watched, took, _ = asyncio.run(measured(url, process, args, kinds))
        table.add_row(*_row("llama-server", theirs, watched, took))
    console.print(table)
    print(f"{args.clients} clients, {seconds:.0f} s, replies of at most {args.max_tokens} tokens; afterwards {left}")
    print("; ".join(f"{kind}: {count:,}" for kind, count in sorted(seen.done.items())))
    for what, count in seen.wrong.most_common(10):
        print(f"wrong, {count} times: {what}")


if __name__ == "__main__":
    main()
