"""A synthetic ultrasound stream with known truth: `PhantomScene`.

Three classes of targets move through speckled tissue, cross, shade and hide one another, and
come and go; fascia, bright specks and wall-less dark patches are there to be told from them.
Every frame is a pure function of (seed, size, view, index). Seeds from 10000 on are kept for
evaluation: train on smaller ones only.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from stages.sources.phantom_casting import SITES, draw_episode
from stages.sources.phantom_episodes import LESION, LUMEN, NEEDLE, Episode
from stages.sources.phantom_geometry import FloatMap, ViewKind, make_field_of_view
from stages.sources.phantom_objects import paint, shade
from stages.sources.phantom_outline import Outline, is_counted, is_visible, outline
from stages.sources.phantom_rib import cast_shadow, draw_rib
from stages.sources.phantom_texture import MARGIN_PX, cut, make_textures

CLASS_NAMES: Final = ("lumen", "lesion", "needle")

_MIN_SIDE: Final = 96
_NEEDLE_SHARE: Final = (0.7, 0.3, 0.05, 0.0, 0.0)  # of the episodes of each slot
_SCENE_STREAM: Final = 0  # first words of the seeds of independent random streams
_EPISODE_STREAM: Final = 1


@dataclass(frozen=True, slots=True, eq=False)
class SceneTruth:
    """What can be seen in a frame, a row an object.

    ``object_ids`` int64 (n,), ascending, never reused within a scene; ``class_ids`` int32 (n,),
    into `CLASS_NAMES`; ``masks`` bool (n, H, W), visible pixels only, disjoint; ``counted``
    bool (n,): at least 400 visible pixels and more than 12 px thick.
    """

    object_ids: NDArray[np.int64]
    class_ids: NDArray[np.int32]
    masks: NDArray[np.bool_]
    counted: NDArray[np.bool_]


class PhantomScene:
    """An endless synthetic scan; frames may be asked for in any order.

    ``seed`` is any integer >= 0, ``size_hw`` (height, width) with sides of at least 96 px,
    ``view`` the probe (``auto`` draws one), ``max_objects`` 1 to 5 targets at once.
    ``spacing_mm`` is the (y, x) size of a pixel. Raises ValueError for any other argument.
    """

    spacing_mm: tuple[float, float]

    def __init__(
        self,
        seed: int,
        size_hw: tuple[int, int] = (480, 640),
        view: Literal["convex", "linear", "auto"] = "auto",
        max_objects: int = 5,
    ) -> None:
        self._seed = _checked_int("seed", seed, 0, None)
        self._size_hw = _checked_size(size_hw)
        self._slots = _checked_int("max_objects", max_objects, 1, SITES)
        if view not in ("convex", "linear", "auto"):
            raise ValueError(f"view is {view!r}, expected 'convex', 'linear' or 'auto'")
        rng = np.random.default_rng((_SCENE_STREAM, self._seed))
        drawn: ViewKind = "convex" if rng.random() < 0.5 else "linear"
        self._fov = make_field_of_view(drawn if view == "auto" else view, self._size_hw, rng)
        self._textures = make_textures(self._fov, rng)
        self._seen = self._fov.inside.astype(np.uint8)
        pixel = float(rng.uniform(60.0, 140.0)) / self._fov.depth_px
        self.spacing_mm = (pixel, pixel)
        self._rib = draw_rib(self._fov, rng) if rng.random() < 0.5 else None
        self._sites = rng.permutation(SITES)
        self._period = rng.integers(330, 430, self._slots)
        self._phase = rng.integers(60, 330, self._slots)
        self._breath = rng.uniform((4, 90, 0), (11, 150, 6.3), (2, 3))
        self._cache: list[tuple[int, Episode] | None] = [None] * self._slots

    def render(self, index: int) -> NDArray[np.uint8]:
        """The picture of frame ``index`` (>= 0), uint8 (H, W) gray."""
        index = _checked_int("index", index, 0, None)
        shift = self._tissue_shift(index)
        echo = self._tissue(index, shift)
        gain = self._textures.gain.copy()
        for shape in self._shapes(index, shift):
            paint(shape, echo, self._textures)
            shade(shape, self._fov, gain)
        echo += gain
        self._draw_rib(index, echo)
        np.clip(echo, 0, 255, out=echo)
        picture: NDArray[np.uint8] = echo.astype(np.uint8)
        picture *= self._seen
        return picture

    def truth(self, index: int) -> SceneTruth:
        """What can be seen in frame ``index`` (>= 0); see `SceneTruth`."""
        index = _checked_int("index", index, 0, None)
        shapes = self._shapes(index, self._tissue_shift(index))
        owner = np.zeros(self._size_hw, dtype=np.uint8)
        for place, shape in enumerate(shapes, start=1):
            if is_visible(shape):
                owner[shape.box][shape.distance < 0] = place
        owner *= self._seen
        shadow = cast_shadow(self._rib, self._fov, index) if self._rib else None
        if shadow is not None:
            owner[shadow.box][shadow.hides()] = 0
        found = [
            (shape.episode.object_id, shape.episode.class_id, place)
            for place, shape in enumerate(shapes, start=1)
            if bool((owner[shape.box] == place).any())
        ]
        found.sort()
        masks = np.zeros((len(found), *self._size_hw), dtype=np.bool_)
        for row, (_, _, place) in enumerate(found):
            box = shapes[place - 1].box
            masks[row][box] = owner[box] == place
        return SceneTruth(
            object_ids=np.array([row[0] for row in found], dtype=np.int64),
            class_ids=np.array([row[1] for row in found], dtype=np.int32),
            masks=masks,
            counted=np.array([is_counted(mask) for mask in masks], dtype=np.bool_),
        )

    def _tissue_shift(self, index: int) -> tuple[float, float]:
        """Breathing: how far (y, x) the tissue, and what lies in it, is displaced, in pixels."""
        size, period, phase = self._breath.T
        wave = size * np.sin(2 * np.pi * index / period + phase) * min(self._size_hw) / 480.0
        return 0.9 * float(wave[0]), float(wave[1])

    def _tissue(self, index: int, shift: tuple[float, float]) -> FloatMap:
        """Tissue without gain, float32 (H, W), with speckle that decorrelates slowly."""
        room = MARGIN_PX - 1
        limited = [min(max(round(part), -room), room) for part in shift]
        at = (MARGIN_PX - limited[0], MARGIN_PX - limited[1])
        hop = ((index * 37) % (2 * MARGIN_PX), (index * 29) % (2 * MARGIN_PX))
        return cut(self._textures.tissue, self._size_hw, at) + cut(
            self._textures.flicker, self._size_hw, hop
        )

    def _draw_rib(self, index: int, picture: FloatMap) -> None:
        shadow = cast_shadow(self._rib, self._fov, index) if self._rib else None
        if shadow is not None:
            target = picture[shadow.box]
            target *= 1 - np.float32(0.985) * shadow.dark
            target += np.float32(120) * shadow.cap

    def _shapes(self, index: int, shift: tuple[float, float]) -> list[Outline]:
        """The outlines in view, the lowest first."""
        shapes = []
        for slot in range(self._slots):
            episode = self._episode(slot, index)
            pose = episode.pose(index, shift)
            shape = outline(self._fov, episode, pose) if pose else None
            if shape is not None:
                shapes.append(shape)
        return sorted(shapes, key=lambda shape: shape.episode.z)

    def _episode(self, slot: int, index: int) -> Episode:
        """The slot's episode whose period holds the frame; each has its own random stream."""
        period = int(self._period[slot])
        turn, _ = divmod(index + int(self._phase[slot]), period)
        cached = self._cache[slot]
        if cached is not None and cached[0] == turn:
            return cached[1]
        rng = np.random.default_rng((_EPISODE_STREAM, self._seed, slot, turn))
        blob = LUMEN if rng.random() < 0.5 else LESION
        class_id = NEEDLE if rng.random() < _NEEDLE_SHARE[slot] else blob
        pause = int(rng.integers(10, 60))
        episode = draw_episode(
            self._fov,
            rng,
            object_id=turn * self._slots + slot + 1,
            class_id=class_id,
            start=turn * period - int(self._phase[slot]) + pause,
            room=period - pause,
            site=int(self._sites[slot]),
        )
        self._cache[slot] = (turn, episode)
        return episode


def _checked_int(name: str, value: int, low: int, high: int | None) -> int:
    expected = f"an integer >= {low}" if high is None else f"an integer from {low} to {high}"
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} is {value!r}, expected {expected}") from None
    if isinstance(value, bool) or number < low or (high is not None and number > high):
        raise ValueError(f"{name} is {value!r}, expected {expected}")
    return number


def _checked_size(size_hw: tuple[int, int]) -> tuple[int, int]:
    expected = f"(height, width), two integers >= {_MIN_SIDE}"
    try:
        height, width = (operator.index(side) for side in size_hw)
    except (TypeError, ValueError):
        raise ValueError(f"size_hw is {size_hw!r}, expected {expected}") from None
    if min(height, width) < _MIN_SIDE:
        raise ValueError(f"size_hw is {size_hw!r}, expected {expected}")
    return height, width
