"""Flipped bits and cut files; a part of `benchmarks.recorder`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from unittest import mock

import numpy as np

from stages.errors import RecordingError
from stages.recording import stored
from stages.recording.layout import joint_crc
from stages.recording.reading import open_recording
from stages.recording.segment_reader import SegmentFile
from stages.recording.verify import verify
from stages.recording.writing import create_log
from tests.recordings import log_options, logits, manifest


def damage(folder: Path, quick: bool) -> dict[str, float]:
    """`missed_*`: flips that `verify` does not find; `unreadable_cuts`: cuts after which what is
    whole cannot be read."""
    log = create_log(folder, manifest(), log_options())
    for frame_id in range(2):
        log.append(logits(frame_id).entry())
    log.close()
    path = folder / "s"
    (segment,) = path.glob("segment-*.log")
    with SegmentFile(segment) as file:
        row = file.table().rows[1]
    record = range(int(row["offset"]), int(row["offset"]) + int(row["nbytes"]))
    stride, size = (16 if quick else 1), segment.stat().st_size
    bits = [8 * at + bit for at in record[::stride] for bit in range(8)]
    whole = [8 * at + at % 8 for at in range(0, size, stride)]
    body = [bit for bit in bits if bit // 8 >= record.start + 80]
    manifest_bits = [8 * at + at % 8 for at in range(0, (path / "manifest.json").stat().st_size)]
    found = {
        "flips_in_record": len(bits),
        "missed_in_record": _missed(segment, bits),
        "flips_in_recording": len(whole) + len(manifest_bits),
        "missed_in_recording": _missed(segment, whole)
        + _missed(path / "manifest.json", manifest_bits),
    }
    with mock.patch.object(stored, "joint_crc", _blind):
        found["blind_missed"] = _missed(segment, body)
    found |= {"cuts": len(range(0, size, stride)), "unreadable_cuts": _cuts(segment, stride)}
    return found


class _Any(int):
    """Equal to every check sum."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = int.__hash__


def _blind(buffers: Iterable[memoryview]) -> int:
    return _Any(joint_crc(buffers))


def _missed(path: Path, bits: Iterable[int]) -> int:
    missed = 0
    with path.open("r+b", buffering=0) as file:
        for bit in bits:
            (byte,) = os.pread(file.fileno(), 1, bit // 8)
            os.pwrite(file.fileno(), bytes([byte ^ 1 << bit % 8]), bit // 8)
            with suppress(RecordingError):
                missed += verify(path.parent).is_whole
            os.pwrite(file.fileno(), bytes([byte]), bit // 8)
    return missed


def _cuts(segment: Path, stride: int) -> int:
    """Cuts the file from its end on; how often a frame that was whole could not be read."""
    with SegmentFile(segment) as file:
        rows = file.scan().rows
    ends = {int(row["frame_id"]): int(row["offset"] + row["nbytes"]) for row in rows[1:3]}
    wrong = 0
    for length in range(segment.stat().st_size - 1, -1, -stride):
        os.truncate(segment, length)
        with open_recording(segment.parent) as recording:
            there = [frame_id for _, frame_id in recording.frames()]
            same = all(
                np.array_equal(recording.logits_at(frame_id).values, logits(frame_id).values)
                for frame_id in there
            )
        wrong += not same or there != [i for i, end in ends.items() if end <= length]
    return wrong
