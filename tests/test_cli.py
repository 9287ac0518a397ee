"""The `maskstream` command itself: help, usage errors, exit codes."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable

import pytest
import typer
from conftest import ROOT, Outcome

import pipeline.cli as cli
from stages.errors import ConfigError, GpuError, MaskstreamError, SourceError

COMMANDS = ("run", "doctor", "subscribe", "kpi", "sources", "keys", "control")
Call = Callable[..., Outcome]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(call_main: Call, command: str) -> None:
    outcome = call_main(command, "--help")
    assert outcome.code == 0
    assert "Usage:" in outcome.stdout


def test_the_help_names_every_command(call_main: Call) -> None:
    stdout = call_main("--help").stdout
    assert all(command in stdout for command in COMMANDS)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["run"], "config"),
        (["run", "demo", "--frames", "0"], "--frames"),
        (["run", "demo", "--frames", "many"], "--frames"),
        (["run", "demo", "--no-such-option"], "--no-such-option"),
        (["run", "demo", "more"], "more"),
        (["run", "demo", "--wait-subscribers", "-1"], "--wait-subscribers"),
        (["subscribe", "--timeout", "0"], "--timeout"),
        (["frobnicate"], "frobnicate"),
        (["sources", "probe"], "SOURCE"),
        (["sources", "probe", "phantom", "--seconds", "0"], "--seconds"),
        (["kpi", "frobnicate"], "frobnicate"),
        (["kpi", "report"], "RUN"),
        (["kpi", "tail", "runs/x", "--last", "-1"], "--last"),
        (["kpi", "compare", "runs/x"], "B"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_a_usage_error_exits_with_2(call_main: Call, args: list[str], said: str) -> None:
    outcome = call_main(*args)
    assert outcome.code == 2
    assert said in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert outcome.stdout == ""


def test_help_imports_nothing_heavy() -> None:
    """So that it answers at once."""
    code = (
        "import sys, pipeline.cli\n"
        "sys.argv = ['maskstream', 'run', '--help']\n"
        "try: pipeline.cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'zmq', 'uvicorn', 'sam2', 'av'}\n"
        "heavy &= set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("c.yaml: devise: unknown key"), 78),
        (SourceError("source a: no video"), 1),
        (GpuError("cuda:0: gone"), 75),
        (MaskstreamError("two\nlines\x1b[31m and\ta colour"), 1),
    ],
)
def test_an_error_for_a_person_is_one_line_and_a_code(
    monkeypatch: pytest.MonkeyPatch, call_main: Call, error: MaskstreamError, code: int
) -> None:
    def fail(prog_name: str) -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    outcome = call_main()
    assert outcome.code == code
    assert outcome.stderr.startswith("maskstream: ")
    assert outcome.stderr.count("\n") == 1
    assert "\x1b" not in outcome.stderr


def test_an_error_of_ours_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch, call_main: Call
) -> None:
    def fail(prog_name: str) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(ZeroDivisionError):
        call_main()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_any_command_cleanly(
    monkeypatch: pytest.MonkeyPatch, call_main: Call, number: signal.Signals
) -> None:
    app = typer.Typer()

    @app.command()
    def wait() -> None:
        signal.raise_signal(number)
        raise AssertionError("the signal did nothing")

    monkeypatch.setattr(cli, "app", app)
    outcome = call_main()
    assert (outcome.code, outcome.stderr) == (0, "")


def test_a_command_keeps_its_own_exit_code(
    monkeypatch: pytest.MonkeyPatch, call_main: Call
) -> None:
    app = typer.Typer()

    @app.command()
    def fail() -> None:
        raise typer.Exit(75)

    monkeypatch.setattr(cli, "app", app)
    assert call_main().code == 75
