"""The `maskstream` command."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.control_commands import app as control_app
from pipeline.keys_commands import OwnKey, ServerKey
from pipeline.keys_commands import app as keys_app
from pipeline.kpi_commands import app as kpi_app
from pipeline.model_commands import app as models_app
from pipeline.offline_commands import image, video
from pipeline.record_commands import app as record_app
from pipeline.replay_commands import replay, rerun
from pipeline.source_commands import app as sources_app
from stages.errors import MaskstreamError

_INTERRUPTED = 130
"""What typer makes of Ctrl-C."""

app = typer.Typer(
    name="maskstream",
    help="Real-time segmentation of live video that stays on the GPU.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(kpi_app, name="kpi")
app.add_typer(sources_app, name="sources")
app.add_typer(keys_app, name="keys")
app.add_typer(control_app, name="control")
app.add_typer(models_app, name="models")
app.command()(replay)
app.command()(rerun)
app.command()(image)
app.command()(video)
app.add_typer(record_app, name="record")


@app.command()
def run(
    config: Annotated[str, typer.Argument(help="A YAML file, or a shipped configuration's name.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key: a.b=c.")
    ] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many grabbed frames.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of this run (default: runs/<utc>-<name>).")
    ] = None,
    audit: Annotated[
        bool, typer.Option("--audit", help="Fail on any host copy or wait in the hot path.")
    ] = False,
    wait_subscribers: Annotated[
        int, typer.Option(min=0, help="Start when so many subscribers are connected.")
    ] = 0,
    insecure_bind: Annotated[
        bool,
        typer.Option("--insecure-bind", help="Bind beyond this host without keys or a token."),
    ] = False,
) -> None:
    """Run a configuration until its source ends, Ctrl-C, or --frames."""
    from pipeline.config import load_config

    resolved = load_config(config, overrides or (), insecure_bind=insecure_bind)
    # After the configuration, so that a mistake in it does not wait for this import.
    from pipeline.frame_flow import RunOptions
    from pipeline.run import start

    raise typer.Exit(start(resolved, RunOptions(frames, out, audit, wait_subscribers)))


@app.command()
def doctor() -> None:
    """Tell what this machine has and lacks for a run."""
    from pipeline.doctor import doctor as examine

    raise typer.Exit(examine())


@app.command()
def subscribe(
    endpoint: Annotated[str, typer.Argument()] = "tcp://127.0.0.1:5556",
    source: Annotated[str | None, typer.Option(help="Only this source.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Stop after so many packets.")] = None,
    save: Annotated[Path | None, typer.Option(help="Folder for the masks, as PNG.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a packet.")] = False,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Give up after so many seconds without a packet.")
    ] = 10.0,
    lines: Annotated[
        bool, typer.Option("--lines", help="A line a packet, also in a terminal.")
    ] = False,
    key: OwnKey = None,
    server_key: ServerKey = None,
) -> None:
    """Show what a run publishes, in a terminal as a live table; save its masks."""
    from pipeline.reach import client_keys
    from pipeline.subscribe import subscribe as follow

    keys = client_keys(key, server_key)
    table = sys.stdout.isatty() and not lines
    raise typer.Exit(follow(endpoint, source, count, save, as_json, timeout, table, keys))


def main() -> None:
    """Entry point: an error meant for a person is one line and an exit code; an interrupt, which
    SIGTERM is too, is a clean end."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background job ignores the first
        signal.signal(number, signal.default_int_handler)
    # Read once, when torch is loaded: on the CPU its threads should sleep while they wait, for
    # Grab and egress need the cores (1.3 times the frame rate on two busy ones).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app(prog_name="maskstream")
    except MaskstreamError as error:
        print(f"maskstream: {_one_line(error)}", file=sys.stderr)  # noqa: T201 (the output)
        sys.exit(error.exit_code)
    except SystemExit as end:
        sys.exit(0 if end.code == _INTERRUPTED else end.code)


def _one_line(error: MaskstreamError) -> str:
    """The message without what a file's content could do to the terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(error)).split())


if __name__ == "__main__":
    main()
