"""What a step costs: `timed`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TypeVar

import psutil
import torch

T = TypeVar("T")


def timed(what: str, device: torch.device, work: Callable[[], T]) -> T:
    """What `work` gives; prints its time and what memory it left taken."""
    before, began = _memory(device), time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    took, grown = time.perf_counter() - began, _memory(device) - before
    kind = "GPU memory" if device.type == "cuda" else "resident memory"
    sys.stdout.write(f"  {what}: {took * 1e3:.0f} ms, {kind} +{max(grown, 0) / 2**20:.0f} MiB\n")
    return result


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    return int(psutil.Process().memory_info().rss)
