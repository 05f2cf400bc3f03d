"""The endpoints, who may call them, and how errors look."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from warpcortex_cli import __version__
from warpcortex_cli.errors import WarpError
from warpcortex_cli.serve.chat import chat_completions
from warpcortex_cli.serve.completions import completions
from warpcortex_cli.serve.faults import Fault, fault_of
from warpcortex_cli.serve.page import page
from warpcortex_cli.serve.reading import GoneError
from warpcortex_cli.serve.responses import responses
from warpcortex_cli.serve.service import Service
from warpcortex_cli.serve.status import health, metrics, models
from warpcortex_cli.serve.typed import typed_events
from warpcortex_cli.serve.wire import ChatRequest, CompletionRequest, ResponseRequest

_LOCAL = ("localhost", "127.0.0.1", "::1")
_OPEN = ("/", "/health")  # paths that need no key: they tell nothing of anybody


def app_of(service: Service) -> FastAPI:
    """The server as an ASGI application. Its thread runs while the application does."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        service.loop.start()
        yield
        service.loop.stop()

    app = FastAPI(title="warpcortex", version=__version__, lifespan=life, docs_url=None, redoc_url=None)
    app.add_middleware(_Door, service=service)
    _say_errors(app)

    text, headers = page()

    @app.get("/", include_in_schema=False)
    async def get_page() -> Response:
        return HTMLResponse(text, headers=headers)

    @app.get("/health")
    async def get_health() -> Response:
        status, said = health(service)
        return JSONResponse(said, status)

    @app.get("/metrics")
    async def get_metrics() -> Response:
        return PlainTextResponse(metrics(service), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    async def get_models() -> Response:
        return JSONResponse(models(service))

    @app.get("/v1/models/{name:path}")
    async def get_model(name: str) -> Response:
        service.check_model(name)
        return JSONResponse(models(service)["data"][0])

    @app.post("/v1/chat/completions")
    async def post_chat(body: ChatRequest, request: Request) -> Response:
        return await chat_completions(service, body, request)

    @app.post("/v1/completions")
    async def post_completions(body: CompletionRequest, request: Request) -> Response:
        return await completions(service, body, request)

    @app.post("/v1/responses")
    async def post_responses(body: ResponseRequest, request: Request) -> Response:
        return await responses(service, body, request)

    @app.post("/v1/warpcortex/events")
    async def post_events(body: ChatRequest, request: Request) -> Response:
        """The same as Chat Completions, answered by the engine's own typed events."""
        return await typed_events(service, body, request)

    return app


def _say_errors(app: FastAPI) -> None:
    """Every error is one of OpenAI's error objects."""

    def said(fault: Fault) -> Response:
        headers = {"retry-after": "5"} if fault.status == 429 else None
        return JSONResponse({"error": fault.body}, fault.status, headers)

    @app.exception_handler(WarpError)
    async def failed(_: Request, error: WarpError) -> Response:
        return said(fault_of(error))

    @app.exception_handler(RequestValidationError)
    async def wrong(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "body")
        words = first["msg"] if first["type"] != "json_invalid" else "this is no JSON"
        return said(Fault(400, f"{place + ': ' if place else ''}{words}"[:400], param=place[:200] or None))

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        return said(Fault(error.status_code, f"{error.detail}."))

    @app.exception_handler(GoneError)
    async def gone(_: Request, __: GoneError) -> Response:
        return Response(status_code=499)  # nobody reads it

    @app.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> Response:
        return said(Fault(500, f"internal error ({type(error).__name__}).", "server_error"))


class _Door:
    """Checks the key, where a browser says that the call comes from, and how long a body is."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        fault = self._refusal(scope["path"], headers)
        if fault is not None:
            await JSONResponse({"error": fault.body}, fault.status)(scope, receive, send)
            return
        await self._app(scope, self._bounded(receive), send)

    def _refusal(self, path: str, headers: dict[str, str]) -> Fault | None:
        origin, host = headers.get("origin"), headers.get("host", "")
        if origin is not None and origin.partition("://")[2] != host:  # another site's page, in a browser
            return Fault(403, "calls from pages of other sites are not served.")
        if self._service.local and urlsplit(f"//{host}").hostname not in _LOCAL:
            return Fault(403, "this server is for this machine alone.")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._service.limits.body:
            return Fault(413, f"a request has at most {self._service.limits.body} bytes.")
        key = self._service.key
        if key is not None and path not in _OPEN:
            given = headers.get("authorization", "").removeprefix("Bearer ").strip()
            if not secrets.compare_digest(given.encode(), key.encode()):
                return Fault(401, "the API key is missing or wrong.", code="invalid_api_key")
        return None

    def _bounded(self, receive: Receive) -> Callable[[], Awaitable[Message]]:
        """Bodies that come in pieces have no length beforehand."""
        left = self._service.limits.body

        async def bounded() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise HTTPException(413, f"a request has at most {self._service.limits.body} bytes")
            return message

        return bounded
