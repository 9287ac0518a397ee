"""Y'CbCr to RGB in torch, against FFmpeg's conversion at its most exact."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from typing import Any, get_args

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from pipeline.audit import residency_guard
from stages.colour import WEIGHTS, to_rgb
from stages.ycbcr import Layout, Matrix, bytes_of

SIZE = (64, 96)
FORMATS = {"nv12": "nv12", "i420": "yuv420p", "yuyv": "yuyv422"}
SPACES = {
    "bt601": Colorspace.ITU601, "bt709": Colorspace.ITU709, "bt2020": Colorspace.BT2020,
}  # fmt: skip
EXACT = Interpolation.POINT | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
"""Chroma as it stands, no shortcuts in the arithmetic."""

CASES = list(product(get_args(Layout), get_args(Matrix), (False, True)))


def packed(layout: Layout, full_range: bool, seed: int = 0) -> NDArray[np.uint8]:
    """Noise of the levels that the range allows."""
    rng = np.random.default_rng(seed)
    height, width = SIZE
    low, luma, chroma = (0, 256, 256) if full_range else (16, 236, 241)
    y = rng.integers(low, luma, SIZE).astype(np.uint8)
    of_chroma = (height if layout == "yuyv" else height // 2, width // 2)
    cb, cr = (rng.integers(low, chroma, of_chroma).astype(np.uint8) for _ in range(2))
    if layout == "yuyv":
        return np.stack((y[:, 0::2], cb, y[:, 1::2], cr), axis=-1).ravel()
    parts = (np.stack((cb, cr), -1),) if layout == "nv12" else (cb, cr)
    return np.concatenate([y.ravel(), *(part.ravel() for part in parts)])


def by_ffmpeg(
    data: NDArray[np.uint8], layout: Layout, matrix: Matrix, full_range: bool
) -> NDArray[Any]:
    height, width = SIZE
    shape = (height, width, 2) if layout == "yuyv" else (height * 3 // 2, width)
    frame = av.VideoFrame.from_ndarray(data.reshape(shape), format=FORMATS[layout])
    frame.colorspace = SPACES[matrix]
    frame.color_range = ColorRange.JPEG if full_range else ColorRange.MPEG
    converted = VideoReformatter().reformat(frame, format="rgb24", interpolation=EXACT)
    return converted.to_ndarray().astype(int)


def ours(data: NDArray[np.uint8], layout: Layout, matrix: Matrix, full_range: bool) -> NDArray[Any]:
    rgb = to_rgb(torch.from_numpy(data), layout, SIZE, matrix, full_range=full_range)
    assert rgb.shape == (3, *SIZE)
    assert rgb.dtype == torch.uint8
    return rgb.permute(1, 2, 0).numpy().astype(int)


@pytest.mark.parametrize(("layout", "matrix", "full_range"), CASES)
def test_it_is_ffmpegs_within_two_grey_levels(
    layout: Layout, matrix: Matrix, full_range: bool
) -> None:
    data = packed(layout, full_range)
    expected = by_ffmpeg(data, layout, matrix, full_range)
    found = ours(data, layout, matrix, full_range)
    assert np.abs(found - expected).max() <= 2
    # The controls: another matrix, the other range, red for blue.
    for other in set(get_args(Matrix)) - {matrix}:
        assert np.abs(ours(data, layout, other, full_range) - expected).max() > 10
    assert np.abs(ours(data, layout, matrix, not full_range) - expected).max() > 10
    assert np.abs(found[..., ::-1] - expected).max() > 100


def test_a_layout_taken_for_another_shows() -> None:
    data = packed("nv12", False)
    expected = by_ffmpeg(data, "nv12", "bt601", False)
    assert np.abs(ours(data, "i420", "bt601", False) - expected).max() > 100


@pytest.mark.parametrize(("matrix", "full_range"), list(product(get_args(Matrix), (False, True))))
def test_the_corners_of_colour(matrix: Matrix, full_range: bool) -> None:
    """Red, green, blue, white, grey and black, made by the standards' own encoding."""
    kr, kb = (Fraction(str(weight)) for weight in WEIGHTS[matrix])
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (128, 128, 128), (0, 0, 0)]
    for red, green, blue in colours:
        r, g, b = Fraction(red, 255), Fraction(green, 255), Fraction(blue, 255)
        luma = kr * r + (1 - kr - kb) * g + kb * b
        cb, cr = (b - luma) / (2 * (1 - kb)), (r - luma) / (2 * (1 - kr))
        steps = (255, 255, 0) if full_range else (219, 224, 16)
        levels = (luma * steps[0] + steps[2], cb * steps[1] + 128, cr * steps[1] + 128)
        y, u, v = (min(255, round(level)) for level in levels)
        data = torch.tensor([y, u, y, v], dtype=torch.uint8)
        rgb = to_rgb(data, "yuyv", (1, 2), matrix, full_range=full_range)
        shown = rgb[:, 0, 0].to(torch.int64) - torch.tensor([red, green, blue])
        assert int(shown.abs().max()) <= 2


@pytest.mark.parametrize("layout", get_args(Layout))
def test_it_copies_nothing_to_or_from_the_host(layout: Layout) -> None:
    data = torch.from_numpy(packed(layout, False))
    with residency_guard():
        to_rgb(data, layout, SIZE, "bt709", full_range=False)


@pytest.mark.parametrize(
    ("layout", "size_hw"), [("nv12", (3, 4)), ("nv12", (4, 3)), ("yuyv", (4, 3)), ("i420", (0, 2))]
)
def test_sides_that_a_layout_cannot_have(layout: Layout, size_hw: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="expected even sides for"):
        bytes_of(layout, size_hw)


@pytest.mark.parametrize("data", [torch.zeros(23, dtype=torch.uint8), torch.zeros(24)])
def test_bytes_that_do_not_fit(data: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \(24,\) for nv12"):
        to_rgb(data, "nv12", (4, 4), "bt601", full_range=True)


@pytest.mark.gpu
@pytest.mark.parametrize(("layout", "matrix", "full_range"), CASES)
def test_a_gpu_gives_the_same(layout: Layout, matrix: Matrix, full_range: bool) -> None:
    data = torch.from_numpy(packed(layout, full_range))
    there = to_rgb(data.cuda(), layout, SIZE, matrix, full_range=full_range)
    here = to_rgb(data, layout, SIZE, matrix, full_range=full_range)
    assert there.is_cuda
    assert int((there.cpu().int() - here.int()).abs().max()) <= 1
