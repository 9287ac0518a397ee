"""The model of an offline command, as the command line names it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.offline.records import ModelRecord
from pipeline.shape_words import numbers
from stages.errors import UsageError

if TYPE_CHECKING:  # which imports torch
    from stages.proposals import Proposer


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """Which weights, where, and what counts as foreground."""

    name: str
    """As `segmenter.model` in a configuration."""
    checkpoint: Path | None
    sha256: str | None
    device: str
    mask_threshold: float

    def __post_init__(self) -> None:
        """Raises `UsageError`."""
        check_digest("--sha256", self.sha256)
        if not re.fullmatch(r"auto|cpu|cuda:\d{1,2}", self.device):
            raise UsageError(f"--device {self.device}: expected auto, cpu or cuda:N")
        if not abs(self.mask_threshold) <= 1000:  # NaN neither
            raise UsageError(
                f"--mask-threshold {self.mask_threshold}: expected a logit, -1000 to 1000"
            )


def check_digest(option: str, value: str | None) -> None:
    """Raises `UsageError` for what is no SHA-256."""
    if value is not None and not re.fullmatch("[0-9a-fA-F]{64}", value):
        raise UsageError(f"{option} {value}: expected 64 hexadecimal digits")


def built(options: ModelOptions) -> Proposer:
    """What segments single pictures; raises `ConfigError`."""
    from pipeline.build import build_proposer
    from pipeline.device import resolve_device

    device = resolve_device(options.device)
    return build_proposer(
        options.name, options.checkpoint, options.sha256, device, options.mask_threshold
    )


def model_record(options: ModelOptions, image_size: int) -> ModelRecord:
    """What the results say of a model that was built; reads the file of its weights."""
    from pipeline.build import weights_of
    from stages.file_digest import sha256_of

    sha256 = sha256_of(weights_of(options.name, options.checkpoint))
    return ModelRecord(name=options.name, sha256=sha256, image_size=image_size)


def spacing_of(text: str | None) -> tuple[float, float] | None:
    """`--spacing Y,X` in millimetres; raises `UsageError`."""
    if text is None:
        return None
    y, x = numbers("--spacing", text, 2)
    if not (0 < y <= 100 and 0 < x <= 100):
        raise UsageError(f"--spacing {text}: expected millimetres a pixel, above 0, at most 100")
    return y, x
