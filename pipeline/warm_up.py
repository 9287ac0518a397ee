"""What is done on the device before the first frame, and the stream it is done on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from pipeline.chain import Chain
from stages.records import Frame

_EPOCH = -1


def warm_up(
    chain: Chain,
    size_hw: tuple[int, int],
    device: torch.device,
    origin_yx: tuple[int, int] = (0, 0),
) -> None:
    """Run black frames of `size_hw`, at `origin_yx` of their picture, through the chain, so that
    no lazy work is left for the first frame."""
    full_hw = (origin_yx[0] + size_hw[0], origin_yx[1] + size_hw[1])
    with torch.inference_mode():
        black = torch.zeros(3, *size_hw, dtype=torch.uint8, device=device)
        for frame_id in range(2):
            frame = Frame(black, "warm-up", _EPOCH, frame_id, 0, 0)
            chain.warm_up(replace(frame, origin_yx=origin_yx, full_hw=full_hw))


@contextmanager
def one_compute_stream(device: torch.device) -> Iterator[None]:
    """The frame loop's stream, current inside the block."""
    if device.type != "cuda":
        yield
        return
    with torch.cuda.device(device), torch.cuda.stream(torch.cuda.Stream(device)):
        yield
