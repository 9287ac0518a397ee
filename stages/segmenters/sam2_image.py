"""Every frame segmented afresh by SAM2's image model: boxes and configured prompts to masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from kpi.emit import emit
from kpi.events import ObjectRefused
from stages.checkpoints import one_line
from stages.errors import ConfigError
from stages.packets import HostPacket, Identity
from stages.records import EMPTY_SLOT, Detections, Encoded, Frame, Tracks
from stages.segmenters.mask_head import NO_MASK
from stages.segmenters.prompts import BOX_CORNERS, group_prompts
from stages.segmenters.sam2_checkpoint import build_sam2
from stages.segmenters.sam2_config import Sam2Config
from stages.segmenters.sam2_network import Decoded, Features, Sam2Network, joined
from stages.segmenters.slot_table import NO_CLASS
from stages.segmenters.slots import Candidates, place_detections
from stages.window import Window, whole


class Sam2ImageConfig(Sam2Config):
    """SAM2 on single pictures; ids live for one frame. Prompts take the first slots."""

    kind: Literal["sam2_image"] = "sam2_image"


@dataclass(frozen=True, slots=True, eq=False)
class _Scene:
    """What stays the same from one frame of an epoch to the next."""

    epoch: int
    window: Window
    tokens: tuple[Tensor, ...]
    """The embedded prompts, one tensor a group."""
    valid: Tensor
    """bool (P,): prompts that lie in the frame."""


class Sam2ImageSegmenter:
    """N slots: the P configured prompts, then the best valid detections.

    Between key frames (`detections.computed` False) the boxes last detected in this epoch are
    segmented again in the new picture, less those of a class that is looked for no longer.
    """

    identity: Identity = "none"

    def __init__(
        self, config: Sam2ImageConfig, device: torch.device, first_prompt_class: int = 0
    ) -> None:
        """Build and load the model; raises `ConfigError`.

        The prompts' class ids follow those of the detector: `first_prompt_class` is how many the
        detector has, `prompt_names` what the ids from there on mean.
        """
        self.prompt_names = tuple(prompt.name or "prompt" for prompt in config.prompts)
        model = build_sam2(config.model, config.checkpoint, config.sha256, device)
        self._network = Sam2Network(model)
        self._prompts = config.prompts
        self._free = config.max_objects - len(config.prompts)
        self._groups = group_prompts(config.prompts, device)
        rows = [place for group in self._groups for place in group.members]
        order = [rows.index(place) for place in range(len(rows))]
        self._order = torch.tensor([*order, *range(len(rows), config.max_objects)], device=device)
        self._in_order = order == sorted(order)
        self._corners = torch.tensor([BOX_CORNERS], dtype=torch.int32, device=device)
        last = first_prompt_class + len(config.prompts)
        ids = range(first_prompt_class, last)
        self._prompt_classes = torch.tensor(ids, dtype=torch.int32, device=device)
        self._nobody = Candidates.empty(0, device)
        self._age = torch.zeros(config.max_objects, dtype=torch.int32, device=device)
        self._next_id = torch.zeros((), dtype=torch.int64, device=device)
        self.unplaced = torch.zeros((), dtype=torch.int64, device=device)
        """int64 (), on the device: valid detections that found no free slot, since the start."""
        self._scene: _Scene | None = None
        self._held = self._nobody
        self._try(config.model)

    @torch.inference_mode()
    def encode(self, detections: Detections) -> Encoded:
        """The picture's features."""
        return Encoded(detections, self._network.encode(detections.frame.rgb))

    @torch.inference_mode()
    def segment(self, given: Encoded | Detections) -> Tracks:
        """N slots of age 0, with ids that never repeat in an epoch.

        On the first frame of an epoch `ObjectRefused` tells of each prompt that lies outside.
        """
        encoded = given if isinstance(given, Encoded) else self.encode(given)
        detections, frame = encoded.detections, encoded.detections.frame
        scene = self._scene
        if scene is None or (scene.epoch, scene.window) != (frame.epoch, frame.window):
            scene = self._scene = self._enter(frame)
        if detections.computed:
            self._held, surplus = place_detections(detections, self._free)
            self.unplaced += surplus
        self._held = self._held.looked_for(detections.classes)
        decoded = self._decode(cast(Features, encoded.features), scene, self._held)
        return self._tracks(detections, decoded, scene.valid, self._held)

    def weights_sha256(self) -> str:
        """See `stages.base.Weighted`."""
        return self._network.weights_sha256()

    def heed(self, packet: HostPacket) -> None:
        """Nothing to learn: each frame stands for itself."""

    def close(self) -> None:
        """Nobody waits."""

    @torch.inference_mode()
    def warm_up(self, size_hw: tuple[int, int]) -> None:
        """Run the network once, every slot in use, on a black frame of `size_hw` (height, width).

        Changes no id and emits nothing.
        """
        device = self._network.device
        features = self._network.encode(torch.zeros(3, *size_hw, dtype=torch.uint8, device=device))
        everyone = Candidates.empty(self._free, device)
        self._decode(features, self._look_at(-1, whole(size_hw)), everyone)

    def _try(self, model: str) -> None:
        """Find at the start what a structure cannot do."""
        try:
            self.warm_up((self._network.image_size, self._network.image_size))
        except Exception as error:  # whatever sam2 makes of sizes that do not fit together
            raise ConfigError(f"{model}: sam2 cannot run this model ({one_line(error)})") from error

    def _enter(self, frame: Frame) -> _Scene:
        """Begin an epoch: ids from 0, no boxes held, prompts checked against the frame's size."""
        for prompt in self._prompts:
            if not prompt.inside(frame.window):
                emit(ObjectRefused(frame.source_id, frame.epoch, frame.frame_id, "bad_prompt"))
        self._held = self._nobody
        self._next_id.zero_()
        return self._look_at(frame.epoch, frame.window)

    def _look_at(self, epoch: int, window: Window) -> _Scene:
        valid = torch.ones(len(self._prompts), dtype=torch.bool, device=self._network.device)
        for place, prompt in enumerate(self._prompts):
            if not prompt.inside(window):
                valid[place].fill_(False)
        tokens = tuple(
            self._network.embed(group.coords_in(window), group.labels, window.size_hw)
            for group in self._groups
        )
        return _Scene(epoch, window, tokens, valid)

    def _decode(self, features: Features, scene: _Scene, held: Candidates) -> Decoded:
        """P + R rows in the order of the slots; equally long prompts share a call."""
        batches = list(scene.tokens)
        rows = held.valid.shape[0]
        if rows:
            corners = held.boxes_xyxy.view(-1, 2, 2)
            labels = self._corners.expand(rows, -1)
            boxes = self._network.embed(corners, labels, scene.window.size_hw)
            if batches and batches[-1].shape[1] == boxes.shape[1]:
                batches[-1] = torch.cat((batches[-1], boxes))
            else:
                batches.append(boxes)
        # A lone click (and its padding) is ambiguous: the model proposes three masks.
        parts = [
            self._network.decode(features, tokens, multimask=tokens.shape[1] == 2)
            for tokens in batches
        ]
        decoded = joined(parts) if parts else self._network.no_masks
        return decoded if self._in_order else decoded.rows(self._order[: len(self._prompts) + rows])

    def _tracks(
        self, detections: Detections, decoded: Decoded, prompted: Tensor, held: Candidates
    ) -> Tracks:
        """The rows filled up to N slots; those that are not valid are emptied."""
        empty = self._age.shape[0] - decoded.quality.shape[0]
        valid = F.pad(torch.cat((prompted, held.valid)), (0, empty))
        scores = torch.cat((torch.ones_like(prompted, dtype=torch.float32), held.scores))
        classes = torch.cat((self._prompt_classes, held.class_ids))
        logits = F.pad(decoded.logits, (0, 0, 0, 0, 0, empty))
        counted = valid.cumsum(0)
        object_ids = torch.where(valid, self._next_id + counted - 1, EMPTY_SLOT)
        self._next_id += counted[-1]
        return Tracks(
            detections,
            logits=torch.where(valid[:, None, None], logits, NO_MASK),
            object_ids=object_ids,
            presence=F.pad(decoded.presence, (0, empty)),
            quality=F.pad(decoded.quality, (0, empty)),
            age_frames=self._age,
            scores=F.pad(scores, (0, empty)),
            class_ids=F.pad(classes, (0, empty), value=NO_CLASS),
            valid=valid,
        )
