"""The `sam3` package as far as it is opened: its builder, versions, and a GPU that is said to be
there."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

import stages.sam3_predictor as sam3_predictor

VERSIONS = {"sam3": "0.1.4", "torch": "2.15.0+cu130"}


def install_sam3(monkeypatch: pytest.MonkeyPatch, build: Callable[..., object]) -> None:
    """Have `sam3.model_builder.build_sam3_video_predictor` be `build`."""
    package, builder = ModuleType("sam3"), ModuleType("sam3.model_builder")
    vars(builder)["build_sam3_video_predictor"] = build
    monkeypatch.setitem(sys.modules, "sam3", package)
    monkeypatch.setitem(sys.modules, "sam3.model_builder", builder)
    monkeypatch.setattr(sam3_predictor, "version", VERSIONS.__getitem__)
    with_gpus(monkeypatch, 1)


def with_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Have torch say that there are so many."""
    found: dict[str, Any] = {"is_available": lambda: count > 0, "device_count": lambda: count}
    for name, answer in found.items():
        monkeypatch.setattr(f"torch.cuda.{name}", answer)
