"""The pictures that a run leaves behind; no frame is kept that was dropped on its way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image

from pipeline.film import Film, halved
from pipeline.preview import Preview
from stages.pack import packet_info
from stages.packets import HostPacket
from stages.records import Frame

SIZE = (96, 128)


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


def test_the_film_shows_the_last_frames_with_their_masks(tmp_path: Path) -> None:
    film = Film(tmp_path / "p.mp4", frames=4, class_names=("lumen",))
    for frame_id in range(9):
        of = replace(frame(frame_id), captured_ns=frame_id * 100_000_000)
        film.offer(of)
        if frame_id != 6:  # dropped on its way
            film.write(packet(of))
    assert len(film._offered) == 0
    film.close()
    with av.open(str(tmp_path / "p.mp4")) as container:
        assert container.streams.video[0].average_rate == round(10 * 3 / 4)
        pictures = [shown.to_ndarray(format="rgb24") for shown in container.decode(video=0)]
    assert len(pictures) == 4
    assert pictures[0].shape == (SIZE[0] // 2, SIZE[1] // 2, 3)
    coloured = pictures[0].max(axis=2).astype(int) - pictures[0].min(axis=2) > 60
    assert coloured[:24].any()
    assert not coloured[24:].any()


def test_a_film_of_nothing_is_not_written(tmp_path: Path) -> None:
    film = Film(tmp_path / "p.mp4", frames=4, class_names=("lumen",))
    film.offer(frame(0))
    film.write(packet(frame(0)))
    film.close()
    assert not list(tmp_path.iterdir())


def test_a_halved_packet_has_halved_masks() -> None:
    whole = packet(frame(0))
    small = halved(whole)
    assert np.array_equal(small.mask(0), whole.mask(0)[::2, ::2])
    assert small.mask_boxes_xyxy.tolist() == [[4, 4, 10, 8]]
