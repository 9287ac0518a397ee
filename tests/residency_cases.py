"""What the residency guard must catch, and what it must let pass, one line of code each."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
import torch.utils.dlpack as torch_dlpack
from torch import Tensor, nn
from torch import tensor as early_bound_tensor
from torchvision.ops import nms

from pipeline.audit import Kind

Offence = tuple[Callable[[], object], Kind, tuple[str, ...]]
"""The code, what it does, and the operation's name (another one under `inference_mode`)."""

X = torch.linspace(-1, 1, 12).reshape(3, 4)
MASK = X > 0
ONE = torch.tensor(1)
CLASSES = torch.tensor([0, 2, 1])
PICKED = torch.tensor([2, 0])
IMAGE = torch.rand(1, 2, 8, 8)
ARRAY = np.ones(3, dtype=np.float32)
STORAGE = X.untyped_storage()
TYPED = torch.storage.TypedStorage(wrap_storage=STORAGE, dtype=torch.float32, _internal=True)


def _saved() -> bytes:
    file = io.BytesIO()
    torch.save({}, file)
    return file.getvalue()


SAVED = _saved()


def put(target: Tensor, index: object, value: object) -> None:
    target.clone()[index] = value  # type: ignore[index, assignment]


def branch(condition: Tensor) -> int:
    return 1 if condition else 0


def offence(step: Callable[[], object], kind: Kind, *ops: str) -> Offence:
    return step, kind, ops


