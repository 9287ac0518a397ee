"""``python -m tools.demo_weights``: render the phantom, train the models, write the weights.

Fixed seeds; two trainings run side by side, one thread each: YOLO's takes an hour and a half on
two idle cores, SAM2's more than five; then the D-FINE's takes half an hour. ``--quick`` runs the
same steps in a minute and writes into the cache folder.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from tools.train_dfine import DFINE_FOLDER, WRITTEN
from tools.weights import ROOT, SAM2_YAML, YOLO_YAML

# Training allocates and frees large arrays all the time: glibc should keep the memory, and
# waiting threads should sleep, or a second busy process slows it down several times over.
_ENVIRONMENT: Final = {
    "OMP_WAIT_POLICY": "passive",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
    "MALLOC_TOP_PAD_": str(2**28),
    "YOLO_OFFLINE": "1",
    "YOLO_AUTOINSTALL": "0",
}


def commands(cache: Path, quick: bool) -> list[list[list[str]]]:
    """The steps in order: module name and arguments of what runs side by side."""
    sam2 = cache / SAM2_YAML.with_suffix(".safetensors").name
    yolo = cache / YOLO_YAML.with_suffix(".safetensors").name
    clips = str(cache / "clips")
    steps = [
        [["tools.render_phantom", clips]],
        [["tools.train_sam2", clips, str(sam2)], ["tools.train_yolo", clips, str(yolo)]],
        [["tools.train_dfine", clips, str(cache / DFINE_FOLDER.name)]],
    ]
    return [[[*command, "--quick"] if quick else command for command in step] for step in steps]


def run_side_by_side(step: list[list[str]]) -> None:
    """Run the commands of a step at once; raises CalledProcessError if one fails."""
    running = [
        subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, env=os.environ | _ENVIRONMENT)
        for command in step
    ]
    codes = [process.wait() for process in running]
    for process, code in zip(running, codes, strict=True):
        if code:
            raise subprocess.CalledProcessError(code, process.args)


def main() -> None:
    """Run the steps, then move the weights to the stages that load them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cache", type=Path, help="folder for clips and unfinished weights, 17 GB")
    parser.add_argument("--quick", action="store_true", help="a few steps; installs nothing")
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    for step in commands(arguments.cache.resolve(), arguments.quick):
        started = time.monotonic()
        run_side_by_side(step)
        names = " and ".join(command[0] for command in step)
        print(f"{names}: {time.monotonic() - started:.0f} s", flush=True)
    if not arguments.quick:
        for config in (SAM2_YAML, YOLO_YAML):
            target = config.with_suffix(".safetensors")
            target.write_bytes((arguments.cache / target.name).read_bytes())
            print(f"wrote {target}")
        for name in WRITTEN:
            target = DFINE_FOLDER / name
            target.write_bytes((arguments.cache / DFINE_FOLDER.name / name).read_bytes())
            print(f"wrote {target}")


if __name__ == "__main__":
    main()
