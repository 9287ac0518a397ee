"""What the soak counts as memory: every tensor's bytes once, and no more than there are."""

from __future__ import annotations

import torch
from torch._subclasses import FakeTensorMode
from torch.nn import Parameter

from benchmarks.soak import tensor_bytes

BYTES = 1 << 22


def test_a_tensor_and_a_parameter_count_once_each() -> None:
    before = tensor_bytes()
    tensor = torch.zeros(BYTES, dtype=torch.uint8)
    view = tensor[16:]
    weights = Parameter(torch.zeros(BYTES // 4))
    assert tensor_bytes() - before == 2 * BYTES
    del tensor
    assert tensor_bytes() - before == 2 * BYTES  # the view keeps the storage
    del view, weights
    assert tensor_bytes() == before


def test_fake_tensors_hold_nothing() -> None:
    before = tensor_bytes()
    with FakeTensorMode():
        fake = torch.zeros(BYTES)
    assert tensor_bytes() == before
    assert fake.numel() == BYTES
