"""Speckle and tissue of the synthetic scanner, made once a scene.

Grey levels are log-compressed echo (dB on a linear scale), so echo and speckle add. Fully
developed speckle has a Rayleigh-distributed envelope (Burckhardt, IEEE Trans. Sonics Ultrason.
25(1), 1978): the magnitude of low-pass filtered complex Gaussian noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from stages.sources.phantom_geometry import FieldOfView, FloatMap, beam_maps, clipped_box

MARGIN_PX: Final = 40  # how far the tissue can shift, to every side
_SPECKLE_STD: Final = 21.0  # grey levels, about 5.6 dB at 3.8 grey levels a dB


@dataclass(frozen=True, slots=True, eq=False)
class Textures:
    """What a frame is cut from; float32 grey levels.

    (H + 2 m, W + 2 m) with m = ``MARGIN_PX``: ``tissue``, moving, with its clutter; ``shade``, its
    slow part; ``flicker``, the weaker speckle that decorrelates it; ``speckle``, zero-mean, for
    the objects; ``coarse``, zero-mean, unit-variance noise of about 9 px, for the objects.
    (H, W): ``gain``, the depth gain.
    """

    tissue: FloatMap
    shade: FloatMap
    flicker: FloatMap
    speckle: FloatMap
    coarse: FloatMap
    gain: FloatMap


def make_textures(fov: FieldOfView, rng: np.random.Generator) -> Textures:
    """Draw the textures of a scene."""
    height, width = fov.size_hw
    unit = min(height, width) / 480.0
    ys = np.arange(-MARGIN_PX, height + MARGIN_PX, dtype=np.float32)[:, None]
    xs = np.arange(-MARGIN_PX, width + MARGIN_PX, dtype=np.float32)[None, :]
    scale = fov.half_width_px if fov.kind == "linear" else fov.half_angle
    beams = beam_maps(fov.kind, fov.apex_yx, fov.radius_px, scale, ys, xs)
    speckle, flicker = (_speckle(fov, beams, rng) for _ in range(2))
    shape = speckle.shape
    # Bright regions stay well below a lesion's level.
    large = np.float32(28) * np.clip(_smooth_noise(shape, 150.0 * unit, rng), -2.0, 1.0)
    coarse = _smooth_noise(shape, 9.0 * unit, rng)
    tissue = 0.85 * speckle + large + 5.0 * coarse
    _add_clutter(tissue, beams, fov, unit, rng)
    fraction = np.clip(fov.depth / np.float32(fov.depth_px), 0.0, 1.0)
    near, middle, deep = rng.uniform(74, 92), rng.uniform(84, 108), rng.uniform(40, 62)
    gain = np.interp(fraction, [0.0, 0.04, 0.35, 1.0], [near + 40, near, middle, deep])
    return Textures(tissue, large, 0.45 * flicker, speckle, coarse, gain.astype(np.float32))


def _speckle(
    fov: FieldOfView, beams: tuple[FloatMap, FloatMap], rng: np.random.Generator
) -> FloatMap:
    """Zero-mean log-compressed speckle on the pixels of ``beams``; grains widen with the fan."""
    lateral, depth = beams
    low_u, high_u = float(lateral.min()), float(lateral.max())
    low_d = float(depth.min())
    span_px = fov.pixels_per_lateral(fov.depth_px) * (high_u - low_u)
    if fov.kind == "convex":
        low_u, high_u = max(low_u, -1.35), min(high_u, 1.35)
        low_d = max(low_d, -1.2 * MARGIN_PX)
        span_px = fov.pixels_per_lateral(fov.depth_px) * (high_u - low_u) * 0.6
    rows = int(float(depth.max()) - low_d) + 3
    columns = int(span_px) + 3
    parts = [
        _blur(rng.standard_normal((rows, columns), dtype=np.float32), 1.3, 2.5) for _ in range(2)
    ]
    power = parts[0] ** 2 + parts[1] ** 2
    level = np.log(power + np.float32(0.02) * power.mean())
    level = (level - level.mean()) * np.float32(_SPECKLE_STD / level.std())
    row = np.clip(depth - low_d, 0, rows - 1.001).astype(np.float32)
    column = (lateral - low_u) * np.float32((columns - 1) / (high_u - low_u))
    return _bilinear(level, row, np.clip(column, 0, columns - 1.001).astype(np.float32))


def _bilinear(grid: FloatMap, row: FloatMap, column: FloatMap) -> FloatMap:
    """Sample ``grid`` at fractional positions that lie inside it."""
    r0, c0 = row.astype(np.int32), column.astype(np.int32)
    fr, fc = row - r0, column - c0
    flat, index = grid.ravel(), r0 * grid.shape[1] + c0
    top: FloatMap = flat.take(index)
    top += fc * (flat.take(index + 1) - top)
    index += grid.shape[1]
    low = flat.take(index)
    low += fc * (flat.take(index + 1) - low)
    top += fr * (low - top)
    return top


def _blur(image: FloatMap, sigma_y: float, sigma_x: float) -> FloatMap:
    """Separable Gaussian blur with wrapped borders (a plain sum over shifted copies)."""
    for axis, sigma in ((0, sigma_y), (1, sigma_x)):
        reach = max(1, round(2.5 * sigma))
        taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2).astype(np.float32)
        padding = [(0, 0), (0, 0)]
        padding[axis] = (reach, reach)
        padded = np.pad(image, padding, mode="wrap")
        out = np.zeros_like(image)
        for shift, tap in enumerate(taps / taps.sum()):
            cut = [slice(None), slice(None)]
            cut[axis] = slice(shift, shift + image.shape[axis])
            out += tap * padded[tuple(cut)]
        image = out
    return image


def _smooth_noise(shape: tuple[int, ...], period: float, rng: np.random.Generator) -> FloatMap:
    """Zero-mean, unit-variance noise of about ``period`` pixels, from a coarse random grid."""
    rows, columns = (int(side / period) + 4 for side in shape)
    grid = _blur(rng.standard_normal((rows, columns), dtype=np.float32), 0.7, 0.7)
    row = np.linspace(1, rows - 2.001, shape[0], dtype=np.float32)
    column = np.linspace(1, columns - 2.001, shape[1], dtype=np.float32)
    r0, c0 = row.astype(np.int32), column.astype(np.int32)
    # Smoothstep between the grid points hides the creases that a linear blend leaves.
    fr, fc = row - r0, column - c0
    fr, fc = (fr * fr * (3 - 2 * fr))[:, None], fc * fc * (3 - 2 * fc)
    wide = grid[:, c0] * (1 - fc) + grid[:, c0 + 1] * fc
    noise = wide[r0] * (1 - fr) + wide[r0 + 1] * fr
    noise -= noise.mean()
    unit_noise: FloatMap = (noise / noise.std()).astype(np.float32)
    return unit_noise


def _add_clutter(
    tissue: FloatMap,
    beams: tuple[FloatMap, FloatMap],
    fov: FieldOfView,
    unit: float,
    rng: np.random.Generator,
) -> None:
    """Add what is no target: bright fascia, bright specks, and dark patches without a wall."""
    for _ in range(int(rng.integers(5, 9))):
        _add_patch(tissue, fov, unit, rng)
    for _ in range(int(rng.integers(4, 8))):
        _add_fascia(tissue, beams, fov, unit, rng)
    for _ in range(int(rng.integers(35, 70))):
        y, x = fov.point(rng.uniform(-1.1, 1.1), fov.depth_px * rng.uniform(0.02, 1.05))
        sigma = unit * rng.uniform(1.3, 4.5)
        _add_blob(tissue, (y, x), (sigma, sigma * rng.uniform(1.0, 2.6)), rng.uniform(45, 105))


def _add_blob(
    tissue: FloatMap, centre_yx: tuple[float, float], sigma_yx: tuple[float, float], level: float
) -> None:
    """Add a Gaussian bump; ``centre_yx`` in picture pixels."""
    y, x = centre_yx[0] + MARGIN_PX, centre_yx[1] + MARGIN_PX
    ry, rx = 3 * sigma_yx[0], 3 * sigma_yx[1]
    shape = (tissue.shape[0], tissue.shape[1])
    rows, columns = clipped_box(shape, y - ry, y + ry, x - rx, x + rx)
    dy = (np.arange(rows.start, rows.stop, dtype=np.float32) - y)[:, None] / sigma_yx[0]
    dx = (np.arange(columns.start, columns.stop, dtype=np.float32) - x)[None, :] / sigma_yx[1]
    tissue[rows, columns] += level * np.exp(-0.5 * (dy * dy + dx * dx))


def _add_patch(tissue: FloatMap, fov: FieldOfView, unit: float, rng: np.random.Generator) -> None:
    """Add a hypoechoic patch: two to four overlapping soft dark bumps, no wall."""
    y, x = fov.point(rng.uniform(-1.0, 1.0), fov.depth_px * rng.uniform(0.1, 0.95))
    for _ in range(int(rng.integers(2, 5))):
        sigma = unit * rng.uniform(14, 30, size=2)
        at = (y + unit * rng.normal(0, 16), x + unit * rng.normal(0, 27))
        _add_blob(tissue, at, (sigma[0], 1.3 * sigma[1]), -rng.uniform(38, 62))


def _add_fascia(
    tissue: FloatMap,
    beams: tuple[FloatMap, FloatMap],
    fov: FieldOfView,
    unit: float,
    rng: np.random.Generator,
) -> None:
    """Add a thin bright curve that runs across the beams and fades along its way."""
    lateral, depth = beams
    phase, waves = rng.uniform(0, 2 * np.pi, size=2), rng.uniform(1.0, 3.2, size=2)
    base = fov.depth_px * rng.uniform(0.05, 0.95)
    knots = np.linspace(-2.5, 2.5, 512)
    bend = unit * (
        rng.normal(0, 28) * knots
        + rng.uniform(4, 14) * np.sin(waves[0] * knots + phase[0])
        + rng.normal(0, 10) * knots**2
    )
    strength = rng.uniform(35, 85) * (0.55 + 0.45 * np.sin(2.3 * waves[1] * knots + phase[1]))
    at = np.clip((lateral + 2.5) * (511 / 5.0), 0, 511).astype(np.int32)
    offset = (depth - (base + bend).astype(np.float32).take(at)) / np.float32(
        unit * rng.uniform(1.4, 2.8)
    )
    near = np.abs(offset) < 3.0
    tissue[near] += strength.astype(np.float32).take(at[near]) * np.exp(-0.5 * offset[near] ** 2)


def cut(field: FloatMap, shape: tuple[int, int], at_yx: tuple[int, int]) -> FloatMap:
    """A view of ``field`` of ``shape`` from ``at_yx``, moved inside where it would stick out."""
    y = min(max(at_yx[0], 0), field.shape[0] - shape[0])
    x = min(max(at_yx[1], 0), field.shape[1] - shape[1])
    return field[y : y + shape[0], x : x + shape[1]]