OFFENCES: dict[str, Offence] = {
    "item": offence(lambda: ONE.item(), "d2h", "Tensor.item"),
    "tolist": offence(lambda: X.tolist(), "d2h", "Tensor.tolist"),
    "numpy": offence(lambda: X.numpy(), "d2h", "Tensor.numpy"),
    "cpu": offence(lambda: X.cpu(), "d2h", "Tensor.cpu"),
    "to_cpu": offence(lambda: X.to("cpu"), "d2h", "Tensor.to"),
    "to_cpu_keyword": offence(lambda: X.to(device="cpu"), "d2h", "Tensor.to"),
    "to_cpu_and_dtype": offence(lambda: X.to("cpu", torch.half), "d2h", "Tensor.to"),
    "type_name": offence(lambda: X.type("torch.FloatTensor"), "d2h", "Tensor.type"),
    "type_class": offence(lambda: X.type(torch.FloatTensor), "d2h", "Tensor.type"),
    "if": offence(lambda: branch(ONE), "d2h", "Tensor.__bool__"),
    "and": offence(lambda: ONE and X, "d2h", "Tensor.__bool__"),
    "assert": offence(lambda: not X.isnan().any(), "d2h", "Tensor.__bool__"),
    "max_of_two": offence(lambda: max(ONE, ONE), "d2h", "Tensor.__bool__"),
    "in_list": offence(lambda: ONE in [CLASSES[0]], "d2h", "Tensor.__bool__"),
    "int": offence(lambda: int(ONE), "d2h", "Tensor.__int__"),
    "float": offence(lambda: float(ONE), "d2h", "Tensor.__float__"),
    "complex": offence(lambda: complex(ONE), "d2h", "Tensor.__complex__"),
    "range": offence(lambda: range(ONE), "d2h", "Tensor.__index__"),
    "list_index": offence(lambda: [1, 2][ONE], "d2h", "Tensor.__index__"),
    "contains": offence(lambda: 5 in X, "d2h", "Tensor.__contains__"),
    "asarray": offence(lambda: np.asarray(X), "d2h", "Tensor.__array__"),
    "numpy_function": offence(lambda: np.square(X), "d2h", "Tensor.__array__"),
    "into_array": offence(lambda: np.copyto(ARRAY.copy(), X[0, :3]), "d2h", "Tensor.__array__"),
    "np_from_dlpack": offence(lambda: np.from_dlpack(X), "d2h", "Tensor.__dlpack__"),
    "to_dlpack": offence(lambda: torch_dlpack.to_dlpack(X), "d2h", "torch.utils.dlpack.to_dlpack"),
    "torch_to_dlpack": offence(lambda: torch.to_dlpack(X), "d2h", "torch.to_dlpack"),
    "f_string": offence(lambda: f"{ONE}", "d2h", "Tensor.__format__"),
    "f_string_of_many": offence(lambda: f"{X}", "d2h", "Tensor.__format__"),
    "percent_s": offence(lambda: "%s" % X, "d2h", "Tensor.__repr__"),  # noqa: UP031
    "str": offence(lambda: str(X), "d2h", "Tensor.__repr__"),
    "repr_of_parameter": offence(lambda: repr(nn.Parameter(X)), "d2h", "Tensor.__repr__"),
    "print": offence(lambda: print(X, file=io.StringIO()), "d2h", "Tensor.__repr__"),
    "pickle": offence(lambda: pickle.dumps(X), "d2h", "Tensor.__reduce_ex__"),
    "save": offence(lambda: torch.save(X, io.BytesIO()), "d2h", "torch.save"),
    "storage_list": offence(lambda: STORAGE.tolist(), "d2h", "UntypedStorage.tolist"),
    "storage_byte": offence(lambda: STORAGE[0], "d2h", "UntypedStorage.__getitem__"),
    "storage_cpu": offence(lambda: STORAGE.cpu(), "d2h", "UntypedStorage.cpu"),
    "storage_pickle": offence(lambda: pickle.dumps(STORAGE), "d2h", "torch.save"),
    "storage_iterate": offence(lambda: list(STORAGE), "d2h", "UntypedStorage.__getitem__"),
    "typed_storage_cpu": offence(lambda: TYPED.cpu(), "d2h", "UntypedStorage.cpu"),
    "tensor_of_list": offence(lambda: torch.tensor([1.0, 2.0]), "h2d", "torch.tensor"),
    "tensor_of_number": offence(lambda: torch.tensor(3.0), "h2d", "torch.tensor"),
    "tensor_of_array": offence(lambda: torch.tensor(ARRAY), "h2d", "torch.tensor"),
    "early_bound": offence(lambda: early_bound_tensor([1.0]), "h2d", "aten.lift_fresh"),
    "as_tensor": offence(lambda: torch.as_tensor([1, 2]), "h2d", "torch.as_tensor"),
    "asarray_of_array": offence(lambda: torch.asarray(ARRAY), "h2d", "torch.asarray"),
    "as_tensor_cpu": offence(lambda: torch.as_tensor(X, device="cpu"), "d2h", "torch.as_tensor"),
    "from_numpy": offence(lambda: torch.from_numpy(ARRAY).to(X.device), "h2d", "torch.from_numpy"),
    "frombuffer": offence(
        lambda: torch.frombuffer(bytearray(8), dtype=torch.uint8), "h2d", "torch.frombuffer"
    ),
    "torch_from_dlpack": offence(lambda: torch.from_dlpack(ARRAY), "h2d", "torch.from_dlpack"),
    "utils_from_dlpack": offence(
        lambda: torch_dlpack.from_dlpack(ARRAY), "h2d", "torch.utils.dlpack.from_dlpack"
    ),
    "from_file": offence(
        lambda: torch.from_file(__file__, size=4, dtype=torch.uint8), "h2d", "torch.from_file"
    ),
    "load": offence(lambda: torch.load(io.BytesIO(SAVED)), "h2d", "torch.load"),
    "new_tensor": offence(lambda: X.new_tensor([1.0]), "h2d", "Tensor.new_tensor"),
    "Tensor": offence(lambda: torch.Tensor([1.0, 2.0]), "h2d", "aten.lift_fresh"),
    "LongTensor": offence(lambda: torch.LongTensor([1]), "h2d", "aten.lift_fresh"),
    "index_by_list": offence(lambda: X[[0, 2]], "h2d", "aten.lift_fresh"),
    "index_by_array": offence(lambda: X[np.array([0, 2])], "h2d", "aten.lift_fresh"),
    "index_by_mask": offence(lambda: X[MASK], "dynamic_shape", "aten.index"),
    "index_by_row_mask": offence(lambda: X[:, MASK[0]], "dynamic_shape", "aten.index"),
    "index_by_bytes": offence(lambda: X[MASK.byte()], "dynamic_shape", "aten.index"),
    "index_by_number": offence(lambda: X[ONE], "d2h", "aten._local_scalar_dense", "aten.item"),
    "slice_by_number": offence(lambda: X[:ONE], "d2h", "Tensor.__index__"),
    "set_mask": offence(lambda: put(X, MASK, 0), "dynamic_shape", "Tensor.__setitem__"),
    "set_mask_row": offence(lambda: put(X, (0, MASK[0]), 0), "dynamic_shape", "Tensor.__setitem__"),
    "set_mask_to_many": offence(lambda: put(X, MASK, X[MASK]), "dynamic_shape", "aten.index"),
    "index_put": offence(lambda: X.index_put((MASK,), X[0, 0]), "dynamic_shape", "aten.index_put"),
    "index_put_": offence(
        lambda: X.clone().index_put_((MASK,), X[0, 0]), "dynamic_shape", "aten.index_put_"
    ),
    "nonzero": offence(lambda: X.nonzero(), "dynamic_shape", "aten.nonzero"),
    "where_of_one": offence(lambda: torch.where(MASK), "dynamic_shape", "aten.nonzero"),
    "argwhere": offence(lambda: X.argwhere(), "dynamic_shape", "aten.nonzero", "aten.argwhere"),
    "masked_select": offence(lambda: X.masked_select(MASK), "dynamic_shape", "aten.masked_select"),
    "unique": offence(lambda: X.unique(), "dynamic_shape", "aten._unique2"),
    "unique_rows": offence(lambda: X.unique(dim=0), "dynamic_shape", "aten.unique_dim"),
    "unique_runs": offence(
        lambda: CLASSES.unique_consecutive(), "dynamic_shape", "aten.unique_consecutive"
    ),
    "bincount": offence(lambda: CLASSES.bincount(), "dynamic_shape", "aten.bincount"),
    "one_hot": offence(lambda: F.one_hot(CLASSES), "dynamic_shape", "torch.nn.functional.one_hot"),
    "repeat_interleave": offence(
        lambda: X.repeat_interleave(CLASSES, 0), "dynamic_shape", "aten.repeat_interleave"
    ),
    "nms": offence(
        lambda: nms(X.clone(), X[:, 0].clone(), 0.5), "dynamic_shape", "torchvision.nms"
    ),
    "equal": offence(lambda: torch.equal(X, X), "d2h", "aten.equal"),
    "allclose": offence(lambda: torch.allclose(X, X), "d2h", "aten.allclose"),
    "is_nonzero": offence(lambda: ONE.is_nonzero(), "d2h", "aten._local_scalar_dense", "aten.item"),
    "number_argument": offence(
        lambda: X.clamp(ONE, 5), "d2h", "aten._local_scalar_dense", "aten.item"
    ),
    "fill_value": offence(
        lambda: torch.full((2,), ONE), "d2h", "aten._local_scalar_dense", "aten.item"
    ),
    "size": offence(lambda: torch.zeros(ONE), "d2h", "aten._local_scalar_dense", "aten.item"),
    "topk_k": offence(lambda: X.topk(ONE), "d2h", "aten._local_scalar_dense", "aten.item"),
    "masked_fill_value": offence(lambda: X.masked_fill(MASK, X[0, 0]), "d2h", "aten.masked_fill"),
    "masked_fill_in_place": offence(
        lambda: X.clone().masked_fill_(MASK, X[0, 0]), "d2h", "aten.masked_fill_"
    ),
    "index_fill_value": offence(lambda: X.index_fill(0, PICKED, X[0, 0]), "d2h", "aten.index_fill"),
    "multinomial": offence(lambda: X.abs().multinomial(1), "d2h", "aten.multinomial"),
    "normal": offence(lambda: torch.normal(X, X.abs()), "d2h", "aten.normal"),
    "normal_of_number": offence(lambda: torch.normal(0.0, X.abs()), "d2h", "aten.normal"),
    "histc_own_range": offence(lambda: X.histc(4), "d2h", "aten.histc"),
    "inverse": offence(lambda: torch.linalg.inv(IMAGE[0, 0]), "d2h", "aten._linalg_check_errors"),
    "eigh": offence(lambda: torch.linalg.eigh(IMAGE[0, 0]), "d2h", "aten._linalg_eigh"),
    "eig": offence(lambda: torch.linalg.eig(IMAGE[0, 0]), "d2h", "aten.linalg_eig"),
    "lstsq": offence(
        lambda: torch.linalg.lstsq(IMAGE[0, 0], IMAGE[0, 1]), "dynamic_shape", "aten.linalg_lstsq"
    ),
    "svd": offence(lambda: torch.linalg.svd(IMAGE[0, 0]), "d2h", "aten._linalg_svd"),
}

