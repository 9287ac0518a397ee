"""A clip tracked by sam2's unmodified predictor and by ours: the same prompts, the same walks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.clip_flaws import CLIP_FLAWS
from benchmarks.official import SCENE, new_state
from benchmarks.parity import Parity, judged
from stages.clip.session import Clip, Given
from stages.segmenters.tracker_core import TrackerCore
from stages.sources.phantom_scene import PhantomScene, SceneTruth
from tools.phantom_clips import mask_boxes


class ArrayFrames:
    """`Frames` that are in memory already."""

    fps: float | None = None
    trouble: str | None = None

    def __init__(self, pictures: Sequence[NDArray[Any]]) -> None:
        self._pictures = pictures
        self.count = len(pictures)
        self.size_hw = (pictures[0].shape[0], pictures[0].shape[1])

    def read(self, index: int) -> NDArray[Any]:
        """See `stages.clip.frames.Frames`."""
        return self._pictures[index]

    def spacing_mm(self, index: int) -> tuple[float, float] | None:
        """See `Frames.spacing_mm`."""
        return None

    def time_s(self, index: int) -> float | None:
        """See `Frames.time_s`."""
        return None

    def close(self) -> None:
        """Nothing to release."""


class Predictor(Protocol):
    """What both can do."""

    add_new_points_or_box: Callable[..., Given]
    add_new_mask: Callable[..., Given]
    propagate_in_video: Callable[..., Iterator[Given]]


class OfficialClip:
    """`SAM2VideoPredictor` on pictures that `TrackerCore` resized."""

    def __init__(self, predictor: Any, pictures: Sequence[NDArray[Any]], core: TrackerCore) -> None:  # noqa: ANN401
        self._predictor = predictor
        small = [core.network.transform(planes(picture))[0] for picture in pictures]
        self._state = new_state(small)
        height, width = pictures[0].shape[:2]
        self._state |= {
            "num_frames": len(pictures), "video_height": height, "video_width": width,
        }  # fmt: skip

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """The predictor's own method, on the clip's state."""
        return partial(getattr(self._predictor, name), self._state)


def planes(picture: NDArray[Any]) -> Tensor:
    """uint8 (3, H, W) of (H, W) or (H, W, 3)."""
    pixels = torch.from_numpy(np.ascontiguousarray(picture))
    return pixels.expand(3, -1, -1) if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def in_float(predictor: Any) -> Any:  # noqa: ANN401
    """The predictor with what it remembers handed to its attention as float32.

    It keeps spatial memory in bfloat16, which becomes float32 where it is joined with pointers.
    Without pointers, where every prompt is still to come, it fails in float32 (it is meant to run
    under autocast); the numbers are the same.
    """
    predictor.memory_attention.register_forward_pre_hook(
        lambda _, args, named: (args, {**named, "memory": named["memory"].float()}),
        with_kwargs=True,
    )
    return predictor


@dataclass(frozen=True, slots=True)
class Asked:
    """One prompt, from the phantom's truth."""

    frame: int
    obj_id: int
    told_by: Literal["box", "click", "mask"]


PROMPTS: Final = (
    Asked(0, 1, "box"),
    Asked(20, 2, "click"),
    Asked(45, 3, "mask"),
    Asked(20, 1, "mask"),
    Asked(45, 1, "click"),
)
"""Of a clip of 60 frames; on shorter ones they come as much sooner."""
LENGTH: Final = 60


class ClipHistory:
    """A phantom, prompts on three of its frames, and walks forward and backward from the second.

    At the start of the backward walk what comes after it is known from the forward walk, there
    are prompts still to come, and an object that is not prompted yet.
    """

    def __init__(self, frames: int, size_hw: tuple[int, int]) -> None:
        seed, first = SCENE
        scene = PhantomScene(seed, size_hw=size_hw)
        self.pictures = [scene.render(first + number) for number in range(frames)]
        self._truth = [scene.truth(first + number) for number in range(frames)]
        self._largest = _largest(self._truth)
        self._prompts = [replace(asked, frame=asked.frame * frames // LENGTH) for asked in PROMPTS]
        self._start = self._prompts[1].frame

    def run(self, predictor: Predictor) -> Iterator[dict[int, Tensor]]:
        """The masks of each step: logits (H, W) by object; of a prompt those of its object."""
        for asked in self._prompts:
            yield {asked.obj_id: _named(self._prompt(predictor, asked))[asked.obj_id]}
        for reverse in (False, True):
            for given in predictor.propagate_in_video(self._start, reverse=reverse):
                yield _named(given)

    def _prompt(self, predictor: Predictor, asked: Asked) -> Given:
        truth = self._truth[asked.frame]
        mask = truth.masks[truth.object_ids.tolist().index(self._largest[asked.obj_id - 1])]
        at = (asked.frame, asked.obj_id)
        if asked.told_by == "mask":
            return predictor.add_new_mask(*at, mask)
        if asked.told_by == "box":
            return predictor.add_new_points_or_box(*at, box=mask_boxes(mask[None])[0])
        y, x = np.argwhere(mask)[len(np.argwhere(mask)) // 2]
        return predictor.add_new_points_or_box(*at, points=[[x + 0.5, y + 0.5]], labels=[1])


def _largest(truth: Sequence[SceneTruth]) -> list[int]:
    """Objects that are in every picture, the one first that never gets small."""
    sizes = [
        dict(zip(now.object_ids.tolist(), now.masks.sum((1, 2)).tolist(), strict=True))
        for now in truth
    ]
    always = set.intersection(*(set(size) for size in sizes))
    return sorted(always, key=lambda name: -min(size[name] for size in sizes))


def _named(given: Given) -> dict[int, Tensor]:
    _, ids, masks = given
    return {name: logits[0].clone() for name, logits in zip(ids, masks, strict=True)}


class ClipComparison:
    """A history run by the official predictor, against which any number of ours can be held."""

    def __init__(self, predictor: Any, frames: int, size_hw: tuple[int, int]) -> None:  # noqa: ANN401
        self._predictor = in_float(predictor)
        self._predictor.max_cond_frames_in_attn = -1
        self._frames = frames
        self._history = ClipHistory(frames, size_hw)
        official = OfficialClip(self._predictor, self._history.pictures, self._core())
        self._wanted = list(self._history.run(official))

    def run(self, flaw: str | None = None) -> Parity:
        """Run ours, whole or with one thing left out."""
        core = self._core(None if flaw == "normaliser" else self._frames)
        clip = Clip(ArrayFrames(self._history.pictures), core)
        if flaw is not None:
            CLIP_FLAWS[flaw](clip)
        with clip:
            return judged(self._wanted, list(self._history.run(clip)))

    def _core(self, frames: int | None = None) -> TrackerCore:
        return TrackerCore(self._predictor, slots=1, conditioning=2, frames=frames)
