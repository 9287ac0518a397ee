"""`maskstream record export`."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

from kpi.text import printable
from pipeline.offline.progress import Advance, progress
from stages.recording.export import export_npy
from stages.recording.reading import recording_in

_LONGEST = 400


def export(path: Path, out: Path) -> int:
    """Write the recording at ``path`` as numpy files below ``out``; 1 where frames were left out.

    Raises `RecordingError`.
    """
    with ExitStack() as stack:
        shown: list[Advance] = []

        def each(done: int, of: int) -> None:
            if not shown:
                shown.append(stack.enter_context(progress(of, "frames")))
            shown[0]("")

        done = export_npy(recording_in(path), out, each)
    sys.stdout.write(f"{done.path}: {done.frames} frames\n")
    for line in done.left_out:
        sys.stderr.write(f"maskstream: left out: {printable(line, _LONGEST)}\n")
    return 1 if done.left_out else 0
