"""The control channel of a run, put together: `Control`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.control.channel import ControlChannel
from pipeline.control.config import ControlConfig
from pipeline.control.deadlines import Deadlines
from pipeline.control.desk import Desk
from pipeline.control.names import Names
from pipeline.control.seen import Seen
from pipeline.control.snapshots import Snapshots
from stages.base import (
    Detector,
    PhraseDetector,
    PromptedSegmenter,
    Segmenter,
    SwitchedDetector,
    ToldDetector,
)


@dataclass(frozen=True, slots=True, eq=False)
class Control:
    """The channel and what it does its work with."""

    channel: ControlChannel
    seen: Seen
    """A sink."""
    snapshots: Snapshots
    """A sink, and a tap."""
    names: Names
    """For egress."""


def build_control(
    config: ControlConfig | None,
    *,
    detector: Detector,
    segmenter: Segmenter,
    folder: Path,
    class_names: Sequence[str],
    status: Callable[[], Mapping[str, object]],
) -> Control | None:
    """The socket, bound; None where the configuration has none. ``folder``: the run's."""
    if config is None:
        return None
    seen, names, snapshots = Seen(), Names(), Snapshots(folder, class_names)
    desk = Desk(
        segmenter=segmenter if isinstance(segmenter, PromptedSegmenter) else None,
        detector=detector if isinstance(detector, SwitchedDetector) else None,
        phrases=detector.phrases if isinstance(detector, PhraseDetector) else None,
        boxes=detector if isinstance(detector, ToldDetector) else None,
        seen=seen,
        names=names,
        snapshots=snapshots,
        status=status,
        class_names=class_names,
        deadlines=Deadlines(config.patience_s),
    )
    return Control(ControlChannel(config, desk), seen, snapshots, names)
