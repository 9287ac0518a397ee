"""`maskstream sources`: which there are, and what one gives."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Look at sources of pictures.", no_args_is_help=True)


@app.command("list")
def list_kinds() -> None:
    """Show the kinds of source that a configuration may name."""
    from pipeline.source_kinds import show_kinds

    show_kinds()


@app.command()
def probe(
    target: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="An address (rtsp://, igtl://, tcp:// ...), /dev/videoN, a file, a folder, "
            "a configuration, or a kind.",
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the source's section."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="Read for so long.")] = 3.0,
    wait: Annotated[
        float, typer.Option(min=0.1, max=3600, help="Give up after so long without a picture.")
    ] = 10.0,
    picture: Annotated[
        Path | None, typer.Option(help="Write the last picture there, as PNG.")
    ] = None,
) -> None:
    """Open a source, read for a few seconds, and tell size, rate, times and what is wrong."""
    from pipeline.probe import probe as look

    raise typer.Exit(look(target, overrides or (), seconds, wait, picture))
