"""`maskstream models`: what there is, whether it works, and how to get it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Look at model files. Nothing is ever fetched during a run.", no_args_is_help=True
)


@app.command("list")
def list_models(
    configs: Annotated[
        list[str] | None, typer.Argument(metavar="[CONFIG]...", help="Default: what is shipped.")
    ] = None,
) -> None:
    """Show where models lie: path, size, licence, sha256."""
    from pipeline.models.listing import show

    raise typer.Exit(show(configs or ()))


@app.command()
def check(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="A shipped model, a folder, a weights file, or a configuration.",
        ),
    ] = "demo",
    device: Annotated[str, typer.Option(help="auto, cpu, or cuda:N.")] = "auto",
) -> None:
    """Hash the files, load them, run one frame; tell time, memory, and which file is broken."""
    from pipeline.models.checking import check as examine

    raise typer.Exit(examine(target, device))


@app.command()
def fetch(
    model_id: Annotated[str, typer.Argument(metavar="ID", help="Such as facebook/sam3.")],
    revision: Annotated[str, typer.Option(help="The commit: 40 hexadecimal digits.")],
    to: Annotated[Path, typer.Option(help="The folder to put it in.")],
    sha256: Annotated[
        list[str], typer.Option(metavar="[FILE=]DIGEST", help="Of the weights; repeatable.")
    ],
    file: Annotated[
        list[str] | None, typer.Option(help="Only this file; repeatable. Default: what is needed.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it.")] = False,
) -> None:
    """Fetch a model at one revision into a folder, if its digest is the one you give."""
    from pipeline.models.fetching import fetch as bring
    from pipeline.models.fetching import order_of

    raise typer.Exit(bring(order_of(model_id, revision, sha256, to, file or ()), consent=yes))
