"""PackNumpy: what Pack does, on the host, for the legacy `as_numpy` chain."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stages.pack import packet_info
from stages.packets import HostPacket, Identity, in_full_picture
from stages.records import HostTracks


class PackNumpy:
    """HostTracks to HostPacket."""

    def __init__(self, identity: Identity = "none") -> None:
        """`identity`: the segmenter's."""
        self._identity = identity

    def pack(self, tracks: HostTracks) -> HostPacket:
        """One row an object, in the order of `tracks`."""
        height, width = tracks.frame.size_hw
        masks = np.zeros((len(tracks.masks), height, width), dtype=np.bool_)
        for row, mask in enumerate(tracks.masks):
            masks[row] = mask
        columns, rows = masks.sum(axis=1), masks.sum(axis=2)
        (x1, x2, x), (y1, y2, y) = _extent(columns), _extent(rows)
        placed = in_full_picture(
            tracks.frame.window,
            np.stack((x1, y1, x2, y2), axis=1).astype(np.int32),
            np.stack((x, y), axis=1).astype(np.float32),
        )
        return HostPacket(
            info=packet_info(tracks.frame, self._identity),
            object_ids=tracks.object_ids,
            class_ids=tracks.class_ids,
            scores=tracks.scores,
            presence=tracks.presence,
            quality=tracks.quality,
            mask_age_frames=tracks.age_frames,
            **placed,
            area_px=rows.sum(axis=1).astype(np.int32),
            masks=np.packbits(masks, axis=-1),
            feedback=tracks.feedback,
            ring=None,
            names={},
        )


def _extent(
    counts: NDArray[np.int_],
) -> tuple[NDArray[np.int_], NDArray[np.int_], NDArray[np.float64]]:
    """First, one past last and mean pixel centre of counts (n, L); zeros where all are 0."""
    length = counts.shape[1]
    hit, total = counts > 0, counts.sum(axis=1)
    some = total > 0
    first = np.where(some, hit.argmax(axis=1), 0)
    last = np.where(some, length - hit[:, ::-1].argmax(axis=1), 0)
    mean = counts @ (np.arange(length) + 0.5) / np.maximum(total, 1)
    return first, last, mean
