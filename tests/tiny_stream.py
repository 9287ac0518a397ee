"""The tracking segmenter with its headers read back late, on a tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_sam2 import FRAME_HW, detections, frame

from stages.pack import Pack
from stages.packets import HostPacket
from stages.records import Frame, Tracks
from stages.segmenters.live_prompts import Prompt, Ticket
from stages.segmenters.sam2_stream import Sam2StreamConfig, Sam2StreamSegmenter
from stages.to_host import ToHost

CPU = torch.device("cpu")
BOX = (20.0, 20.0, 70.0, 60.0)
BOXES = [[20.0, 20.0, 70.0, 60.0], [80.0, 30.0, 120.0, 80.0]]


class Stream:
    """Frames through the stage, its headers read back `late` frames later."""

    def __init__(
        self, files: tuple[Path | str, Path | None], late: int = 1, **settings: Any
    ) -> None:
        # Random weights give masks that come and go; what ends an object is tested by itself.
        patient = {"duplicate": 1.0, "max_missing_frames": 1000, "max_unseen_key_frames": 1000}
        settings["lifecycle"] = patient | settings.get("lifecycle", {})
        structure, weights = files
        config = Sam2StreamConfig(
            model=str(structure), checkpoint=weights, **{"max_objects": 3} | settings
        )
        self.segmenter = Sam2StreamSegmenter(config, CPU, first_prompt_class=2)
        self._pack, self._to_host = Pack(0.0, "tracked"), ToHost(CPU, slots=late + 2)
        self._late: list[HostPacket] = []
        self._delay = late
        self.number = 0
        self.epoch = 0

    def step(
        self,
        boxes: list[list[float]] | None = None,
        seed: int = 0,
        of: Frame | None = None,
        **more: Any,
    ) -> HostPacket:
        """One frame, `of` or a random one; `boxes` None: no key frame."""
        found = boxes if boxes is not None else []
        if of is None:
            of = frame(**{"epoch": self.epoch, "frame_id": self.number, "seed": seed} | more)
        padding = [[0.0] * 4] * (3 - len(found))
        valid = [True] * len(found) + [False] * len(padding)
        tracks = self.tracks(detections(of, found + padding, valid, computed=boxes is not None))
        packet = self._to_host.submit(self._pack.pack(tracks), masks=True).host_packet()
        self._late.append(packet)
        if len(self._late) > self._delay:
            self.segmenter.heed(self._late.pop(0))
        self.number += 1
        return packet

    def tracks(self, found: Any) -> Tracks:
        self._newest = self.segmenter.segment(found)
        return self._newest

    def shown(self, boxes: list[list[float]] | None = None, seed: int = 0) -> Tracks:
        """`step`, for whoever wants to know it to the bit."""
        self.step(boxes, seed)
        return self._newest

    def answered(self, prompt: Prompt) -> Ticket:
        """Prompt, and run frames until the answer is there."""
        ticket = self.segmenter.prompt(prompt)
        for _ in range(self._delay + 2):
            self.step()
        assert ticket.outcome.done()
        return ticket


def in_sight(*streams: Stream) -> None:
    """Have the random model see its objects on every frame, so that there are masks to compare."""
    for stream in streams:
        model = stream.segmenter.tracker.core.network._model
        with torch.no_grad():
            model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.add_(5)


def ids(packet: HostPacket) -> list[int]:
    return sorted(packet.object_ids.tolist())


def disc() -> np.ndarray[Any, np.dtype[np.bool_]]:
    y, x = np.ogrid[: FRAME_HW[0], : FRAME_HW[1]]
    return np.asarray((y - 45) ** 2 + (x - 60) ** 2 < 30**2)
