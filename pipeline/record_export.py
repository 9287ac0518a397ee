"""`maskstream record export`."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from kpi.text import printable
from stages.recording.export import export_npy
from stages.recording.reading import recording_in

_LONGEST = 400


def export(path: Path, out: Path) -> int:
    """Write the recording at ``path`` as numpy files below ``out``; 1 where frames were left out.

    Raises `RecordingError`.
    """
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("frames", total=None)
        done = export_npy(
            recording_in(path),
            out,
            lambda count, of: progress.update(task, completed=count, total=of),
        )
    sys.stdout.write(f"{done.path}: {done.frames} frames\n")
    for line in done.left_out:
        sys.stderr.write(f"maskstream: left out: {printable(line, _LONGEST)}\n")
    return 1 if done.left_out else 0
