"""Which operators copy to, or wait for, the host when their tensors lie on a GPU.

Sources: the operators' own tags in torch (`dynamic_output_shape`, `data_dependent_output`); for
the rest the CUDA kernels of ATen, which read a value back where the CPU's do too (`multinomial`
checks its probabilities, `histc` looks for its range, `masked_fill` and `index_fill` call `item`
on a tensor value, `linalg` reads its error codes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from pipeline.audit_state import Kind

Args = Sequence[Any]
Kwargs = Mapping[str, Any]

_MASKS = (torch.bool, torch.uint8)
_WHOLE = frozenset({"aten::one_hot"})
_READS = frozenset(
    {
        "aten::_linalg_check_errors",
        "aten::_linalg_eigh",
        "aten::_linalg_svd",
        "aten::linalg_eig",
        "aten::multinomial",
        "aten::normal.Tensor_Tensor",
        "aten::normal.float_Tensor",
    }
)
_SHAPES = frozenset({"torchvision::nms"})
_INDEXING = frozenset(
    {
        "aten::index",
        "aten::index_put",
        "aten::index_put_",
        "aten::_index_put_impl_",
        "aten::_unsafe_index",
        "aten::_unsafe_index_put",
    }
)


def judge(op: OpOverload[Any, Any], args: Args, kwargs: Kwargs) -> Kind | None:
    """What a call of `op` would do on a GPU that the hot path must not; None: nothing."""
    name = full_name(op)
    own = _OWN_RULES.get(name) or _OWN_RULES.get(op._schema.name)
    if own is not None:
        verdict = own(args, kwargs)
    elif name in _READS or torch.Tag.data_dependent_output in op.tags:
        verdict = "d2h"
    elif kwargs.get("pin_memory"):
        verdict = "sync"  # page-locking host memory
    elif name in _SHAPES or torch.Tag.dynamic_output_shape in op.tags:
        verdict = "dynamic_shape"
    else:
        verdict = None
    return verdict or _crossing(args, kwargs)


def runs_whole(op: OpOverload[Any, Any]) -> bool:
    """Whether a composite must not be looked into: on the CPU it checks values, on CUDA not."""
    return full_name(op) in _WHOLE


def full_name(op: OpOverload[Any, Any]) -> str:
    """`aten::add.Tensor`."""
    return str(op._name)


def _index(args: Args, kwargs: Kwargs) -> Kind | None:
    """A mask as an index needs its count; an index on the host is uploaded on the quiet."""
    for index in args[1] if len(args) > 1 else kwargs["indices"]:
        if index is None:
            continue
        if index.dtype in _MASKS:
            return "dynamic_shape"
        if index.device.type == "cpu" and args[0].device.type != "cpu":
            return "h2d"
    return None


def _repeat_interleave(args: Args, kwargs: Kwargs) -> Kind | None:
    return "dynamic_shape" if kwargs.get("output_size") is None else None


def _one_hot(args: Args, kwargs: Kwargs) -> Kind | None:
    classes = args[1] if len(args) > 1 else kwargs.get("num_classes", -1)
    return "dynamic_shape" if classes < 0 else None


def _histc(args: Args, kwargs: Kwargs) -> Kind | None:
    low = args[2] if len(args) > 2 else kwargs.get("min", 0)
    high = args[3] if len(args) > 3 else kwargs.get("max", 0)
    return "d2h" if low == high else None


def _tensor_value(args: Args, kwargs: Kwargs) -> Kind | None:
    """A fill with a value that lies on the device: the kernel takes it by value."""
    value = kwargs.get("value", args[-1])
    return "d2h" if value.device.type == args[0].device.type else None


def _to_copy(args: Args, kwargs: Kwargs) -> Kind | None:
    device = kwargs.get("device")
    return None if device is None else _direction(args[0].device.type, device.type)


def _copy(args: Args, kwargs: Kwargs) -> Kind | None:
    return _direction(args[1].device.type, args[0].device.type)


def _lift_fresh(args: Args, kwargs: Kwargs) -> Kind | None:
    """Every tensor made of Python numbers or an array passes through this operator."""
    return "h2d"


def _direction(source: str, target: str) -> Kind | None:
    if source == target:
        return None
    return "d2h" if target == "cpu" else "h2d"


def _crossing(args: Args, kwargs: Kwargs) -> Kind | None:
    """Host and device tensors in one call. A 0-dim host tensor travels as a kernel argument."""
    tensors = list(tensors_in((*args, *kwargs.values())))
    on_device = any(tensor.device.type != "cpu" for tensor in tensors)
    on_host = any(tensor.device.type == "cpu" and tensor.ndim > 0 for tensor in tensors)
    return "h2d" if on_device and on_host else None


def tensors_in(values: Sequence[Any]) -> Iterator[Tensor]:
    """The tensors among an operator's arguments, those in lists included."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from tensors_in(value)


_OWN_RULES: dict[str, Callable[[Args, Kwargs], Kind | None]] = {
    **dict.fromkeys(_INDEXING, _index),
    "aten::repeat_interleave.Tensor": _repeat_interleave,
    "aten::one_hot": _one_hot,
    "aten::histc": _histc,
    "aten::masked_fill.Tensor": _tensor_value,
    "aten::masked_fill_.Tensor": _tensor_value,
    "aten::index_fill.int_Tensor": _tensor_value,
    "aten::index_fill_.int_Tensor": _tensor_value,
    "aten::_to_copy": _to_copy,
    "aten::copy_": _copy,
    "aten::lift_fresh": _lift_fresh,
}
