"""How the units of the tracker run: as they stand, compiled, or as CUDA graphs.

`graph` is written for CUDA, has not run on a GPU yet and is off by default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal, Protocol, get_args

import torch
from torch import Tensor

from stages.errors import ConfigError
from stages.segmenters.mask_head import Told
from stages.segmenters.tracker_core import TrackerCore
from stages.segmenters.tracker_records import Pictures, Shown

Execution = Literal["eager", "compile", "graph"]
EXECUTIONS: Final[tuple[Execution, ...]] = get_args(Execution)

Encode = Callable[[Tensor], Pictures]
Track = Callable[[Pictures, Tensor, Tensor, int], Shown]


class Prompting(Protocol):
    """What a prompt needs of `TrackerCore`; see there."""

    def begin(self, encoded: Pictures, rows: Tensor, told: Told) -> Shown: ...

    def ask(self, encoded: Pictures, rows: Tensor, told: Told) -> Shown: ...

    def condition(self, encoded: Pictures, rows: Tensor, shown: Shown) -> None: ...

    def correct(
        self, encoded: Pictures, rows: Tensor, features: Tensor, before: Tensor, told: Told
    ) -> Shown: ...


@dataclass(frozen=True, slots=True, eq=False)
class Units:
    """What the frames of a stream run."""

    encode: Encode
    """`TrackerCore.encode`."""
    track: Track
    """`TrackerCore.track`; one compiled variant for each number of rows and of conditioning frames
    held."""
    prompt: Prompting
    """As it stands in every execution: prompts come seldom, and in too many shapes (1 to 64 points,
    a mask, any number of detections at once) to make a variant of each before the first frame."""


def made_ready(core: TrackerCore, execution: Execution) -> Units:
    """The units of `core`; raises `ConfigError` where the machine cannot run them so."""
    if execution == "eager":
        return Units(core.encode, core.track, core)
    if execution == "compile":
        return Units(_compiled(core.encode), _compiled(core.track), core)
    if core.device.type != "cuda":
        raise ConfigError(f"execution: got graph, expected eager or compile on {core.device}")
    from stages.segmenters.cuda_graphs import GraphedEncode, GraphedTrack

    return Units(GraphedEncode(core), GraphedTrack(core), core)


@contextmanager
def room_for(variants: int, execution: Execution) -> Iterator[None]:
    """While they are first run, compiled units may have so many variants.

    Dynamo by itself gives up at `recompile_limit`, 8, meant for what recompiles by mistake.
    """
    if execution != "compile":
        yield
        return
    from torch._dynamo import config

    most = max(config.recompile_limit, variants)
    overall = config.accumulated_recompile_limit + variants
    with config.patch(recompile_limit=most, accumulated_recompile_limit=overall):
        yield


def _compiled(unit: Callable) -> Callable:  # type: ignore[type-arg]
    return torch.compile(unit, fullgraph=True, dynamic=False)
