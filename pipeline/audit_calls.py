"""Which calls in Python copy to, or wait for, the host: the ones that no operator shows.

On the CPU every tensor stands for one on the device, so a copy to "cpu" counts although nothing
moves there. Only `x.to(y.device)`, a `torch.device` equal to the tensor's own, is free.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor

from pipeline.audit_state import Kind

Verdict = Kind | Literal["quiet"] | None
"""`quiet`: allowed, but its CPU kernel checks values, which its CUDA kernel does not."""

Judge = Callable[[Sequence[Any], Mapping[str, Any]], Verdict]

_MASKS = (torch.bool, torch.uint8)
_DLPACK_HOST = (1, 3)  # kDLCPU, kDLCUDAHost


@dataclass(frozen=True, slots=True)
class Call:
    """One function or method, by the place that callers look it up in."""

    owner: type | ModuleType
    name: str
    judge: Judge

    @property
    def op(self) -> str:
        """As a person writes it: `Tensor.item`, `torch.tensor`."""
        return f"{self.owner.__name__}.{self.name}"


def audited_calls() -> tuple[Call, ...]:
    """All of them; made anew each time, so that a part of torch imported later is found."""
    return (
        *_calls(Tensor, "d2h", "item tolist numpy cpu __array__ __contains__ __reduce_ex__"),
        *_calls(Tensor, "d2h", "__bool__ __int__ __float__ __index__ __complex__"),
        *_calls(Tensor, "d2h", "__repr__ __format__"),
        *_calls(Tensor, "sync", "pin_memory"),
        *_calls(Tensor, "h2d", "new_tensor"),
        *_calls(torch.UntypedStorage, "d2h", "tolist cpu __getitem__"),
        *_calls(torch, "h2d", "tensor from_numpy frombuffer from_file load"),
        *_calls(torch, "d2h", "save"),
        *_calls(torch.cuda, "sync", "synchronize empty_cache"),
        *_calls(torch.cuda.Event, "sync", "synchronize"),
        *_calls(torch.cuda.Stream, "sync", "synchronize"),
        *_calls(torch.accelerator, "sync", "synchronize"),
        Call(Tensor, "to", _to),
        Call(Tensor, "cuda", _cuda),
        Call(Tensor, "type", _type),
        Call(Tensor, "__setitem__", _set_item),
        Call(Tensor, "__dlpack__", _dlpack),
        Call(torch.utils.dlpack, "to_dlpack", _dlpack),
        Call(torch, "to_dlpack", _dlpack),
        Call(torch, "from_dlpack", _from_dlpack),
        Call(torch.utils.dlpack, "from_dlpack", _from_dlpack),
        Call(torch, "as_tensor", _as_tensor),
        Call(torch, "asarray", _as_tensor),
        Call(torch.nn.functional, "one_hot", _one_hot),
    )


def _calls(owner: type | ModuleType, kind: Kind, names: str) -> list[Call]:
    return [Call(owner, name, lambda args, kwargs: kind) for name in names.split()]


def _to(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Verdict:
    for value in (*args[1:], *kwargs.values()):
        if isinstance(value, Tensor):
            return _moves(args[0].device, value.device)
        if isinstance(value, (str, torch.device)) or type(value) is int:
            return _moves(args[0].device, value)
    return None


def _moves(source: torch.device, target: str | int | torch.device) -> Verdict:
    device = torch.device(target)
    if device.type == "cpu":
        return "d2h" if source.type != "cpu" or isinstance(target, str) else None
    return "h2d" if source.type == "cpu" else None


def _cuda(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Verdict:
    return "h2d" if args[0].device.type == "cpu" else None


def _type(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Verdict:
    """`x.type("torch.FloatTensor")` names a device; `x.type(torch.float32)` does not."""
    wanted = args[1] if len(args) > 1 else kwargs.get("dtype")
    if wanted is None or isinstance(wanted, torch.dtype):
        return None
    name = wanted if isinstance(wanted, str) else torch.typename(wanted)
    return _moves(args[0].device, "cuda" if ".cuda." in name else "cpu")


def _set_item(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Verdict:
    """`x[mask] = v`: whether it needs the count of the mask depends on torch's version and v."""
    indices = args[1] if isinstance(args[1], tuple) else (args[1],)
    masked = any(isinstance(index, Tensor) and index.dtype in _MASKS for index in indices)
    return "dynamic_shape" if masked else None


def _dlpack(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Verdict:
    """Sharing device memory copies nothing, but on the CPU the reader is host code."""
    wanted = kwargs.get("dl_device")
    on_host = args[0].device.type == "cpu" or (wanted is not None and wanted[0] in _DLPACK_HOST)
    return "d2h" if on_host else None


def _from_dlpack(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Verdict:
    source = _first(args, kwargs)
    if isinstance(source, Tensor):
        return "quiet"
    device = getattr(source, "__dlpack_device__", None)
    return "h2d" if device is not None and device()[0] in _DLPACK_HOST else None


def _as_tensor(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Verdict:
    data = _first(args, kwargs)
    if not isinstance(data, Tensor):
        return "h2d"
    device = kwargs.get("device")
    return None if device is None else _moves(data.device, device)


def _first(args: Sequence[Any], kwargs: Mapping[str, Any]) -> object:
    return next(iter((*args, *kwargs.values())), None)


def _one_hot(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Verdict:
    classes = args[1] if len(args) > 1 else kwargs.get("num_classes", -1)
    return "dynamic_shape" if classes < 0 else "quiet"
