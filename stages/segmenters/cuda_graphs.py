"""The tracker's units as CUDA graphs: one launch a step instead of thousands.

Written for CUDA; it has not run on a GPU yet, so `execution: graph` is off by default. A unit is
captured at its first call, which must come before other threads use the device; inputs are copied
into the tensors that were captured, and outputs are overwritten by the next call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import torch
from torch import Tensor

from stages.segmenters.tracker_core import TrackerCore
from stages.segmenters.tracker_records import Pictures, Shown

_WARM_UPS: Final = 3
Output = TypeVar("Output")


@dataclass(frozen=True, slots=True, eq=False)
class _Captured(Generic[Output]):
    """A graph with the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    output: Output

    def replay(self, *inputs: Tensor) -> Output:
        for static, given in zip(self.inputs, inputs, strict=True):
            static.copy_(given)
        self.graph.replay()
        return self.output


def _capture(work: Callable[..., Output], *inputs: Tensor) -> _Captured[Output]:
    static = tuple(given.clone() for given in inputs)
    device = static[0].device
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(_WARM_UPS):
            work(*static)
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = work(*static)
    return _Captured(graph, static, output)


class GraphedEncode:
    """`TrackerCore.encode` for pictures of one shape."""

    def __init__(self, core: TrackerCore) -> None:
        self._core = core
        self._captured: _Captured[Pictures] | None = None

    def __call__(self, pixels: Tensor) -> Pictures:
        if self._captured is None:
            self._captured = _capture(self._core.encode, pixels)
        return self._captured.replay(pixels)


class GraphedTrack:
    """`TrackerCore.track`, a graph for each number of rows and of held conditioning frames.

    The pictures must be those that `GraphedEncode` returns: always the same tensors.
    """

    def __init__(self, core: TrackerCore) -> None:
        self._core = core
        self._captured: dict[tuple[int, int], _Captured[Shown]] = {}

    def __call__(self, pictures: Pictures, rows: Tensor, live: Tensor, held: int) -> Shown:
        key = (rows.shape[0], held)
        if key not in self._captured:
            self._captured[key] = _capture(
                lambda rows, live: self._core.track(pictures, rows, live, held), rows, live
            )
        return self._captured[key].replay(rows, live)
