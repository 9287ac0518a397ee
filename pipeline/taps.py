"""Who else is shown the frames of a run: previews, snapshots, viewers, the recorder."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.build import build_recorder
from pipeline.config import RunConfig
from pipeline.control.build import Control
from pipeline.control.snapshots import Snapshots
from pipeline.film import Film
from pipeline.folder import RunFolder
from pipeline.preview import Preview
from stages.base import ChoosingSegmenter, Segmenter
from stages.picture_tap import PictureTap
from stages.recorder.recorder import Recorder
from stages.sinks.zmq_publisher import ZmqPublisher

Tap = Preview | Film | PictureTap | Snapshots


def recorder_of(
    config: RunConfig, publisher: ZmqPublisher | None, segmenter: Segmenter
) -> Recorder | None:
    """The recorder of a run, not yet open, listening to those who have something to tell."""
    recorder = build_recorder(config)
    if recorder is not None:
        if publisher is not None:
            publisher.copied_to = recorder.published
        if isinstance(segmenter, ChoosingSegmenter):
            segmenter.choices.journal = recorder.looks.chose
    return recorder


def taps_of(
    config: RunConfig,
    folder: RunFolder,
    names: Sequence[str],
    pictures: PictureTap | None,
    control: Control | None,
) -> tuple[Tap, ...]:
    """Those who look at pixels."""
    taps: list[Tap] = [] if pictures is None else [pictures]
    if control is not None:
        taps.append(control.snapshots)
    if config.preview is not None:
        taps.append(Preview(folder.preview, config.preview.every, names))
        if config.preview.film_frames:
            taps.append(Film(folder.film, config.preview.film_frames, names))
    return tuple(taps)
