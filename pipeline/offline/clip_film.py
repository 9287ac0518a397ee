"""The film of a clip: each finished frame beside the same with its objects."""

from __future__ import annotations

import threading
from fractions import Fraction
from typing import Final

from pipeline.film_encoder import FilmEncoder
from pipeline.offline.clip_outputs import ClipOutputs
from pipeline.offline.drawing import side_by_side
from pipeline.offline.folder import FILM, OutFolder
from pipeline.offline.journal import Journal
from pipeline.offline.progress import progress
from pipeline.offline.records import ClipRecord, FrameRecord

USUAL_FPS: Final = 25.0


def write_film(
    folder: OutFolder,
    journal: Journal,
    outputs: ClipOutputs,
    clip: ClipRecord,
    stop: threading.Event,
) -> None:
    """Write `overlay.mp4` of what is in `journal`, in the order of the frames. It is made when
    tracking is over, because both directions do not come in that order.

    `stop` ends it earlier; what was encoded stays. Raises `OutputError`.
    """
    if not len(journal):
        return
    rate = Fraction(clip.fps or USUAL_FPS).limit_denominator(1001)
    size = (clip.size_hw[0], 2 * clip.size_hw[1])
    with (
        folder.place(FILM) as part,
        FilmEncoder(part, size, rate) as film,
        progress(len(journal), "frames") as advance,
    ):
        for line in journal.records():
            if stop.is_set():
                break
            film.add(side_by_side(*outputs.drawn(FrameRecord.model_validate(line))))
            advance("film")
