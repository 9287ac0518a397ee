"""Which weights a model has: `digest`."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def digest(model: nn.Module) -> str:
    """SHA-256, hexadecimal, of every parameter and buffer: name, dtype, shape and bytes. The
    weights are read from their device, so not while frames flow."""
    found = hashlib.sha256()
    for name, values in sorted(model.state_dict().items()):
        found.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        on_host = values.detach().cpu().contiguous().reshape(-1)
        if on_host.numel():
            found.update(on_host.view(torch.uint8).numpy().data)
    return found.hexdigest()
