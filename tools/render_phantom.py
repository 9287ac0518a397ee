"""``python -m tools.render_phantom``: render the training clips into a cache folder."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from tools.phantom_clips import CLIPS_PER_SEED, render_clips, save_clips

TRAINING_SEEDS = (*range(2000), *range(3000, 8400))
"""Those between are for choosing settings, those from `FIRST_EVALUATION_SEED` on for figures."""
QUICK_SEEDS = range(6)


def main() -> None:
    """Render the clips of the training seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="cache folder, outside the repository")
    parser.add_argument("--seeds", type=int, default=len(TRAINING_SEEDS), help="how many seeds")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a handful of clips")
    arguments = parser.parse_args()
    count = len(QUICK_SEEDS) if arguments.quick else arguments.seeds
    if not 0 < count <= len(TRAINING_SEEDS):
        parser.error(
            f"--seeds is {count}, expected 1 to {len(TRAINING_SEEDS)}; others are held out"
        )
    clips = count * CLIPS_PER_SEED
    started = time.monotonic()
    save_clips(render_clips(TRAINING_SEEDS[:count], arguments.workers), clips, arguments.folder)
    print(f"{clips} clips in {time.monotonic() - started:.0f} s -> {arguments.folder}")


if __name__ == "__main__":
    main()
