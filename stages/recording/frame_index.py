"""Which frames a recording has, in order, and where each one's latest result lies."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from stages.errors import RecordingError


class FrameIndex:
    """Frames by epoch, then by number. Of several results of one frame the later pass counts, and
    of one pass the one that was written last."""

    def __init__(
        self,
        epochs: NDArray[np.int64],
        frame_ids: NDArray[np.int64],
        passes: NDArray[np.int64],
        places: NDArray[np.int64],
    ) -> None:
        """Each (n,); ``places``, any numbers by which the caller finds a result, rise with time."""
        order = np.lexsort((places, passes, frame_ids, epochs))
        epochs, frame_ids = epochs[order], frame_ids[order]
        last = np.ones(len(order), np.bool_)
        last[:-1] = (epochs[1:] != epochs[:-1]) | (frame_ids[1:] != frame_ids[:-1])
        self.epochs: NDArray[np.int64] = epochs[last]
        self.frame_ids: NDArray[np.int64] = frame_ids[last]
        self.places: NDArray[np.int64] = places[order][last]

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """(epoch, frame_id)."""
        for epoch, frame_id in zip(self.epochs, self.frame_ids, strict=True):
            yield int(epoch), int(frame_id)

    def place(self, frame_id: int, epoch: int | None, where: str) -> int:
        """Without ``epoch`` of the latest epoch that has the frame; raises `RecordingError`."""
        epochs = np.unique(self.epochs)[::-1].tolist() if epoch is None else [epoch]
        for each in epochs:
            start, end = np.searchsorted(self.epochs, (each, each + 1))
            row = start + np.searchsorted(self.frame_ids[start:end], frame_id)
            if row < end and self.frame_ids[row] == frame_id:
                return int(self.places[row])
        of = "" if epoch is None else f" of epoch {epoch}"
        span = "none" if not len(self) else f"{self.frame_ids.min()}..{self.frame_ids.max()}"
        raise RecordingError(f"{where}: no frame {frame_id}{of} (expected one of {span})")
