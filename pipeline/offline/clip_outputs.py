"""What is written of each frame of a clip: `ClipOutputs`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pipeline.offline.clip_plan import Way
from pipeline.offline.drawing import Drawn, overlay
from pipeline.offline.folder import FRAMES, MASKS, OVERLAYS, OutFolder
from pipeline.offline.measure import mask_of, measured
from pipeline.offline.palette import label_picture, save_labels, save_picture
from pipeline.offline.records import FrameRecord, PromptRecord, VideoResults
from pipeline.offline.video_job import VideoJob

if TYPE_CHECKING:
    from torch import Tensor

    from stages.clip.records import ClipFrame
    from stages.clip.session import Clip


class ClipOutputs:
    """Pictures of frames, and the records that `results.json` is made of."""

    def __init__(self, folder: OutFolder, clip: Clip, results: VideoResults, job: VideoJob) -> None:
        """`results`: what is known of them at the start."""
        self._folder, self._clip, self._results = folder, clip, results
        self._saved, self._spacing, self._fps = job.saved, job.spacing_mm, job.fps
        self._labels = {int(each): label for each, label in results.labels.items()}
        told = results.prompts
        self._names = {one.object: one.name for one in told if one.name is not None}
        self._prompts: dict[int, list[tuple[int, PromptRecord]]] = {}
        for one in told:
            self._prompts.setdefault(one.frame, []).append((self._labels[one.object], one))

    def write(self, found: ClipFrame, logits: Tensor, way: Way) -> FrameRecord:
        """Write the files of one frame, whose `logits` are float32 (N, 1, H, W); raises
        `OutputError`, and `SourceError` for a frame that cannot be read again."""
        masks = (logits[:, 0] > self._results.mask_threshold).cpu().numpy()
        scores = zip(found.quality.cpu().tolist(), found.presence.cpu().tolist(), strict=True)
        spacing = self._spacing or self._clip.spacing_mm(found.frame_idx)
        record = FrameRecord(
            frame=found.frame_idx,
            time_s=self._time_s(found.frame_idx),
            spacing_mm=spacing,
            direction=way,
            masks=tuple(
                measured(mask, each, spacing, quality=quality, presence=presence)
                for each, mask, (quality, presence) in zip(
                    found.obj_ids, masks, scores, strict=True
                )
            ),
        )
        self._save(record, dict(zip(found.obj_ids, masks, strict=True)))
        return record

    def drawn(self, record: FrameRecord) -> tuple[NDArray[np.uint8], Image.Image]:
        """A frame, uint8 (H, W) or (H, W, 3), and the same with its objects on it, from its record
        alone. Raises `SourceError` for a frame that cannot be read again."""
        masks = {each.object: mask_of(each, self._clip.size_hw) for each in record.masks}
        pixels = pixels_of(self._clip, record.frame)
        return pixels, self._overlay(pixels, record, masks)

    def _time_s(self, frame: int) -> float | None:
        time_s = self._clip.time_s(frame) if self._fps is None else frame / self._fps
        return None if time_s is None else round(time_s, 6)

    def _save(self, record: FrameRecord, masks: Mapping[int, NDArray[np.bool_]]) -> None:
        name = f"frame_{record.frame:05d}.png"
        if "masks" in self._saved:
            picture = label_picture(masks, self._labels, self._clip.size_hw)
            with self._folder.place(f"{MASKS}/{name}") as part:
                save_labels(picture, part)
        if not self._saved & {"frames", "overlays"}:
            return
        pixels = pixels_of(self._clip, record.frame)
        if "frames" in self._saved:
            with self._folder.place(f"{FRAMES}/{name}") as part:
                save_picture(pixels, part)
        if "overlays" in self._saved:
            with self._folder.place(f"{OVERLAYS}/{name}") as part:
                save_picture(self._overlay(pixels, record, masks), part)

    def _overlay(
        self,
        pixels: NDArray[np.uint8],
        record: FrameRecord,
        masks: Mapping[int, NDArray[np.bool_]],
    ) -> Image.Image:
        objects = []
        for each in record.masks:
            name = " ".join((f"#{each.object}", self._names.get(each.object, ""))).rstrip()
            text = f"{name}: {each.quality or 0:.2f}"
            objects.append(
                Drawn(self._labels[each.object], text, masks[each.object], each.box_xyxy)
            )
        return overlay(pixels, objects, self._prompts.get(record.frame, ()))


def pixels_of(clip: Clip, frame: int) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) of a frame, or (H, W) where its three planes are one; on the host. Raises
    `SourceError`."""
    with torch.inference_mode():
        picture = clip.picture(frame)
        plain = picture[0] if picture.stride(0) == 0 else picture.permute(1, 2, 0)
        return np.ascontiguousarray(plain.cpu().numpy())
