"""`maskstream record`: what is in a recording, and whether it is whole."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Look at a recording.", no_args_is_help=True)

Recorded = Annotated[
    Path,
    typer.Argument(
        metavar="PATH",
        help="A recording, or the run, or results of a clip, that hold it.",
    ),
]


class ExportLayout(StrEnum):
    """Layouts that a recording can be exported to."""

    NPY = "npy"


@app.command()
def verify(
    path: Recorded,
    closed: Annotated[
        bool, typer.Option("--closed", help="Fail also where the recording has no end.")
    ] = False,
) -> None:
    """Read every byte; a line for each flaw, and exit code 1 where there is one."""
    from pipeline.signals import verdict

    with verdict(f"{path} was not read to its end"):
        from pipeline.record_report import show_verdict

        raise typer.Exit(show_verdict(path, closed))


@app.command()
def info(
    path: Recorded,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Tell what was recorded: of which run, which frames, how, how much."""
    from pipeline.record_report import show_summary

    raise typer.Exit(show_summary(path, as_json))


@app.command()
def export(
    path: Recorded,
    out: Annotated[Path, typer.Option(help="Folder to write predictions/SESSION/ to.")],
    layout: Annotated[
        ExportLayout, typer.Option(help="npy: frame_%05d.npy and frame_%05d_obj_ids.npy.")
    ] = ExportLayout.NPY,
) -> None:
    """Write the logits as numpy files at video resolution, float32 [N, 1, H, W] a frame."""
    from pipeline.signals import verdict

    with verdict(f"not all of {path} was exported"):
        from pipeline.record_export import export as write

        raise typer.Exit(write(path, out))
