"""What `maskstream sources probe` says of the pictures that came."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kpi.events import SourceStateChanged
from stages.base import DescribedSource, Picture, Source

Row = tuple[str, str]
_MS: Final = 1e6
_S: Final = 1e9


class Seen(NamedTuple):
    """A picture (its pixels may be those of a later one) and when it was here, on both clocks."""

    monotonic_ns: int
    unix_ns: int
    picture: Picture


def rows(
    source: Source,
    seen: Sequence[Seen],
    states: Sequence[SourceStateChanged],
    troubles: Sequence[str],
) -> Iterator[Row]:
    """Name and value of each; there is at least one picture."""
    last = seen[-1].picture
    arrived = np.array([item.monotonic_ns for item in seen], np.float64)
    captured = np.array([item.picture.captured_ns for item in seen], np.float64)
    yield "pictures", f"{len(seen)} in {(arrived[-1] - arrived[0]) / _S:.1f} s"
    yield "size", _size(last)
    yield "pixels", _pixels(last)
    if isinstance(source, DescribedSource):
        yield "format", source.description
    yield from _times(arrived, captured)
    yield "Unix time", _unix(seen)
    yield "pixel size", _spacing(last)
    yield "pose", "none" if last.pose is None else _pose(last.pose)
    epochs = len({item.picture.epoch for item in seen})
    if epochs > 1:
        yield "epochs", f"{epochs}: size, scale or clock changed, or it began anew"
    for state in states:
        if state.state not in ("connecting", "streaming", "ended"):
            yield "told", f"{state.state}{f': {state.reason}' if state.reason else ''}"
    for trouble in troubles:
        yield "told", trouble


def _pixels(picture: Picture) -> str:
    told = picture.ycbcr
    if told is None:
        return f"{'grey' if len(picture.pixels.shape) == 2 else 'RGB'}, 8 bits"
    levels = "full" if told.full_range else "limited"
    name = f"{told.layout.upper()}, {told.matrix.replace('bt', 'BT.')}, {levels} range"
    return f"{name}; made RGB on the device"


def _size(picture: Picture) -> str:
    height, width = picture.size_hw
    (y, x), (full_height, full_width) = picture.origin_yx, picture.full_hw or (height, width)
    if (full_height, full_width) == (height, width):
        return f"{width}x{height}"
    return f"{width}x{height} from ({x}, {y}) of {full_width}x{full_height}"


def _times(arrived: NDArray[np.float64], captured: NDArray[np.float64]) -> Iterator[Row]:
    for name, clock in (("arrival", arrived), ("time stamps", captured)):
        steps = np.diff(clock)
        if not len(steps) or clock[-1] <= clock[0]:
            yield name, "too few to tell a rate"
            continue
        rate = len(steps) / (clock[-1] - clock[0]) * _S
        off = np.abs(steps - np.median(steps)) / _MS
        yield (
            name,
            (
                f"{rate:.2f} pictures/s, jitter {np.percentile(off, 95):.1f} ms (95 of 100), "
                f"{off.max():.1f} ms at worst"
            ),
        )
    age = (arrived - captured) / _MS
    yield "age on arrival", f"{np.median(age):.1f} ms, {age.max():.1f} ms at worst"


def _unix(seen: Sequence[Seen]) -> str:
    told = [
        (item.unix_ns - item.picture.captured_unix_ns) / _S
        for item in seen
        if item.picture.captured_unix_ns is not None
    ]
    if not told:
        return "not told by the source"
    return f"told by the source, {np.median(told):+.3f} s behind this host's clock on arrival"


def _spacing(picture: Picture) -> str:
    if picture.spacing_mm is None:
        return "unknown (set spacing_mm)"
    y, x = picture.spacing_mm
    return f"{y:.4g} x {x:.4g} mm (y, x)"


def _pose(pose: NDArray[np.float64]) -> str:
    x, y, z = pose[:3, 3]
    return f"told, origin at ({x:.1f}, {y:.1f}, {z:.1f})"
