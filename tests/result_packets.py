"""Packets with random content, for the tests of what carries them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stages.packets import HostPacket, PacketInfo

if TYPE_CHECKING:
    import torch

    from stages.records import ResultPacket


def info(size_hw: tuple[int, int], frame_id: int = 0, source_id: str = "cam1") -> PacketInfo:
    now = time.monotonic_ns()
    return PacketInfo(
        source_id=source_id,
        epoch=0,
        frame_id=frame_id,
        captured_ns=now - 2_000_000,
        grabbed_ns=now - 1_000_000,
        captured_unix_ns=None,
        size_hw=size_hw,
        spacing_mm=None,
        pose=None,
        identity="tracked",
    )


def random_masks(rng: np.random.Generator, n: int, size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """bool (n, H, W): noise inside a random rectangle each, which may be empty."""
    height, width = size_hw
    masks = np.zeros((n, height, width), np.bool_)
    for mask in masks:
        y1, y2 = np.sort(rng.integers(0, height + 1, 2))
        x1, x2 = np.sort(rng.integers(0, width + 1, 2))
        mask[y1:y2, x1:x2] = rng.random((y2 - y1, x2 - x1)) < 0.7
    return masks


def tight_box(mask: NDArray[np.bool_]) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return [0, 0, 0, 0]
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def random_packet(
    rng: np.random.Generator,
    n: int,
    size_hw: tuple[int, int],
    *,
    frame_id: int = 0,
    source_id: str = "cam1",
    with_masks: bool = True,
) -> tuple[HostPacket, NDArray[np.bool_]]:
    masks = random_masks(rng, n, size_hw)
    packet = HostPacket(
        info=info(size_hw, frame_id, source_id),
        object_ids=rng.integers(0, 2**62, n),
        class_ids=rng.integers(-1, 3, n).astype(np.int32),
        scores=rng.random(n, np.float32),
        presence=rng.normal(0, 9, n).astype(np.float32),
        quality=rng.random(n, np.float32),
        mask_age_frames=rng.integers(0, 5, n).astype(np.int32),
        mask_boxes_xyxy=np.array([tight_box(m) for m in masks], np.int32).reshape(n, 4),
        area_px=masks.sum((1, 2)).astype(np.int32),
        centroids_xy=rng.random((n, 2), np.float32) * 100,
        masks=np.packbits(masks, axis=-1) if with_masks else None,
    )
    return packet, masks


def random_result(
    rng: np.random.Generator,
    slots: int,
    size_hw: tuple[int, int],
    device: str = "cpu",
    logits: bool = False,
) -> tuple[ResultPacket, NDArray[np.bool_]]:
    """A device packet whose slots are valid or not at random, and which of them are."""
    import torch

    from stages.records import EMPTY_SLOT, ResultPacket

    full, _ = random_packet(rng, slots, size_hw)
    assert full.masks is not None
    valid = rng.random(slots) < 0.5
    ids = np.where(valid, full.object_ids, EMPTY_SLOT)

    def put(array: NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(array.copy()).to(device)

    packet = ResultPacket(
        info=full.info,
        object_ids=put(ids),
        class_ids=put(full.class_ids),
        scores=put(full.scores),
        presence=put(full.presence),
        quality=put(full.quality),
        mask_age_frames=put(full.mask_age_frames),
        mask_boxes_xyxy=put(full.mask_boxes_xyxy),
        area_px=put(full.area_px),
        centroids_xy=put(full.centroids_xy),
        valid=put(valid),
        masks=put(full.masks),
        logits=put(rng.normal(size=(slots, 8, 8)).astype(np.float32)) if logits else None,
    )
    return packet, valid


def wait_until(done: Callable[[], bool], step: Callable[[], object], seconds: float = 30.0) -> None:
    """Call `step` until `done`; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "what the test waited for did not happen"
        step()
        time.sleep(0.002)
