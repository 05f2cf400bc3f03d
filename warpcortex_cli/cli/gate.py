"""`warpcortex gate`: calibrates the Gate for a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from warpcortex_cli.cli.output import (
    AUTO,
    DeviceOption,
    DtypeOption,
    ModelOption,
    ProfileOption,
    QuantizeOption,
    note,
    open_prism,
    print_json,
    progress_bar,
    put,
    stderr_console,
)
from warpcortex_cli.errors import RunError
from warpcortex_cli.prism.options import LoadOptions
from warpcortex_cli.ui.safe import one_line

if TYPE_CHECKING:
    from warpcortex_cli.engine.calibration import Calibration
    from warpcortex_cli.prism.prism import Prism

LEAST_AREA = 0.6  # a score that separates worse must not reject anything
app = typer.Typer(help="Calibrate the Gate for a model. Without it, defaults work.", no_args_is_help=True)


@app.command("calibrate")
def calibrate(
    n: Annotated[int, typer.Option("--n", min=1, help="Conversations to learn from.")] = 60,
    notes: Annotated[int, typer.Option("--notes", min=4, max=100, help="Notes in each of them.")] = 12,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the conversations.")] = 3001,
    model: ModelOption = None,
    profile: ProfileOption = None,
    device: DeviceOption = AUTO,
    dtype: DtypeOption = AUTO,
    quantize: QuantizeOption = AUTO,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure how unrelated thoughts score with a model, and the best threshold. `chat` and `ask` use both."""
    from warpcortex_cli.engine.calibration import path_for
    from warpcortex_cli.eval.calibrate import calibrate as measure

    prism, settings = open_prism(model=model, profile=profile, options=LoadOptions(device, dtype, quantize))
    with progress_bar(stderr_console()) as show:
        found = measure(prism, settings, n, notes, seed, lambda done, total: show("listening", done, total))
    if found is None:
        raise RunError(
            f"{prism.name} had too few thoughts that were right in {n} conversations.",
            "Give a larger --n, or a profile whose triggers this model knows; the Gate's defaults stay in use.",
        )
    if found.area < LEAST_AREA:
        raise RunError(
            f"for {prism.name} the Gate's score does not tell good thoughts from bad ones (area {found.area:.2f}).",
            "Nothing was kept; the defaults stay in use. `/gate 0` lets everything pass.",
        )
    path = path_for(prism)
    try:
        found.save(path)
    except OSError as error:
        raise RunError(
            f"the calibration could not be written to {path}: {error.strerror or error}.", "Make that folder writable."
        ) from error
    if as_json:
        print_json({"schema_version": 1, "model": prism.name, "path": str(path), "seed": seed, **_figures(found)})
        return
    put(f"{_words(prism, found)}\nkept in {path}")
    if "threshold" in settings.gate.model_fields_set:
        note(
            f"The profile {settings.name} sets a threshold of its own, {settings.gate.threshold:g}, which goes before "
            "this one; thoughts are scored as measured."
        )


@app.command("show")
def show(
    model: ModelOption = None,
    device: DeviceOption = AUTO,
    dtype: DtypeOption = AUTO,
    quantize: QuantizeOption = AUTO,
) -> None:
    """Print a model's stored calibration."""
    prism, _ = open_prism(model=model, profile=None, options=LoadOptions(device, dtype, quantize))
    found = stored_calibration(prism)
    known = f"{prism.name} has no calibration of its own; the Gate's defaults are used."
    put(known if found is None else _words(prism, found))


@app.command("forget")
def forget(
    model: ModelOption = None,
    device: DeviceOption = AUTO,
    dtype: DtypeOption = AUTO,
    quantize: QuantizeOption = AUTO,
) -> None:
    """Delete a model's stored calibration."""
    from warpcortex_cli.engine.calibration import path_for

    prism, _ = open_prism(model=model, profile=None, options=LoadOptions(device, dtype, quantize))
    path = path_for(prism)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"{path} could not be deleted: {error.strerror or error}.", "Delete it yourself.") from error
    put(f"{prism.name} has no calibration of its own now.")


def stored_calibration(prism: Prism) -> Calibration | None:
    """This model's calibration, or None. A damaged one is reported and not used."""
    from warpcortex_cli.engine.calibration import path_for, stored

    try:
        return stored(prism)
    except ValueError as error:
        words = f"the Gate's calibration in {path_for(prism)} cannot be read ({one_line(str(error), 120)}); "
        stderr_console().print(Text(f"{words}run `warpcortex gate calibrate` again. Defaults are used.", style="dim"))
        return None


def _words(prism: Prism, found: Calibration) -> str:
    return f"{prism.name}: threshold {found.threshold:.3f} out of {found.thoughts} thoughts, area {found.area:.3f}"


def _figures(found: Calibration) -> dict[str, float]:
    return {"threshold": found.threshold, "area": found.area, "thoughts": found.thoughts}
