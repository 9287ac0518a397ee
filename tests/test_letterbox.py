"""The letterbox: geometry, resampling, and boxes back to the frame."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stages.detectors.yolo_network import import_ultralytics
from stages.letterbox import PAD_VALUE, Letterbox

SIZES = [
    ((480, 640), (192, 256)),
    ((480, 640), (640, 640)),
    ((1080, 1920), (192, 256)),
    ((333, 77), (64, 96)),
    ((7, 500), (96, 64)),
    ((65, 97), (64, 96)),
    ((48, 64), (192, 256)),
]


def picture(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height * 10_000 + width)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(("frame_hw", "input_hw"), SIZES)
def test_geometry_is_that_of_ultralytics(
    frame_hw: tuple[int, int], input_hw: tuple[int, int]
) -> None:
    import_ultralytics()
    from ultralytics.data.augment import LetterBox

    theirs = LetterBox(new_shape=input_hw, auto=False)(image=np.zeros((*frame_hw, 3), np.uint8))
    ours = Letterbox(frame_hw, input_hw)
    inside = np.argwhere(theirs[..., 0] == 0)
    assert theirs.shape[:2] == input_hw
    assert (ours.top, ours.left) == tuple(inside.min(0))
    assert (ours.top + ours.inner_hw[0], ours.left + ours.inner_hw[1]) == tuple(inside.max(0) + 1)


def test_pixels_are_those_of_ultralytics_where_the_frame_is_not_shrunk() -> None:
    import_ultralytics()
    from ultralytics.data.augment import LetterBox

    rgb = picture(50, 70)
    theirs = LetterBox(new_shape=(96, 128), auto=False)(image=rgb.permute(1, 2, 0).numpy().copy())
    ours = Letterbox((50, 70), (96, 128)).fit(rgb)[0].permute(1, 2, 0).numpy()
    # OpenCV rounds to whole levels, with weights of 11 bits.
    assert np.abs(ours * 255 - theirs).max() < 1.1


@pytest.mark.parametrize(("frame_hw", "input_hw"), SIZES)
def test_output_is_float_between_0_and_1_with_grey_padding(
    frame_hw: tuple[int, int], input_hw: tuple[int, int]
) -> None:
    letterbox = Letterbox(frame_hw, input_hw)
    fitted = letterbox.fit(torch.full((3, *frame_hw), 255, dtype=torch.uint8))
    assert (fitted.dtype, tuple(fitted.shape)) == (torch.float32, (1, 3, *input_hw))
    padding = torch.ones(input_hw, dtype=torch.bool)
    bottom, right = letterbox.top + letterbox.inner_hw[0], letterbox.left + letterbox.inner_hw[1]
    padding[letterbox.top : bottom, letterbox.left : right] = False
    assert (fitted[0, :, padding] == PAD_VALUE).all()
    torch.testing.assert_close(fitted[0, :, ~padding], torch.ones(3, int((~padding).sum())))


def test_same_aspect_ratio_is_not_padded() -> None:
    letterbox = Letterbox((480, 640), (192, 256))
    assert (letterbox.top, letterbox.left, letterbox.inner_hw) == (0, 0, (192, 256))


def test_same_size_changes_nothing() -> None:
    rgb = picture(64, 96)
    torch.testing.assert_close(Letterbox((64, 96), (64, 96)).fit(rgb)[0], rgb / 255)


def test_shrinking_averages_fine_structure_away() -> None:
    stripes = torch.zeros(3, 480, 640, dtype=torch.uint8)
    stripes[:, :, ::2] = 255
    fitted = Letterbox((480, 640), (192, 256)).fit(stripes)
    plain = F.interpolate(stripes[None].float() / 255, (192, 256), mode="bilinear")
    assert fitted[..., 2:-2].std() < 0.15 < plain[..., 2:-2].std()


@pytest.mark.parametrize("frame_hw", [(480, 640), (333, 77)])
def test_grey_frame_gives_the_same_as_three_equal_channels(frame_hw: tuple[int, int]) -> None:
    grey = picture(*frame_hw)[:1].expand(3, -1, -1)
    letterbox = Letterbox(frame_hw, (192, 256))
    fitted = letterbox.fit(grey)
    assert fitted.stride(1) == 0
    torch.testing.assert_close(fitted, letterbox.fit(grey.contiguous()), rtol=0, atol=0)


@pytest.mark.parametrize(("frame_hw", "input_hw"), SIZES)
def test_boxes_come_back_to_where_they_are_in_the_frame(
    frame_hw: tuple[int, int], input_hw: tuple[int, int]
) -> None:
    height, width = frame_hw
    letterbox = Letterbox(frame_hw, input_hw)
    step_y, step_x = letterbox.inner_hw[0] / height, letterbox.inner_hw[1] / width
    box = torch.tensor([0.1 * width, 0.2 * height, 0.7 * width, 0.9 * height])
    scale = torch.tensor([step_x, step_y] * 2)
    offset = torch.tensor([letterbox.left, letterbox.top] * 2)
    torch.testing.assert_close(letterbox.to_frame((box * scale + offset)[None]), box[None])


def test_boxes_are_cut_off_at_the_frame() -> None:
    boxes = torch.tensor([[-50.0, -9.0, 9999.0, 9999.0], [9e4, 9e4, 9e5, 9e5]])
    expected = torch.tensor([[0.0, 0.0, 77.0, 333.0], [77.0, 333.0, 77.0, 333.0]])
    assert torch.equal(Letterbox((333, 77), (64, 96)).to_frame(boxes), expected)


def test_a_drawn_rectangle_is_found_where_it_was_drawn() -> None:
    rgb = torch.zeros(3, 400, 300, dtype=torch.uint8)
    rgb[:, 100:200, 60:180] = 255
    letterbox = Letterbox((400, 300), (192, 256))
    bright = (letterbox.fit(rgb)[0, 0] > 0.5).nonzero()
    (top, left), (bottom, right) = bright.min(0).values.tolist(), bright.max(0).values.tolist()
    found = letterbox.to_frame(torch.tensor([[left, top, right + 1.0, bottom + 1.0]]))
    # Half an input pixel is about one pixel of this frame.
    torch.testing.assert_close(found, torch.tensor([[60.0, 100.0, 180.0, 200.0]]), atol=1.1, rtol=0)
