"""Running a step as if on a GPU, without one: tensors that claim to lie on `cuda:0`.

    with fake_cuda(model, frame) as (fake_model, fake_frame):
        packet = fake_model(fake_frame)    # shapes, dtypes and devices, no values

The tensors are torch's fake tensors: they know where they lie, so a constant left on the host,
an index that would be uploaded on the quiet, a copy between the devices, and a shape or a branch
that depends on data all raise. The block also runs under `residency_guard`.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any, TypeVar, TypeVarTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.audit import residency_guard
from pipeline.audit_rules import full_name, tensors_in
from pipeline.audit_where import caller, raised_at
from stages.errors import ResidencyError

T = TypeVar("T")
R = TypeVar("R")
Ts = TypeVarTuple("Ts")

_CUDA = torch.device("cuda", 0)
_SHARED = (type, ModuleType, FunctionType, BuiltinFunctionType, CodeType)
"""What a copy shares with its original, so that a walk must not follow it."""


@contextmanager
def fake_cuda(*objects: *Ts) -> Iterator[tuple[*Ts]]:
    """Deep copies of `objects` whose tensors, wherever they are kept, lie on a fake `cuda:0`.

    Modules with their parameters and buffers, plain tensor attributes, containers, dataclasses,
    slots, bound methods and partials are followed, and a `torch.device("cpu")` becomes `cuda:0`;
    what a function closes over is not. The originals stay as they are. Call the step under the
    same `inference_mode` or `no_grad` as in earnest, after a warm-up of the originals.

    Raises `ResidencyError` naming the operation and the line, and `TypeError` for an object that
    cannot be copied.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=False)
    copies = _copies(objects, mode)
    with _as_residency_errors(), mode, _OnlyFakes(), residency_guard():  # type: ignore[no-untyped-call]
        yield copies


def run_on_fake_cuda(step: Callable[[T], R], frame: T) -> R:
    """`step(frame)` on a fake `cuda:0`; the step is an object or a bound method, copied with its
    tensors. Its result has shapes, dtypes and devices, but no values. Raises as `fake_cuda`."""
    with fake_cuda(step, frame) as (fake_step, fake_frame):
        return fake_step(fake_frame)


def _copies(objects: tuple[*Ts], mode: FakeTensorMode) -> tuple[*Ts]:
    found = list(_tensors_and_devices(objects))
    with mode:
        memo = {id(value): _on_cuda(value) for value in found}
    try:
        return copy.deepcopy(objects, memo)
    except TypeError as error:
        names = ", ".join(type(value).__name__ for value in objects)
        raise TypeError(f"cannot copy {names} to a fake GPU: {error}") from error


def _tensors_and_devices(root: object) -> Iterator[Tensor | torch.device]:
    """Every tensor and device that a deep copy of `root` would copy."""
    seen: dict[int, object] = {}  # keeps what it has seen, so that no id is used twice
    waiting = [root]
    while waiting:
        value = waiting.pop()
        if id(value) in seen or isinstance(value, _SHARED):
            continue
        seen[id(value)] = value
        if isinstance(value, (Tensor, torch.device)):
            yield value
        else:
            waiting.extend(gc.get_referents(value))


def _on_cuda(value: Tensor | torch.device) -> Tensor | torch.device:
    if isinstance(value, torch.device):
        return _CUDA
    fake = torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device=_CUDA)
    if isinstance(value, torch.nn.Parameter):
        return torch.nn.Parameter(fake, requires_grad=value.requires_grad)
    return fake.requires_grad_(value.requires_grad)


class _OnlyFakes(TorchDispatchMode):
    """Refuses real tensors: constants that no copy reached."""

    def __torch_dispatch__(
        self,
        func: OpOverload[Any, Any],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        real = any(not isinstance(t, FakeTensor) for t in tensors_in((*args, *kwargs.values())))
        if real and full_name(func) != "aten::lift_fresh":  # which makes fakes of real ones
            op = func._overloadpacket
            raise ResidencyError(f"{op} uses a tensor left on the host, at {caller()}")
        return func(*args, **kwargs)


@contextmanager
def _as_residency_errors() -> Iterator[None]:
    """What an operator's fake refuses, told in the words of the audit."""
    try:
        yield
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        op = getattr(error.func, "_overloadpacket", error.func)
        where = raised_at(error.__traceback__)
        raise ResidencyError(f"{op} needs a value from the device, at {where}") from error
