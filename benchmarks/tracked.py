"""The demo's chain on whole phantom scenes, frame after frame, judged against the truth."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

import torch

from pipeline.build import DETECTORS, SEGMENTERS
from pipeline.config import load_config
from pipeline.quality import QualityCheck
from stages.base import Segmenter
from stages.pack import Pack
from stages.packets import HostPacket, Truth
from stages.records import Frame
from stages.sources.phantom_scene import CLASS_NAMES, PhantomScene
from stages.to_host import ToHost

LATE: Final = 0
"""Results whose header the host has not read yet when the next frame begins; none in the demo."""


class SceneTruths:
    """The truth of every scene's frames; frame ids of scene n begin at n x `frames`."""

    def __init__(self, first_seed: int, seeds: int, frames: int) -> None:
        self.scenes = [PhantomScene(seed) for seed in range(first_seed, first_seed + seeds)]
        self._frames = frames

    def truth(self, frame_id: int) -> Truth:
        """Object ids of different scenes differ."""
        number, index = divmod(frame_id, self._frames)
        seen = self.scenes[number].truth(index)
        ids = seen.object_ids + number * 10**6
        return Truth(frame_id, ids, seen.class_ids, seen.masks, seen.counted)


@torch.inference_mode()
def track_scenes(
    first_seed: int,
    seeds: int,
    frames: int,
    device: torch.device,
    overrides: Sequence[str] = (),
    config_name: str = "demo",
) -> QualityCheck:
    """Every frame of every scene through the demo's Detect, Segment, Pack and ToHost.

    Each scene is an epoch. `overrides`: settings such as `segmenter.lifecycle.confirm=1`, of the
    shipped configuration `config_name`.
    """
    config = load_config(config_name, overrides)
    detector = DETECTORS.create(config.detector, device)
    segmenter: Segmenter = SEGMENTERS.create(config.segmenter, device, len(detector.class_names))
    pack, to_host = Pack(config.mask_threshold, segmenter.identity), ToHost(device)
    truths = SceneTruths(first_seed, seeds, frames)
    check = QualityCheck(truths, CLASS_NAMES)
    unread: deque[HostPacket] = deque()
    for number, scene in enumerate(truths.scenes):
        for index in range(frames):
            gray = torch.from_numpy(scene.render(index)).to(device)
            frame_id = number * frames + index
            frame = Frame(gray.expand(3, *gray.shape), "phantom", number, frame_id, 0, 0)
            tracks = segmenter.segment(detector.detect(frame))
            to_host.wait_slot(1.0)
            pending = to_host.submit(pack.pack(tracks), masks=True)
            if gray.is_cuda:
                torch.cuda.synchronize()
            packet = pending.host_packet()
            check.write(packet)
            unread.append(packet)
            if len(unread) > LATE:
                segmenter.heed(unread.popleft())
    return check
