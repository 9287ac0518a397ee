"""What each number of the tracker's lifecycle is good for: the demo with one of them changed.

    python -m benchmarks.lifecycle [--quick] [--json FILE] [--seeds 8] [--frames 150]
        [--first-seed 2000] [--only refresh_below=0.7 ...]

Seeds from 2000 on: neither the weights' training nor the figures of `benchmarks.quality` know them.
A row a change; the columns are those of `benchmarks.quality`. `refresh_below=0` shows what the
memory holds by itself: detections begin objects and say no more.
"""

from __future__ import annotations

import time

import torch

from benchmarks.report import parser, print_table, write_json
from benchmarks.tracked import track_scenes

CHANGES: tuple[tuple[str, ...], ...] = (
    (),
    ("confirm=1",),
    ("confirm=4",),
    ("least=0",),
    ("least=0.5",),
    ("patience=0",),
    ("patience=6",),
    ("sure=1",),
    ("births=1",),
    ("births=8",),
    ("overlap=0.15",),
    ("overlap=0.5",),
    ("refresh_below=0",),
    ("refresh_below=0.6",),
    ("refresh_below=0.8",),
    ("refresh_below=0.9",),
    ("refresh_below=1",),
    ("reach=0.5",),
    ("reach=2",),
    ("max_missing_frames=15",),
    ("max_unseen_key_frames=5",),
    ("max_unseen_key_frames=45",),
    ("duplicate=0.5",),
    ("duplicate=1",),
)
COLUMNS = (
    "mean_iou",
    "recall",
    "precision",
    "id_switches_per_100_frames",
    "occlusion_id_kept",
)


def main() -> None:
    """Run the demo's tracker once for every change; print, write."""
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--first-seed", type=int, default=2000)
    made.add_argument("--seeds", type=int, default=8)
    made.add_argument("--frames", type=int, default=150)
    made.add_argument("--only", nargs="*", help="settings such as refresh_below=0.7, one a row")
    options = made.parse_args()
    seeds, frames = (1, 30) if options.quick else (options.seeds, options.frames)
    changes = CHANGES if options.only is None else tuple((one,) for one in options.only)
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    results: dict[str, dict[str, object]] = {}
    for change in changes:
        overrides = [f"segmenter.lifecycle.{setting}" for setting in change]
        started = time.perf_counter()
        found = track_scenes(options.first_seed, seeds, frames, device, overrides).summary()
        name = change[0] if change else "as it is"
        results[name] = {column: found[column] for column in COLUMNS}
        results[name]["ms_a_frame"] = (time.perf_counter() - started) / (seeds * frames) * 1e3
        print_table(name, COLUMNS, [[found[column] for column in COLUMNS]])
    rows = [[name, *row.values()] for name, row in results.items()]
    print_table(f"{seeds} seeds, {frames} frames each", ["", *COLUMNS, "ms a frame"], rows)
    write_json(options.json, "lifecycle", results)


if __name__ == "__main__":
    main()
