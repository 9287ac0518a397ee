"""How the units of the tracker run: as they stand, compiled, or as CUDA graphs.

`graph` is written for CUDA, has not run on a GPU yet and is off by default.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, get_args

import torch
from torch import Tensor

from stages.errors import ConfigError
from stages.segmenters.tracker_core import Pictures, Shown, TrackerCore

Execution = Literal["eager", "compile", "graph"]
EXECUTIONS: Final[tuple[Execution, ...]] = get_args(Execution)

Encode = Callable[[Tensor], Pictures]
Track = Callable[[Pictures, Tensor, Tensor, int], Shown]


@dataclass(frozen=True, slots=True, eq=False)
class Units:
    """What runs on every frame."""

    encode: Encode
    """`TrackerCore.encode`."""
    track: Track
    """`TrackerCore.track`; one compiled unit for each number of rows."""


def made_ready(core: TrackerCore, execution: Execution) -> Units:
    """The units of `core`; raises `ConfigError` where the machine cannot run them so."""
    if execution == "eager":
        return Units(core.encode, core.track)
    if execution == "compile":
        return Units(_compiled(core.encode), _compiled(core.track))
    if core.device.type != "cuda":
        raise ConfigError(f"execution: got graph, expected eager or compile on {core.device}")
    from stages.segmenters.cuda_graphs import GraphedEncode, GraphedTrack

    return Units(GraphedEncode(core), GraphedTrack(core))


def _compiled(unit: Callable) -> Callable:  # type: ignore[type-arg]
    return torch.compile(unit, fullgraph=True, dynamic=False)
