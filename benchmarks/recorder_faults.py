"""Faults of the disk at each call of a writer; a part of `benchmarks.recorder`."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

from stages.recording.verify import verify
from tests.recordings import PLAYED_FRAMES, FailingFiles, Played, play_log, play_npy


def faults(folder: Path, quick: bool) -> dict[str, float]:
    """`unaccounted`: plays whose offered entries are not those written and dropped; `flawed`: whose
    recording has a flaw, or fewer entries than were acknowledged."""
    found = {"injected": 0, "paused_and_resumed": 0, "unaccounted": 0, "flawed": 0}
    for layout, play in {"log": play_log, "npy": play_npy}.items():
        for code in (errno.ENOSPC, errno.EIO):
            for times in (1, 3):
                name = f"{layout}-{code}-{times}"
                for played in _plays(folder / name, play, code, times, 8 if quick else 1):
                    _count(found, played, layout)
    return found


def _plays(
    folder: Path,
    play: Callable[[Path, FailingFiles], Played],
    code: int,
    times: int,
    stride: int,
) -> list[Played]:
    calm = FailingFiles()
    play(folder / "calm", calm)
    first = calm.calls.index("replace") + 2  # the manifest is there: a recording has begun
    return [
        play(folder / str(at), FailingFiles(code=code, fail_at=at, times=times))
        for at in range(first, len(calm.calls), stride)
    ]


def _count(found: dict[str, int], played: Played, layout: str) -> None:
    status, acknowledged = played.status, played.acknowledged
    found["injected"] += 1
    found["paused_and_resumed"] += status.pauses > 0 and PLAYED_FRAMES - 1 in acknowledged
    books = (status.offered, status.written, status.dropped)
    dropped = PLAYED_FRAMES - len(acknowledged)
    found["unaccounted"] += books != (PLAYED_FRAMES, len(acknowledged), dropped)
    verdict = verify(played.path)
    frames = len(acknowledged) if layout == "log" else len({n % 4 for n in acknowledged})
    found["flawed"] += bool(verdict.flaws) or verdict.entries < frames
