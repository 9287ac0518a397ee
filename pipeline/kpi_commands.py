"""`maskstream kpi`: what a run's KPI log tells."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Read the KPI log of a run.", no_args_is_help=True)

Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or its kpi.jsonl.")]


@app.command()
def report(
    run: Run,
    out: Annotated[
        Path | None, typer.Option(help="The page's file (default: report.html beside the log).")
    ] = None,
) -> None:
    """Write one HTML page about a run: latency, stages, drops, objects, device, slowest frames."""
    from pipeline.kpi_report import write_report

    raise typer.Exit(write_report(run, out))


@app.command()
def tail(
    run: Run,
    as_json: Annotated[bool, typer.Option("--json", help="The lines as they are logged.")] = False,
    event: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this event; may be repeated.")
    ] = None,
    last: Annotated[
        int, typer.Option(min=0, help="Begin with so many lines that are already there.")
    ] = 10,
) -> None:
    """Follow the log of a live run, one line an event, until it finishes or Ctrl-C."""
    from pipeline.kpi_tail import follow

    raise typer.Exit(follow(run, as_json, tuple(event or ()), last))


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="The run to compare with.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The run that may have changed.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Tell what changed from run A to run B, and what of it is more than noise."""
    from pipeline.kpi_compare import compare as tell

    raise typer.Exit(tell(a, b, as_json))
