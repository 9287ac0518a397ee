"""The commands that play a recording: `replay` and `rerun`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

Run = Annotated[Path, typer.Argument(help="A recording, or the folder of the run that holds it.")]


def replay(
    run: Run,
    endpoint: Annotated[str, typer.Option(help="Where to publish.")] = "tcp://127.0.0.1:5556",
    speed: Annotated[
        float, typer.Option(min=0, help="Times its own; 0: as fast as subscribers take it.")
    ] = 1.0,
    loop: Annotated[bool, typer.Option("--loop", help="Again and again, until Ctrl-C.")] = False,
    wait_subscribers: Annotated[
        int, typer.Option(min=0, help="Start when so many subscribers are connected.")
    ] = 0,
    insecure_bind: Annotated[
        bool, typer.Option("--insecure-bind", help="Bind beyond this host, for anyone.")
    ] = False,
) -> None:
    """Send recorded packets to subscribers again; they say that they are a replay."""
    from pipeline.replay import ReplayOptions
    from pipeline.replay import replay as play

    options = ReplayOptions(endpoint, speed, loop, wait_subscribers, insecure_bind)
    raise typer.Exit(play(run, options))


def rerun(
    run: Run,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of its configuration."),
    ] = None,
    detect: Annotated[bool, typer.Option("--detect", help="Have the detector look again.")] = False,
    frames: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as one object.")] = False,
) -> None:
    """Run recorded frames again, and tell where masks differ: exit code 1 where they do."""
    # Read once, when torch is loaded: as in a run, which rounds the same way then.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from pipeline.signals import verdict

    with verdict(f"{run} was not compared"):
        from pipeline.rerun import RerunOptions
        from pipeline.rerun import rerun as again

        report = again(run, RerunOptions(tuple(overrides or ()), detect, frames))
    text = json.dumps(report.as_json(), indent=2) if as_json else "\n".join(report.lines())
    sys.stdout.write(text + "\n")
    raise typer.Exit(report.exit_code)
