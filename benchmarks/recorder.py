"""Do recordings survive what happens to them, and how fast are they written?

    python -m benchmarks.recorder [--quick] [--json FILE] [--part NAME ...]

Parts, each in a file of its own (`benchmarks.recorder_live` has what concerns a live run):

`kills`    a writer is killed (SIGKILL) at random points, 100 times in the `log` layout and 20 in
           `npy`; every acknowledged entry must be there with its bytes, and `verify` find no flaw.
`damage`   every bit of a record and of a small whole recording is flipped, and the recording cut
           at every byte: all must be found, or read as a whole beginning. `blind_missed` is the
           control: flips that a reader finds which looks at no check sum of a record's body.
`faults`   ENOSPC and EIO at each call of a writer's file operations in turn, for one call and for
           three; it must pause, go on, and account for every entry.
`order`    100 001 frames in both layouts, read back in order (200 000 small files: minutes).
`speed`    bytes that no compression makes smaller, as float32 logits (8 objects of 256×256):
           MB/s into a log, as numpy files, and by `write` alone (`plain`), in turns, the median
           of the rounds; each round ends with its bytes on the disk (fsync).

Exit code 1 where a bar is missed.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.recorder_damage import damage
from benchmarks.recorder_faults import faults
from benchmarks.recorder_kills import kills
from benchmarks.recorder_order import order
from benchmarks.recorder_speed import speed
from benchmarks.report import parser, print_table, write_json

Found = Mapping[str, float]
PARTS: Mapping[str, Callable[[Path, bool], Found]] = {
    "kills": kills,
    "damage": damage,
    "faults": faults,
    "order": order,
    "speed": speed,
}
MUST_BE_ZERO = (
    *("log_lost", "npy_lost", "missed_in_record", "missed_in_recording", "unreadable_cuts"),
    *("unaccounted", "flawed", "log_out_of_order", "npy_out_of_order", "dropped"),
)
MUST_NOT_BE_ZERO = ("blind_missed", "paused_and_resumed")
LEAST_MB_PER_S = 20.0


def holds(results: Found) -> bool:
    """Whether what was measured is as it must be; what was not measured is not asked for."""
    return (
        all(results.get(name, 0) == 0 for name in MUST_BE_ZERO)
        and all(results.get(name, 1) > 0 for name in MUST_NOT_BE_ZERO)
        and results.get("mb_per_s", LEAST_MB_PER_S) >= LEAST_MB_PER_S
    )


def main() -> None:
    made = parser((__doc__ or "").splitlines()[0])
    made.add_argument("--part", choices=sorted(PARTS), action="append", help="only this one")
    options = made.parse_args()
    results: dict[str, float] = {}
    for name in options.part or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            found = PARTS[name](Path(folder), options.quick)
        print_table(name, ("", "found"), list(found.items()))
        results |= found
    fine = holds(results)
    write_json(options.json, "recorder", {**results, "fine": fine})
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
