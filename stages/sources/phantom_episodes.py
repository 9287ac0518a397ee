"""What moves through the synthetic scene, and when: one `Episode` an object's stay in view.

An episode is a pure function of the frame index, so that frames can be asked for in any order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

LUMEN: Final = 0
LESION: Final = 1
NEEDLE: Final = 2


@dataclass(frozen=True, slots=True, eq=False)
class Pose:
    """An object ``age`` frames into its episode.

    ``centre_yx`` in pixels (a needle's tip); ``contrast`` in 0..1; ``scale`` of its full size
    (a needle: inserted length in pixels); ``angle`` in radians, from rightwards to downwards.
    """

    age: int
    centre_yx: tuple[float, float]
    contrast: float
    scale: float
    angle: float


@dataclass(frozen=True, slots=True, eq=False)
class Episode:
    """One stay of one object, frames ``start`` to ``start + length``.

    Blobs travel from ``path_yx[0]`` to ``path_yx[1]``; a needle runs from its entry to the
    point of deepest insertion. ``half_axes`` are (along, across) in pixels: a needle's are
    (inserted length, half thickness). ``ripple`` (k, 4): order, amplitude, phase, and radians
    a frame of the outline's harmonics. ``sway`` (2, 3): amplitude px, radians a frame, phase,
    for y and x (a needle: for its advance; the second row is zero). ``ramp`` is the number of
    frames that a blob takes to fade in or out, and a needle to advance or retract. ``level`` is
    the object's grey level over the depth gain, ``shade`` what it adds to the grey levels behind
    it, ``texture_shift`` (y, x) its centre's place in the textures. Upper objects have the
    larger ``z``.
    """

    object_id: int
    class_id: int
    start: int
    length: int
    z: float
    path_yx: tuple[tuple[float, float], tuple[float, float]]
    half_axes: tuple[float, float]
    angle: float
    ripple: NDArray[np.float64]
    sway: NDArray[np.float64]
    ramp: float
    level: float
    shade: float
    texture_shift: tuple[int, int]

    def pose(self, index: int, tissue_yx: tuple[float, float]) -> Pose | None:
        """The pose at a frame, moved along with the tissue; None outside the episode."""
        age = index - self.start
        if not 0 <= age < self.length:
            return None
        wave = self.sway[:, 0] * np.sin(self.sway[:, 1] * age + self.sway[:, 2])
        if self.class_id == NEEDLE:
            return self._needle_pose(age, float(wave[0]))
        contrast = min(1.0, (age + 1) / self.ramp, (self.length - age) / self.ramp)
        part = _ease(age / self.length)
        (y0, x0), (y1, x1) = self.path_yx
        centre = (
            y0 + part * (y1 - y0) + float(wave[0]) + tissue_yx[0],
            x0 + part * (x1 - x0) + float(wave[1]) + tissue_yx[1],
        )
        angle = self.angle + 0.12 * float(np.sin(self.sway[1, 1] * age))
        return Pose(age, centre, contrast, 0.8 + 0.2 * contrast, angle)

    def _needle_pose(self, age: int, wave: float) -> Pose:
        full = self.half_axes[0]
        inserted = full * _ease(min(1.0, (age + 1) / self.ramp, (self.length - age) / self.ramp))
        inserted = max(inserted + min(1.0, inserted / full) * wave, 1.0)
        angle = self.angle + 0.02 * float(np.sin(self.sway[0, 1] * age * 0.7))
        y, x = self.path_yx[0]
        tip = (y + inserted * float(np.sin(angle)), x + inserted * float(np.cos(angle)))
        return Pose(age, tip, 1.0, inserted, angle)


def _ease(part: float) -> float:
    """Smoothstep, 0..1; its steepest slope is 1.5."""
    return part * part * (3.0 - 2.0 * part)
