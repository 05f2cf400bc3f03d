"""Who comes in, how much they may send, how slowly they may read; and what the server tells of itself."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.serve.conftest import LIMITS, QUESTION, Running, running
from warpcortex_cli.errors import UsageError
from warpcortex_cli.serve.server import bound, check_host


def call(server: Running, path: str, body: Any = None, headers: Mapping[str, str] = {}) -> tuple[int, str]:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body)
    connection.request("GET" if body is None else "POST", path, data, {"content-type": "application/json", **headers})
    found = connection.getresponse()
    text = found.read().decode()
    connection.close()
    return found.status, text


ASKED = {"model": "pocket", "messages": [{"role": "user", "content": QUESTION}]}


def test_typed_events_come_as_they_are(server: Running) -> None:
    status, text = call(server, "/v1/warpcortex/events", ASKED)
    told = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
    events = [e for e in told if e["event"] != "reply"]
    assert status == 200 and [e["seq"] for e in events] == list(range(len(events)))
    names = [e["event"] for e in events]
    assert names[0] == "river_started" and names[-1] == "river_finished" and "thought_injected" in names
    assert told[-1]["content"] == "Adding them up.\nIn total: 133." and told[-1]["usage"]["completion_tokens"] > 10
    assert next(e for e in events if e["event"] == "stream_ended")["thought"] == "47 + 86 = 133"


def test_it_tells_how_it_is(server: Running) -> None:
    status, text = call(server, "/health")
    assert status == 200 and json.loads(text)["status"] == "ok"
    status, text = call(server, "/metrics")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert status == 200 and all(float(line.split()[1]) >= 0 and line.startswith("warpcortex_") for line in lines)
    assert json.loads(call(server, "/v1/models")[1])["data"][0]["id"] == "pocket"
    status, text = call(server, "/")
    assert status == 200 and "<script" in text


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/v1/chat/completions", b"{", {}, 400),
        ("/v1/chat/completions", b"\xff\xfe", {}, 400),
        ("/v1/nothing", None, {}, 404),
        ("/v1/chat/completions", None, {}, 405),
        ("/v1/models", None, {"origin": "https://evil.example"}, 403),
        ("/v1/models", None, {"host": "evil.example"}, 403),
        ("/v1/completions", {"prompt": ""}, {}, 400),
        ("/v1/completions", {"prompt": [99999999]}, {}, 400),
        ("/v1/responses", {"input": [{"type": "image"}]}, {}, 400),
    ],
)
def test_what_does_not_belong_here_is_refused(
    server: Running, path: str, body: Any, headers: dict[str, str], status: int
) -> None:
    found, text = call(server, path, body, headers)
    assert found == status and set(json.loads(text)["error"]) == {"message", "type", "param", "code"}


def test_a_body_without_an_end_is_cut(server: Running) -> None:
    """Its length is not told beforehand."""
    place = urlsplit(server.url)
    with socket.create_connection((place.hostname, place.port), timeout=30) as wire:  # type: ignore[arg-type]
        wire.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nhost: {place.netloc}\r\n".encode())
        wire.sendall(b"content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(5):
            wire.sendall(b"4000\r\n" + b" " * 0x4000 + b"\r\n")
        assert b" 413 " in wire.recv(64)


def test_who_does_not_read_holds_nobody(server: Running) -> None:
    """Their replies pause while another one's is written; they end when the connection does."""
    place = urlsplit(server.url)
    many = {**ASKED, "stream": True, "logprobs": True, "top_logprobs": 20, "n": 4, "max_tokens": 64}
    many["logit_bias"] = {"1": -100}  # it does not end by itself
    body = json.dumps(many).encode()
    head = f"POST /v1/warpcortex/events HTTP/1.1\r\nhost: {place.netloc}\r\ncontent-type: application/json\r\n"
    wire = socket.socket()
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    wire.connect((place.hostname, place.port))
    wire.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    status, text = call(server, "/v1/chat/completions", ASKED)
    wire.close()
    assert status == 200 and "133" in text


def test_a_key_is_asked_for_where_there_is_one(pocket) -> None:
    with running(*pocket, LIMITS, key="secret") as server:
        assert call(server, "/v1/models")[0] == 401 and call(server, "/health")[0] == 200
        assert call(server, "/v1/models", headers={"authorization": "Bearer secre"})[0] == 401
        assert call(server, "/v1/models", headers={"authorization": "Bearer secret"})[0] == 200


def test_other_machines_take_a_key_and_a_port_is_taken_once() -> None:
    with pytest.raises(UsageError, match="takes an API key"):
        check_host("0.0.0.0", None)
    check_host("0.0.0.0", "secret")
    check_host("::1", None)
    with bound("127.0.0.1", 0) as first, pytest.raises(UsageError, match="cannot be listened at"):
        bound("127.0.0.1", first.getsockname()[1])