NEEDS_A_GPU: dict[str, Offence] = {
    "cuda": offence(lambda: X.cuda(), "h2d", "Tensor.cuda"),
    "to_cuda": offence(lambda: X.to("cuda"), "h2d", "Tensor.to"),
    "to_index": offence(lambda: X.to(0), "h2d", "Tensor.to"),
    "to_cuda_device": offence(lambda: X.to(torch.device("cuda")), "h2d", "Tensor.to"),
    "pin_memory": offence(lambda: X.pin_memory(), "sync", "Tensor.pin_memory"),
    "synchronize": offence(lambda: torch.cuda.synchronize(), "sync", "torch.cuda.synchronize"),
    "empty_cache": offence(lambda: torch.cuda.empty_cache(), "sync", "torch.cuda.empty_cache"),
    "event": offence(lambda: torch.cuda.Event().synchronize(), "sync", "Event.synchronize"),
    "stream": offence(lambda: torch.cuda.Stream.synchronize(None), "sync", "Stream.synchronize"),
    "pinned_factory": offence(lambda: torch.empty(3, pin_memory=True), "sync", "aten.empty"),
    "accelerator": offence(
        lambda: torch.accelerator.synchronize(), "sync", "torch.accelerator.synchronize"
    ),
}

ALLOWED: dict[str, Callable[[], object]] = {
    "arithmetic": lambda: (X * 2.0 + 1 - X / 3) ** 2,
    "number_first": lambda: 1 - 2 / (2**X),
    "compare": lambda: (X > 0) & (X < 0.5) | ~MASK,
    "bits": lambda: (CLASSES << 3 | 1) ^ CLASSES & 7,
    "clamp": lambda: X.clamp(0, 0.5).clamp(min=X),
    "where_numbers": lambda: torch.where(MASK, 1.0, X),
    "where_tensors": lambda: torch.where(MASK, X, -X),
    "masked_fill_number": lambda: X.masked_fill(MASK, 0.0),
    "topk": lambda: X.topk(2),
    "sort": lambda: X.sort(descending=True),
    "gather": lambda: X.gather(1, X.argsort(1)),
    "scatter": lambda: X.scatter(1, X.argsort(1), X).scatter_add(0, X.argsort(0), X),
    "index_by_int64": lambda: X[PICKED],
    "index_by_two": lambda: X[PICKED, CLASSES[:2]],
    "set_by_int64": lambda: put(X, PICKED, X[0]),
    "index_copy": lambda: X.index_copy(0, PICKED, X[:2]).index_select(0, PICKED),
    "argmax_gather": lambda: X.gather(1, X.argmax(1, keepdim=True)),
    "slices": lambda: (X[0], X[1:, ::2], X[..., -1], X[None], X[:, None]),
    "set_slices": lambda: (put(X, 0, 3.0), put(X, (0, 1), 3), put(X, slice(2), X[0])),
    "shape_only": lambda: (len(X), X.shape[0] * 2, X.numel() > 3, X.ndim, X.is_cuda),
    "iterate": lambda: [row + 1 for row in X],
    "unbind_stack": lambda: torch.stack(X.unbind()) + torch.cat([X, X]).view(2, 3, 4),
    "expand": lambda: X.expand(2, 3, 4).permute(2, 0, 1).contiguous().flatten(),
    "factories": lambda: [
        torch.zeros(3, device=X.device),
        torch.ones(2, 2, device=X.device),
        torch.full((2,), 7.0, device=X.device),
        torch.arange(5, device=X.device),
        torch.linspace(0, 1, 5, device=X.device),
        torch.eye(3, device=X.device),
        torch.empty_like(X).fill_(3.0),
        X.new_full((2,), 1.0),
        X.new_zeros(3),
        torch.scalar_tensor(3.0, device=X.device),
    ],
    "random": lambda: torch.rand_like(X) + torch.randn(3, 4, device=X.device),
    "dtypes": lambda: (X.to(torch.float32), X.to(torch.half), X.half().float(), X.to(CLASSES)),
    "type_dtype": lambda: (X.type(torch.half), X.type_as(CLASSES), X.type()),
    "own_device": lambda: X.to(X.device).to(X.device, torch.half, non_blocking=True),
    "as_tensor": lambda: torch.as_tensor(X, dtype=torch.half, device=X.device),
    "dlpack_to_torch": lambda: torch.from_dlpack(X),
    "copy": lambda: X.clone().copy_(X),
    "deepcopy": lambda: copy.deepcopy(X),
    "cumsum": lambda: X.cumsum(0).diff(dim=0).sum() + X.mean(),
    "reductions": lambda: (X.any(), X.amax(1), X.logsumexp(1), X.argmin(), X.softmax(1)),
    "histc": lambda: X.histc(4, min=-1, max=1),
    "quantile": lambda: X.quantile(0.5),
    "searchsorted": lambda: torch.bucketize(X, X[0].sort().values),
    "one_hot": lambda: F.one_hot(CLASSES, 3) + F.one_hot(CLASSES, num_classes=3),
    "repeat_interleave": lambda: X.repeat_interleave(2, 0),
    "repeat_to_size": lambda: X.repeat_interleave(CLASSES, 0, output_size=3),
    "tri": lambda: X.tril() + X.triu(),
    "meshgrid": lambda: torch.meshgrid(CLASSES, CLASSES, indexing="ij"),
    "matmul": lambda: X @ X.T + torch.einsum("ij,kj->ik", X, X),
    "linear": lambda: F.linear(X, X),
    "conv": lambda: F.conv2d(IMAGE, IMAGE[:, :, :3, :3]),
    "norms": lambda: F.layer_norm(X, (4,)) + F.group_norm(IMAGE, 2).mean(),
    "pool": lambda: F.max_pool2d(IMAGE, 2) + F.avg_pool2d(IMAGE, 2),
    "pad": lambda: F.pad(IMAGE, (1, 1, 1, 1)),
    "interpolate": lambda: [
        F.interpolate(IMAGE, size=(5, 7), mode=mode) for mode in ("nearest", "bilinear", "bicubic")
    ],
    "antialias": lambda: F.interpolate(IMAGE, (5, 7), mode="bilinear", antialias=True),
    "grid_sample": lambda: F.grid_sample(
        IMAGE,
        F.affine_grid(X[None, :2, :3], [1, 2, 4, 4], align_corners=False),
        align_corners=False,
    ),
    "attention": lambda: F.scaled_dot_product_attention(IMAGE, IMAGE, IMAGE),
    "masked_attention": lambda: F.scaled_dot_product_attention(
        IMAGE, IMAGE, IMAGE, attn_mask=torch.ones(8, 8, dtype=torch.bool, device=X.device).tril()
    ),
    "autocast": lambda: _linear_in_bfloat16(),
}


def _linear_in_bfloat16() -> Tensor:
    with torch.autocast(X.device.type, torch.bfloat16):
        return F.linear(X, X) + F.softmax(X @ X.T, 1)[:, :3]
