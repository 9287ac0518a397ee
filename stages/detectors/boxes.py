"""Somebody else's detector as a stage: boxes come in with the frames, or while the run goes on."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import Future
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import AfterValidator, Field

from stages.base import Section
from stages.box_inbox import BoxesAsked, BoxesEnd, BoxInbox
from stages.detectors.looking import Choice
from stages.detectors.none import NoDetector, NoDetectorConfig
from stages.exits import named_exit
from stages.found_boxes import FLAWS, FoundBoxes, flaws_of, in_window
from stages.key_frames import Switch
from stages.records import Detections, Frame
from stages.sources.troubles import Troubles


def _different(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) != len(names) or not all(n.strip() and n.isprintable() for n in names):
        raise ValueError("expected different, printable names")
    return names


class BoxesConfig(Section):
    """Boxes from a program of one's own, see docs/wire.md and docs/control.md."""

    kind: Literal["boxes"] = "boxes"
    classes: Annotated[tuple[str, ...], AfterValidator(_different)] = Field(
        ("object",), min_length=1, max_length=1000
    )
    """What the class ids that come with the boxes stand for, from 0."""
    max_detections: int = Field(16, ge=1, le=300)
    """Of more boxes for a frame the weakest are left out."""
    min_score: float = Field(0.0, ge=0, le=1)
    max_overlap: float = Field(1.0, gt=0, le=1)
    """Box IoU above which the weaker of two boxes of a class is not `valid`."""


class BoxesDetector:
    """Frame to the K = `max_detections` best of the boxes that are there for it."""

    def __init__(self, config: BoxesConfig, device: torch.device) -> None:
        self.class_names = config.classes
        self.switch = Switch()
        self._device, self._rows = device, config.max_detections
        wanted = torch.ones(len(config.classes), dtype=torch.bool, device=device)
        self._choice = Choice(wanted, config.min_score, config.max_overlap)
        self._inbox = BoxInbox(len(config.classes))
        self._nothing = NoDetector(NoDetectorConfig(max_detections=config.max_detections), device)
        self._troubles: Troubles | None = None

    def tell(self, asked: BoxesAsked) -> Future[BoxesEnd]:
        """Boxes for a frame to come, from any thread."""
        return self._inbox.ask(asked)

    def detect(self, frame: Frame) -> Detections:
        """K rows, best score first; not `computed` on a frame that no boxes are there for.

        Boxes that came with the frame and cannot be used are left out, counted and told. One small
        copy to the device where there are boxes: the named exit `boxes`.
        """
        on = self.switch.is_on(frame.frame_id)
        given = []
        if frame.epoch >= 0:  # a warm-up is no frame of the stream
            given = self._inbox.take(frame.epoch, frame.frame_id, frame.window, on=on)
        if frame.boxes is not None:
            given.append(self._usable(frame, frame.boxes))
        if not given or not on:
            return self._nothing.detect(frame)
        rows = self._best(frame, np.concatenate(given))
        with torch.inference_mode():
            with named_exit("boxes"):
                there = torch.from_numpy(rows).to(self._device)
            return self._choice.detections(frame, there[:, :4], there[:, 4], there[:, 5].int())

    def _usable(self, frame: Frame, boxes: FoundBoxes) -> FoundBoxes:
        """Those that came with the frame and have no flaw."""
        flaws = flaws_of(boxes, frame.window, len(self.class_names))
        for flaw, times in Counter(flaw for flaw in flaws if flaw).items():
            self._tell(
                frame, flaw, f"{times} boxes of frame {frame.frame_id}: {FLAWS[flaw]}", times
            )
        return boxes[[flaw is None for flaw in flaws]]

    def _best(self, frame: Frame, boxes: FoundBoxes) -> FoundBoxes:
        """(K, 6) in pixels of the window, best first, padded with zeros, which are no area."""
        more = len(boxes) - self._rows
        if more > 0:
            message = (
                f"{len(boxes)} boxes for frame {frame.frame_id}, at most {self._rows} are used"
            )
            self._tell(frame, "too_many_boxes", message, more)
        order = np.argsort(-boxes[:, 4], kind="stable")[: self._rows]
        rows = np.zeros((self._rows, 6), np.float32)
        rows[: len(order)] = in_window(boxes[order], frame.window)
        return rows

    def _tell(self, frame: Frame, kind: str, message: str, times: int) -> None:
        if self._troubles is None:
            self._troubles = Troubles(frame.source_id)
        self._troubles.add(kind, message, times)
