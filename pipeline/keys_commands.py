"""`maskstream keys`: who may connect to a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Make CURVE keys for runs and their clients.", no_args_is_help=True)


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Whose keys: letters, digits and ._-")],
    folder: Annotated[Path, typer.Option(help="Where to put them.")] = Path("keys"),
) -> None:
    """Make a key pair: NAME.key for the others, NAME.key_secret for its owner alone."""
    from stages.curve_keys import new_keys

    public, secret = new_keys(name, folder)
    typer.echo(f"public: {public}\nsecret: {secret}")


OwnKey = Annotated[
    Path | None, typer.Option("--key", metavar="FILE", help="Your own .key_secret file.")
]
ServerKey = Annotated[
    Path | None, typer.Option("--server-key", metavar="FILE", help="The run's .key file.")
]
