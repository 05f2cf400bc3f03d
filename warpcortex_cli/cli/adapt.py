"""`warpcortex adapt`: trains a LoRA adapter for the River or a role from conversations."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from warpcortex_cli.cli.output import (
    AUTO,
    DeviceOption,
    DtypeOption,
    ModelOption,
    choose,
    note,
    print_json,
    progress_bar,
    put,
    stderr_console,
    stopped,
)
from warpcortex_cli.errors import RunError, UsageError
from warpcortex_cli.prism.options import LoadOptions
from warpcortex_cli.ui.panels import size
from warpcortex_cli.ui.safe import one_line

if TYPE_CHECKING:
    from warpcortex_cli.adapt.train import Step


def adapt(
    profile: Annotated[str, typer.Argument(metavar="PROFILE", help="A shipped profile or a YAML file.")],
    data: Annotated[Path, typer.Option("--data", metavar="FILE", help="Conversations: JSON lines of chat messages.")],
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FOLDER", help="Where the adapter goes. A stopped training resumes from there."),
    ],
    role: Annotated[str, typer.Option("--role", metavar="NAME", help="Whose adapter: river, or a role.")] = "river",
    model: ModelOption = None,
    epochs: Annotated[float, typer.Option("--epochs", min=0.01, help="Passes over the conversations.")] = 3.0,
    minutes: Annotated[
        float | None,
        typer.Option("--minutes", min=0.01, help="Stop after so many minutes if that comes first.", show_default=False),
    ] = None,
    rank: Annotated[int, typer.Option("--rank", min=1, max=256, help="Rank of the adapter.")] = 8,
    targets: Annotated[
        str, typer.Option("--targets", metavar="LAYERS", help="Linear layers, such as q_proj,v_proj, or all-linear.")
    ] = "all-linear",
    rate: Annotated[float, typer.Option("--rate", min=1e-7, max=1.0, help="The highest learning rate.")] = 1e-3,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Tokens in a step.")] = 1024,
    longest: Annotated[int, typer.Option("--longest", min=8, help="Leave out conversations of more tokens.")] = 1024,
    held_out: Annotated[
        float, typer.Option("--held-out", min=0.0, max=0.5, help="Share of conversations to test on, not to learn.")
    ] = 0.05,
    patience: Annotated[
        int,
        typer.Option("--patience", min=1, help="Stop after so many held-out checks, four an epoch, without a gain."),
    ] = 4,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of first weights and order.")] = 0,
    device: DeviceOption = AUTO,
    dtype: DtypeOption = AUTO,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    r"""Train a LoRA adapter for the River or a role of PROFILE from conversations that show how it should write.

    Needs `pip install 'warpcortex\[adapt]'`. Only what the assistant says is learnt.
    """
    try:
        import peft  # noqa: F401
    except ImportError:
        raise UsageError("training needs peft, which is not installed.", "pip install 'warpcortex[adapt]'") from None
    from warpcortex_cli.adapt.conversations import Reading, end_of, read_conversations
    from warpcortex_cli.adapt.run import card, identity, load_to_train, prepared, role_of, write_adapter
    from warpcortex_cli.adapt.train import Settings, Training
    from warpcortex_cli.prism.chat_format import ChatFormat

    source, found = choose(model, profile)
    of_role = role_of(found, role)
    said = read_conversations(data)
    settings = Settings(
        rank=rank,
        targets=targets if targets == "all-linear" else tuple(targets.split(",")),
        alpha=2 * rank,
        rate=rate,
        epochs=epochs,
        minutes=math.inf if minutes is None else minutes,
        batch_tokens=batch,
        patience=patience,
        seed=seed,
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{out} cannot be made: {error.strerror}.", "Name another --out.") from error
    loaded, tokenizer, kind = load_to_train(source, LoadOptions(device, dtype, "none"))
    chat = ChatFormat(tokenizer)
    reading = Reading(chat, found, end_of(chat, tokenizer), of_role)
    parts = prepared(said, reading, longest, held_out, seed)
    of = identity(loaded, [*parts.learnt, *parts.held_out], settings, role)
    training = Training(loaded, settings, parts.learnt, parts.held_out, out, of)
    learnt = sum(sum(one.learnt) for one in parts.learnt)
    note(
        f"{source.name} in {kind}, {role} of {found.name}: {len(parts.learnt):,} conversations with {learnt:,} tokens "
        f"to learn, {len(parts.held_out)} held out, {training.parameters:,} parameters, {training.steps:,} steps."
    )
    if parts.left_out:
        note(f"{parts.left_out} conversations are longer than {longest} tokens and are left out.")
    if training.progress.step:
        note(f"resuming after step {training.progress.step:,}.")
    try:
        with progress_bar(stderr_console()) as show:
            for step in training.run():
                show(f"loss {step.loss:.2f}", step.number, step.of)
                if step.held_out is not None:
                    note(f"step {step.number:,} of {step.of:,}: {_held_out(step.held_out)}, {_speed(step)}.")
    except KeyboardInterrupt:
        stopped("the same command resumes from there.")
        return
    progress = training.progress
    if progress.over:
        note(f"ended early: the held-out loss did not fall in {patience} checks.")
    path = write_adapter(training, out, source.name, card(training, source.name, found.name, role, learnt))
    if as_json:
        print_json(
            {
                "schema_version": 1,
                "path": str(path.parent),
                "bytes": path.stat().st_size,
                "model": source.name,
                "role": role,
                "conversations": len(parts.learnt),
                "left_out": parts.left_out,
                "steps": progress.step,
                "best": progress.best,
                "held_out": [{"step": step, "loss": loss} for step, loss in progress.losses],
                "seconds": progress.seconds,
            }
        )
        return
    best = f", held out {progress.least:.4f} nats a token" if progress.losses else ""
    put(f"{one_line(str(out))}: {size(path.stat().st_size)}, of step {progress.best:,}{best}.")
    put(f"Use it with: warpcortex chat -m {source.name} -p {profile} --adapter {role}={one_line(str(out))}")


def _held_out(loss: float) -> str:
    return f"held out {loss:.4f} nats a token"


def _speed(step: Step) -> str:
    return f"{step.tokens / max(step.seconds, 1e-9):.0f} tokens/s"
