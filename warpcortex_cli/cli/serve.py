"""`warpcortex serve`: an OpenAI-compatible server."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from warpcortex_cli.cli.gate import stored_calibration
from warpcortex_cli.cli.output import (
    AUTO,
    AdapterOption,
    AllowProgramOption,
    DeviceOption,
    DtypeOption,
    ModelOption,
    NoStreamsOption,
    ProfileOption,
    QuantizeOption,
    note,
    open_prism,
    put,
    with_adapters,
)
from warpcortex_cli.errors import UsageError
from warpcortex_cli.prism.options import LoadOptions
from warpcortex_cli.process import importing
from warpcortex_cli.serve.limits import Limits

_USUAL = Limits()


def serve(
    host: Annotated[str, typer.Option("--host", help="Another one than this machine needs an API key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any free one.")] = 8080,
    api_key: Annotated[
        str | None,
        typer.Option("--api-key", envvar="WARPCORTEX_API_KEY", help="What clients must send.", show_default=False),
    ] = None,
    model: ModelOption = None,
    profile: ProfileOption = None,
    device: DeviceOption = AUTO,
    dtype: DtypeOption = AUTO,
    quantize: QuantizeOption = AUTO,
    adapter: AdapterOption = None,
    no_streams: NoStreamsOption = False,
    allow_program: AllowProgramOption = None,
    replies: Annotated[
        int, typer.Option("--replies", min=1, max=4096, help="Replies written at the same time; others wait.")
    ] = _USUAL.replies,
    waiting: Annotated[
        int, typer.Option("--waiting", min=0, max=100_000, help="Requests that may wait; others are turned away.")
    ] = _USUAL.waiting,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=1, max=1_000_000, help="Longest reply that may be asked for.")
    ] = _USUAL.tokens,
    max_prompt: Annotated[
        int | None,
        typer.Option(
            "--max-prompt", min=1, help="Longest prompt, in tokens. Default: the context.", show_default=False
        ),
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=1, help="Longest time of a reply.")] = _USUAL.seconds,
    kept: Annotated[
        int, typer.Option("--kept", min=0, metavar="MIB", help="KV of conversations kept between replies.")
    ] = _USUAL.kept >> 20,
) -> None:
    """Serve the model to other programs, with OpenAI's API. Many conversations are written in one forward."""
    try:
        with importing():
            from warpcortex_cli.serve.app import app_of  # noqa: F401
            from warpcortex_cli.serve.server import bound, check_host, is_local, run
    except ImportError as error:
        said = f"the server needs {error.name}, which is not installed."
        raise UsageError(said, "Run: pip install 'warpcortex[serve]'") from None
    check_host(host, api_key)
    listening = bound(host, port)  # before seconds of loading
    with listening:
        prism, settings = open_prism(model=model, profile=profile, options=LoadOptions(device, dtype, quantize))
        settings = with_adapters(settings, adapter)
        from warpcortex_cli.engine.river import check_context
        from warpcortex_cli.serve.loop import Loop
        from warpcortex_cli.serve.service import Service

        check_context(prism, settings)
        limits = replace(
            _USUAL, replies=replies, waiting=waiting, tokens=max_tokens, prompt=max_prompt, seconds=seconds,
            kept=kept << 20,
        )  # fmt: skip
        loop = Loop(
            prism, settings, limits, streams=not no_streams, programs=tuple(allow_program or ()),
            calibration=stored_calibration(prism),
        )  # fmt: skip
        place = listening.getsockname()
        shown = f"[{place[0]}]" if ":" in place[0] else place[0]
        put(f"http://{shown}:{place[1]}")
        note("that is a page to chat; programs take /v1 behind it. Ctrl-C ends the server.")
        run(Service(loop, api_key, local=is_local(host)), listening)
