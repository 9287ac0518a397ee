"""The preview keeps no frame that was dropped on its way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pipeline.preview import Preview
from stages.pack import packet_info
from stages.packets import HostPacket
from stages.records import Frame

SIZE = (24, 32)


def frame(frame_id: int) -> Frame:
    return Frame(torch.zeros(3, *SIZE, dtype=torch.uint8), "s", 0, frame_id, 0, 0)


def packet(of: Frame) -> HostPacket:
    mask = np.zeros((1, *SIZE), np.bool_)
    mask[0, 8:16, 8:20] = True
    one, ints = np.ones(1, np.float32), np.zeros(1, np.int32)
    box, centre = np.array([[8, 8, 20, 16]], np.int32), np.zeros((1, 2), np.float32)
    return HostPacket(
        packet_info(of, "none"), np.zeros(1, np.int64), ints, one, one, one, ints, box, ints,
        centre, masks=np.packbits(mask, axis=-1),
    )  # fmt: skip


def test_it_draws_a_candidate_and_forgets_the_dropped_ones(tmp_path: Path) -> None:
    preview = Preview(tmp_path / "p.png", every=2, class_names=("lumen",))
    for frame_id in range(6):
        preview.offer(frame(frame_id))
        assert preview.wants_masks is (frame_id % 2 == 0)
    assert set(preview._candidates) == {0, 2, 4}
    preview.write(packet(frame(4)))
    assert not preview._candidates
    preview.close()
    pixels = np.asarray(Image.open(tmp_path / "p.png"))
    assert pixels.shape == (*SIZE, 3)
    assert pixels[12, 10].any()
    assert not pixels[20, 28].any()


def test_without_a_candidate_nothing_is_written(tmp_path: Path) -> None:
    Preview(tmp_path / "p.png", every=2, class_names=()).close()
    assert not list(tmp_path.iterdir())
