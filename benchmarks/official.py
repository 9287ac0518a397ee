"""sam2's unmodified video predictor, driven frame by frame through the same history as ours."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from sam2 import sam2_video_predictor
from sam2.build_sam import build_sam2_video_predictor
from torch import Tensor

from benchmarks.script import Step
from stages.segmenters.sam2_checkpoint import DEMO
from stages.sources.phantom_scene import PhantomScene, SceneTruth
from tools.batches import normalised
from tools.phantom_clips import FRAME_HW, mask_boxes
from tools.weights import SAM2_YAML, build_sam2, load_weights

sam2_video_predictor.tqdm = lambda frames, **_: frames  # no progress bar for every frame
SCENE = (10_012, 300)
"""Seed and first frame of a scene whose objects stay in view for long."""
UNSURE = "unsure"
"""The demo's model made unsure of its masks, with a memory that minds it; `_make_unsure`."""
ENDLESS = 10**9
"""Frames that the predictor is told of: the pointers' time scale is then that of a stream."""


def build_official(config: str, conditioning: int, seed: int = 0) -> Any:  # noqa: ANN401
    """`SAM2VideoPredictor` with the demo's weights, as they are or `UNSURE`, or one of the
    package's structures with random weights; without hole filling (its CUDA extension is not
    built here)."""
    if config in (DEMO, UNSURE):
        predictor: Any = build_sam2(video=True)
        load_weights(SAM2_YAML.with_suffix(".safetensors"), predictor)
        if config == UNSURE:
            _make_unsure(predictor)
    else:
        torch.manual_seed(seed)
        folder = config.split("_", 1)[0]
        predictor = build_sam2_video_predictor(f"configs/{folder}/{config}.yaml", device="cpu")
    predictor.fill_hole_area = 0
    predictor.max_cond_frames_in_attn = conditioning
    return predictor.requires_grad_(False)


@torch.no_grad()
def _make_unsure(predictor: Any) -> None:  # noqa: ANN401
    """Make binarised masks differ from plain ones.

    The demo's are sure almost everywhere, and its memory reads their sign more than their size:
    left plain, its logits change by less than 1e-3. So logits become a tenth, what is read from
    memory weighs four times as much, and the mask encoder's first layer gets random offsets that
    a small mask cannot outweigh.
    """
    for layers in predictor.sam_mask_decoder.output_hypernetworks_mlps:
        layers.layers[-1].weight.mul_(0.1)
        layers.layers[-1].bias.mul_(0.1)
    for layer in predictor.memory_attention.layers:
        layer.cross_attn_image.out_proj.weight.mul_(4)
    first = predictor.memory_encoder.mask_downsampler.encoder[0]
    noise = torch.randn(first.bias.shape, generator=torch.Generator().manual_seed(0))
    first.bias.add_(5 * noise * first.weight.abs().sum((1, 2, 3)).mean())


def scene_pictures(frames: int, size: int, place: tuple[int, int] = SCENE) -> list[Tensor]:
    """float32 (3, size, size) each: a phantom's frames as sam2's own loader resizes them."""
    seed, first = place
    scene = PhantomScene(seed, size_hw=FRAME_HW)
    return [
        normalised(np.asarray(Image.fromarray(scene.render(first + t)).resize((size, size))))
        for t in range(frames)
    ]


class Told:
    """The prompts of the history, from the phantom's truth; one object a name."""

    def __init__(self) -> None:
        seed, self._first = SCENE
        self._scene = PhantomScene(seed, size_hw=FRAME_HW)
        self._ids: dict[str, int] = {}

    def box(self, number: int, step: Step) -> Tensor:
        """float32 (4,), frame pixels."""
        mask = self.mask(number, step)
        return torch.from_numpy(mask_boxes(mask[None].numpy())[0])

    def click(self, number: int, step: Step) -> Tensor:
        """float32 (1, 2): x, y of the topmost pixel, where the model is least sure."""
        inside = torch.nonzero(self.mask(number, step))
        y, x = inside[0].tolist()
        return torch.tensor([[x + 0.5, y + 0.5]])

    def mask(self, number: int, step: Step) -> Tensor:
        """bool (H, W) of the object of that name; of the largest free one where it is gone."""
        truth = self._scene.truth(self._first + number)
        known = self._ids.get(step.name)
        if known not in truth.object_ids.tolist():
            known = _largest(truth, set(self._ids.values()))
            self._ids[step.name] = known
        row = truth.object_ids.tolist().index(known)
        return torch.from_numpy(truth.masks[row])


def _largest(truth: SceneTruth, taken: set[int]) -> int:
    sizes = truth.masks.sum((1, 2)) * np.array([i not in taken for i in truth.object_ids.tolist()])
    return int(truth.object_ids[int(sizes.argmax())])


class OfficialPredictor:
    """The reference: its state grows with every frame."""

    def __init__(
        self,
        predictor: Any,  # noqa: ANN401
        pictures: list[Tensor],
    ) -> None:
        self._predictor = predictor
        self._state = new_state(pictures)
        self._told = Told()
        self._ids: dict[str, int] = {}
        self._given = 0

    def frame(self, number: int, steps: list[Step]) -> dict[str, Tensor]:
        """The objects' low-resolution logits (h, w) after frame `number`, by name."""
        for step in steps:
            if step.action == "remove":
                self._predictor.remove_object(self._state, self._ids.pop(step.name))
            elif step.action == "add":
                self._ids[step.name], self._given = self._given, self._given + 1
            if step.action in ("add", "reinit"):
                self._prompt(number, step)
        if self._ids:
            for _ in self._predictor.propagate_in_video(self._state, number, 0):
                pass
        for step in steps:
            if step.action == "correct":
                self._prompt(number, step)
                self._predictor.propagate_in_video_preflight(self._state)
        return dict(self._logits(number))

    def _prompt(self, number: int, step: Step) -> None:
        at = (self._state, number, self._ids[step.name])
        if step.told_by == "mask":
            self._predictor.add_new_mask(*at, self._told.mask(number, step))
        elif step.told_by == "box":
            self._predictor.add_new_points_or_box(*at, box=self._told.box(number, step))
        else:
            click = self._told.click(number, step)
            self._predictor.add_new_points_or_box(*at, points=click, labels=torch.tensor([1]))

    def _logits(self, number: int) -> Iterator[tuple[str, Tensor]]:
        for name, object_id in self._ids.items():
            place = self._state["obj_id_to_idx"][object_id]
            outputs = self._state["output_dict_per_obj"][place]
            cond, other = outputs["cond_frame_outputs"], outputs["non_cond_frame_outputs"]
            yield name, (cond.get(number) or other[number])["pred_masks"][0, 0]


def new_state(pictures: list[Tensor]) -> dict[str, Any]:
    """An inference state on pictures in memory; sam2 itself only opens files."""
    device = torch.device("cpu")
    per_object = ("point_inputs", "mask_inputs", "output_dict", "temp_output_dict",
                  "frames_tracked")  # fmt: skip
    return {
        "images": pictures, "num_frames": ENDLESS, "offload_video_to_cpu": False,
        "offload_state_to_cpu": False, "video_height": FRAME_HW[0], "video_width": FRAME_HW[1],
        "device": device, "storage_device": device, "cached_features": {}, "constants": {},
        "obj_id_to_idx": OrderedDict(), "obj_idx_to_id": OrderedDict(), "obj_ids": [],
        **{f"{name}_per_obj": {} for name in per_object},
    }  # fmt: skip
