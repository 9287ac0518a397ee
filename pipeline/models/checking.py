"""`maskstream models check`: hash the files, load the model, run one frame, tell what it costs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import torch

from pipeline.build import DETECTORS, SEGMENTERS
from pipeline.device import resolve_device
from pipeline.models.clips import run_clip
from pipeline.models.flaws import flaw_of
from pipeline.models.listing import size
from pipeline.models.measuring import timed
from pipeline.models.places import ModelPlace
from pipeline.models.targets import Target, target_of
from stages.base import Detector, Section
from stages.errors import MaskstreamError
from stages.file_digest import sha256_of
from stages.records import Frame

_SIZE_HW = (480, 640)


def check(target: str, device: str) -> int:
    """Print what was found; 0 where all is well, 1 where something is not.

    `target`: a shipped model's name, a folder, a weights file, or a configuration. Raises
    `ConfigError` where it is none of these.
    """
    where = resolve_device(device)
    found = target_of(target)
    flaws = [flaw for place in found.places for flaw in _look_at(place)]
    if not flaws and found.refusal is not None:
        flaws = [found.refusal]
    for flaw in flaws:
        sys.stdout.write(f"FAILED  {flaw}\n")
    if flaws:
        return 1
    try:
        _run(found, where)
    except MaskstreamError as error:
        sys.stdout.write(f"FAILED  {error}\n")
        return 1
    return 0


def _look_at(place: ModelPlace) -> list[str]:
    """Print each file with its digest; what is wrong with them, a line each."""
    sys.stdout.write(f"{place.name}  ({place.used_by}, licence {place.licence})\n")
    if not place.files:
        return [
            f"{place.name}: not on this machine, expected a file, a folder, or an id in the cache"
        ]
    flaws = []
    for path in place.files:
        try:
            sys.stdout.write(
                f"  {path.name}  {size(path.stat().st_size)}  sha256 {sha256_of(path)}\n"
            )
            reason = flaw_of(path)
        except OSError as error:
            reason = error.strerror or type(error).__name__
        if reason is not None:
            flaws.append(f"{path}: {reason}")
    return flaws


def _run(target: Target, device: torch.device) -> None:
    for name in target.unread:
        sys.stdout.write(f"  not loaded: {name}\n")
    if target.clip is not None:
        run_clip(target.clip, _picture(device), device)
    finder: Detector = DETECTORS.create(_no_detector(), device)
    if target.detector is not None:
        section = _each_frame(target.detector)
        finder = timed("detector", device, lambda: DETECTORS.create(section, device))
        _steps("detector", device, finder.detect)
    if target.segmenter is not None:
        count, wanted = len(finder.class_names), _each_frame(target.segmenter)
        follower = timed("segmenter", device, lambda: SEGMENTERS.create(wanted, device, count))
        _steps("segmenter, after it", device, lambda frame: follower.segment(finder.detect(frame)))
        follower.close()
    sys.stdout.write("ok\n")


def _each_frame(section: Section) -> Section:
    """Looking at every frame, so that each is measured."""
    return section.model_copy(update={"every": 1} if "every" in type(section).model_fields else {})


def _steps(role: str, device: torch.device, step: Callable[[Frame], object]) -> None:
    picture = _picture(device)
    with torch.inference_mode():
        for number, what in enumerate(("first", "next")):
            frame = Frame(picture, "check", 0, number, 0, 0)
            timed(f"{role}, {what} frame", device, partial(step, frame))


def _picture(device: torch.device) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, *_SIZE_HW), dtype=torch.uint8, generator=generator).to(device)


def _no_detector() -> Section:
    return DETECTORS.config_class("none")()
