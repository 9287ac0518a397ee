"""A tracker tried out before its first frame: what cannot run is told then, and told rightly."""

from __future__ import annotations

import torch

from stages.checkpoints import one_line
from stages.errors import ConfigError
from stages.records import Frame
from stages.segmenters.execution import Execution, made_ready
from stages.segmenters.tracker import Tracker


def try_out(tracker: Tracker, model: str, execution: Execution) -> None:
    """Run every unit in every size that it is made for.

    Raises `ConfigError`: about `execution` where the units run as they stand, else about `model`.
    """
    size = tracker.core.image_size
    black = torch.zeros(3, size, size, dtype=torch.uint8, device=tracker.core.device)
    frame = Frame(black, "try", -1, 0, 0, 0)
    try:
        tracker.run_all(frame)
    except Exception as error:  # whatever sam2 makes of sizes that do not fit together
        cause = one_line(_first(error))
        if execution != "eager" and _runs_eagerly(tracker, frame):
            wanted = f"execution: {execution} cannot be made ready here ({cause}), expected eager"
            raise ConfigError(wanted) from error
        raise ConfigError(f"{model}: sam2 cannot run this model ({cause})") from error


def _runs_eagerly(tracker: Tracker, frame: Frame) -> bool:
    tracker.units = made_ready(tracker.core, "eager")
    try:
        tracker.run_all(frame)
    except Exception:
        return False
    return True


def _first(error: BaseException) -> BaseException:
    """The error behind those that were raised in its wake; compilers wrap theirs."""
    while True:
        behind = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if behind is None:
            return error
        error = behind
