"""Choosing the device of a run."""

from __future__ import annotations

import os
from typing import NamedTuple

import torch

from stages.errors import ConfigError


def resolve_device(name: str) -> torch.device:
    """`auto` takes the first GPU, else the CPU; raises `ConfigError` for a GPU that is not there.

    `name` is `auto`, `cpu` or `cuda:N`.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda:0" if count else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= count:
        have = f"cuda:0 to cuda:{count - 1}" if count else "no CUDA GPU"
        raise ConfigError(f"device: got {name}, but this machine has {have} (expected auto or cpu)")
    return device


def share_cores(device: torch.device) -> None:
    """On the CPU leave half of the cores to the other half of the frame's way: see
    `Orchestrator.run`. Two threads an operation gain little on small models anyway."""
    if device.type == "cpu":
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // 2))


class GpuIdentity(NamedTuple):
    """A GPU's name, and its driver's version where NVML tells it."""

    name: str
    driver: str | None


def gpu_identity(device: torch.device) -> GpuIdentity | None:
    """Who the device is; None for the CPU."""
    if device.type != "cuda":
        return None
    return GpuIdentity(torch.cuda.get_device_name(device), driver_version())


def driver_version() -> str | None:
    """The NVIDIA driver's version; None where NVML does not answer."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        return str(pynvml.nvmlSystemGetDriverVersion())
    finally:
        pynvml.nvmlShutdown()
