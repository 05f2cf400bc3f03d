"""`warpcortex profiles`: list, show, validate, schema."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from warpcortex_cli.cli.output import (
    AUTO,
    DeviceOption,
    DtypeOption,
    QuantizeOption,
    SeedOption,
    open_prism,
    print_json,
    progress_bar,
    put,
    report,
    stderr_console,
    stdout_console,
)
from warpcortex_cli.errors import UsageError, WarpError
from warpcortex_cli.prism.options import LoadOptions
from warpcortex_cli.process import importing
from warpcortex_cli.ui.safe import one_line

app = typer.Typer(help="Look at profiles, and check your own.", no_args_is_help=True)

NamesArgument = Annotated[list[str], typer.Argument(metavar="NAME|FILE...", show_default=False)]


@app.command("list")
def list_profiles(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """List the shipped profiles."""
    from warpcortex_cli.profile import load_profile, profile_path, shipped_profiles

    found = [(load_profile(name), profile_path(name)) for name in shipped_profiles()]
    if as_json:
        print_json(
            [
                {
                    "name": p.name,
                    "description": p.description,
                    "model": p.model,
                    "roles": [r.name for r in p.roles],
                    "file": str(path),
                }
                for p, path in found
            ]
        )
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("profile", "model", "roles"):
        table.add_column(heading, no_wrap=True)
    table.add_column("description", ratio=1)
    for profile, _ in found:
        roles = ", ".join(role.name for role in profile.roles)
        table.add_row(profile.name, Text(profile.model), roles, Text(profile.description))
    stdout_console().print(table)


@app.command()
def show(name: Annotated[str, typer.Argument(metavar="NAME|FILE", show_default=False)]) -> None:
    """Print a profile's YAML, as a start for your own."""
    from warpcortex_cli.profile import profile_path

    path = profile_path(name)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{one_line(str(path))} cannot be read: {error}.", "Give a text file in UTF-8.") from error
    put(text, end="")


@app.command()
def validate(names: NamesArgument) -> None:
    """Check profiles: every mistake is reported with file and line."""
    from warpcortex_cli.profile import load_profile

    wrong = 0
    for name in names:
        try:
            profile = load_profile(name)
        except WarpError as error:
            report(error)
            wrong = max(wrong, error.exit_code)
        else:
            roles = f"{len(profile.roles)} role{'s' * (len(profile.roles) != 1)}"
            put(f"{one_line(name)}: valid, profile {one_line(profile.name)} with {roles}")
    raise typer.Exit(wrong)


@app.command()
def check(
    name: Annotated[str, typer.Argument(metavar="NAME|FILE", show_default=False)],
    model: Annotated[str, typer.Option("--model", "-m", metavar="MODEL")] = "smollm2",
    seed: SeedOption = 2040,
    device: DeviceOption = AUTO,
    dtype: DtypeOption = AUTO,
    quantize: QuantizeOption = AUTO,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Does a profile help your model? Twenty questions with it and without, about a minute."""
    prism, profile = open_prism(model=model, profile=name, options=LoadOptions(device, dtype, quantize))
    with importing():
        from warpcortex_cli.eval import check as evaluation
    with progress_bar(stderr_console()) as show:
        found = evaluation.check(prism, profile, seed, lambda done, total: show("asking", done, total))
    if as_json:
        print_json(evaluation.as_json(found, prism.name, profile.name, seed))
        return
    put(
        f"{found.questions} questions: {found.right_off} right by the River alone, {found.right_on} with {profile.name}"
    )
    put(f"helped {found.helped}, harmed {found.harmed}; {found.started} Streams, {found.needless} of them needless")
    put(f"{found.sentence} ({found.seconds:.0f} s)")


@app.command()
def schema() -> None:
    """Print the JSON schema of profiles, for editors."""
    from warpcortex_cli.profile import profile_schema

    print_json(profile_schema())
