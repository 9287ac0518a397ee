"""A moving average of a model's weights that is usable from the first steps on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def averaged_copy(model: nn.Module, decay: float) -> AveragedModel:
    """An average of ``model``, buffers included, that forgets its start.

    After n updates the decay is (1 + n) / (10 + n), at most ``decay``: a fixed decay would keep
    the fresh weights in a short run's average to the end.
    """
    return AveragedModel(model, multi_avg_fn=_update(decay), use_buffers=True)


def _update(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    @torch.no_grad()
    def update(averages: Sequence[Tensor], news: Sequence[Tensor], count: Tensor | int) -> None:
        now = min(decay, (1 + int(count)) / (10 + int(count)))
        for average, new in zip(averages, news, strict=True):
            if average.is_floating_point():
                average.lerp_(new, 1 - now)
            else:
                average.copy_(new)

    return update
