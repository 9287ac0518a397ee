"""`maskstream kpi tail`: follow a run's KPI log. Imports no torch."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from kpi.decoding import Record, UnknownEvent
from kpi.lines import describe
from kpi.reading import LogError
from kpi.tail import Line, Tail
from stages.errors import ConfigError, MaskstreamError


def follow(run: Path, as_json: bool, names: tuple[str, ...], last: int) -> int:
    """Print a line an event until the run has finished, Ctrl-C, or nobody reads; returns 0.

    `names` chooses events, () takes all. Raises `ConfigError` for what is no log or cannot be
    read, `MaskstreamError` where it disappears meanwhile.
    """

    def wanted(record: Record) -> bool:
        return not names or _name(record) in names

    try:
        tail = Tail(run, last=last, wanted=wanted)
    except LogError as error:
        raise ConfigError(str(error)) from error
    try:
        for line in tail:
            sys.stdout.write((_raw(line) if as_json else describe(line.record)) + "\n")
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output went away; do not let Python flush to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        pass
    except LogError as error:
        kind = MaskstreamError if tail.events else ConfigError  # it never was a log
        raise kind(str(error)) from error
    finally:
        _tell_losses(tail)
    return 0


def _name(record: Record) -> str:
    event = record.event
    return event.name if isinstance(event, UnknownEvent) else event.event


def _raw(line: Line) -> str:
    """As it was written; anew where somebody else's bytes could disturb a terminal."""
    text = line.raw.decode(errors="replace").strip()
    if text.isascii() and text.isprintable():
        return text
    return json.dumps(json.loads(line.raw))


def _tell_losses(tail: Tail) -> None:
    if tail.broken and tail.events:
        sys.stderr.write(f"{tail.broken} lines are no KPI events\n")
    if tail.gaps:
        sys.stderr.write(f"{tail.gaps} times the log was rotated away before it could be read\n")
