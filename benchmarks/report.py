"""What every benchmark shares: arguments, a table on the screen, one JSON layout."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from pipeline.versions import versions

_LOG_COLUMNS = 170


def parser(description: str) -> argparse.ArgumentParser:
    """An argument parser with `--quick` and `--json FILE`."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--quick", action="store_true", help="a short run: a look, not a record")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    return made


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """One table; floats with three digits."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*(_shown(value) for value in row))
    screen = Console()
    wide = screen if screen.is_terminal else Console(width=_LOG_COLUMNS)
    wide.print(table)


def write_json(path: Path | None, benchmark: str, results: Mapping[str, object]) -> None:
    """Write `{benchmark, date, machine, versions, command, results}`; nothing without a path."""
    if path is None:
        return
    record = {
        "benchmark": benchmark,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "command": " ".join(["python", "-m", f"benchmarks.{benchmark}", *sys.argv[1:]]),
        "results": results,
    }
    path.write_text(json.dumps(record, indent=2) + "\n")


def machine() -> str:
    """Processor, cores, torch's threads and the GPU, without names of hosts."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    cores = len(os.sched_getaffinity(0))
    return f"{platform.machine()}, {cores} cores, {torch.get_num_threads()} threads, {gpu}"


def _shown(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
