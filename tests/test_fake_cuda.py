"""Steps on tensors that claim to lie on a GPU: what that finds, and what it copies."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.fake_cuda import fake_cuda, run_on_fake_cuda
from stages.colour import picture_of
from stages.errors import ResidencyError
from stages.window import Window
from stages.ycbcr import YCbCr
from tests.residency_models import tiny_tracker, tiny_yolo
from tests.tiny_sam2 import SIZE, frame

pytestmark = pytest.mark.timeout(240)  # fake tensors import torch's compiler: slow under load

MODES = [torch.enable_grad, torch.no_grad, torch.inference_mode]
Mode = Callable[[], AbstractContextManager[None]]

CUDA = torch.device("cuda", 0)
HOST = torch.ones(3, 4)
HOST_NUMBER = torch.tensor(2.0)
RAW = YCbCr("nv12", "bt709", False, Window((1, 3), (1, 0), (2, 4)))
HOST_INDEX = torch.tensor([0, 2])


@torch.library.custom_op("maskstream_test::compact", mutates_args=())
def compact(value: Tensor) -> Tensor:
    """An operator of one's own whose shape depends on data, as its fake tells."""
    return value[value > 0].clone()


@compact.register_fake
def _(value: Tensor) -> Tensor:
    return value.new_empty(torch.library.get_ctx().new_dynamic_size())


OFFENCES: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "constant": (lambda x: x + HOST, "aten.add copies from the host"),
    "constant_alone": (lambda x: HOST * 2, "aten.mul uses a tensor left on the host"),
    "constant_number": (lambda x: x * HOST_NUMBER, "aten.mul uses a tensor left on the host"),
    "constant_index": (lambda x: x[HOST_INDEX], "aten.index copies from the host"),
    "factory_without_device": (lambda x: x + torch.zeros(4), "aten.add copies from the host"),
    "index_without_device": (lambda x: x[torch.arange(2)], "aten.index copies from the host"),
    "in_a_list": (lambda x: torch.cat([x, torch.zeros(1, 4)]), "aten.cat copies from the host"),
    "upload": (lambda x: torch.zeros(3, 4).to(x.device), "Tensor.to copies from the host"),
    "upload_into": (lambda x: x.clone().copy_(torch.zeros(4)), "aten.copy_ copies from the host"),
    "set_from_host": (lambda x: put(x, torch.zeros(4)), "aten.copy_ copies from the host"),
    "download_into": (lambda x: torch.zeros(3, 4).copy_(x), "aten.copy_ copies to the host"),
    "cpu": (lambda x: x.cpu(), "Tensor.cpu copies to the host"),
    "to_cpu": (lambda x: x.to("cpu"), "Tensor.to copies to the host"),
    "to_cpu_device": (lambda x: x.to(torch.device("cpu")), "Tensor.to copies to the host"),
    "to_like_host": (lambda x: x.to(torch.zeros(1)), "Tensor.to copies to the host"),
    "tensor": (lambda x: torch.tensor([1.0, 2.0]), "torch.tensor copies from the host"),
    "tensor_there": (lambda x: torch.tensor(1.0, device=x.device), "torch.tensor copies from"),
    "item": (lambda x: x.sum().item(), "Tensor.item copies to the host"),
    "if": (lambda x: 1 if x.any() else 0, "Tensor.__bool__ copies to the host"),
    "tolist": (lambda x: x.tolist(), "Tensor.item copies to the host"),
    "numpy": (lambda x: x.numpy(), "Tensor.numpy copies to the host"),
    "mask": (lambda x: x[x > 0], "aten.index has a shape that depends on data"),
    "nonzero": (lambda x: x.nonzero(), "aten.nonzero has a shape that depends on data"),
    "unique": (lambda x: x.unique(), "aten._unique2 has a shape that depends on data"),
    "one_hot": (lambda x: F.one_hot(x.long()), "one_hot has a shape that depends on data"),
    "own_operator": (compact, "maskstream_test.compact needs a value from the device"),
}

RESIDENT: dict[str, Callable[[Tensor], Tensor]] = {
    "arithmetic": lambda x: (x * 2.0 + 1).clamp(0, 1),
    "where": lambda x: torch.where(x > 0, 1.0, x),
    "topk_gather": lambda x: x.gather(1, x.topk(2).indices),
    "index": lambda x: x[torch.arange(2, device=x.device)],
    "factory": lambda x: x + torch.zeros(4, device=x.device),
    "zero_dim_host_number": lambda x: x * torch.scalar_tensor(2.0),
    "one_hot": lambda x: F.one_hot(x.long(), 3),
    "resize": lambda x: F.interpolate(x[None, None], (8, 8), mode="bilinear"),
    "attention": lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None]),
    "raw_picture": lambda x: picture_of(x.to(torch.uint8).flatten(), RAW),
    "own_device": lambda x: x.to(x.device).to("cuda").to(torch.half),
}


def put(target: Tensor, value: Tensor) -> None:
    target.clone()[0] = value


# --- what is caught ------------------------------------------------------------------------


@pytest.mark.parametrize("name", OFFENCES)
def test_an_offence_raises_and_names_its_operation_and_line(name: str) -> None:
    step, expected = OFFENCES[name]
    for mode in MODES:
        with mode(), pytest.raises(ResidencyError) as caught, fake_cuda(HOST) as (value,):
            step(value)
        message = str(caught.value)
        assert expected in message
        assert message.rpartition(", at ")[2].startswith(f"tests/{Path(__file__).name}:"), message
        assert "\n" not in message


@pytest.mark.parametrize("name", RESIDENT)
def test_what_stays_on_the_device_passes(name: str) -> None:
    for mode in MODES:
        with mode(), fake_cuda(HOST) as (value,):
            result = RESIDENT[name](value)
        assert result.device == CUDA


def test_a_mistake_of_the_step_stays_its_own() -> None:
    with pytest.raises(RuntimeError, match="reduction dim") as caught, fake_cuda(HOST) as (value,):
        value @ value
    assert not isinstance(caught.value, ResidencyError)
    with pytest.raises(AssertionError, match="three"), fake_cuda(HOST) as (value,):
        raise AssertionError("three objects expected")


# --- what is copied ------------------------------------------------------------------------


class Caching(nn.Module):
    """A module with tensors everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("scale", torch.ones(4))
        self.register_buffer("missing", None)
        self.anchors = torch.ones(4)
        self.same = self.anchors
        self.cache = {(3, 4): [torch.ones(4), (torch.ones(4),)]}
        self.device = torch.device("cpu")
        self.scaled = partial(torch.mul, torch.ones(4))

    def forward(self, value: Tensor) -> Tensor:
        (listed, (nested,)) = self.cache[tuple(value.shape)]  # type: ignore[index]
        zeros = torch.zeros(4, device=self.device)
        return self.layer(self.scaled(value)) * self.scale + self.anchors + listed + nested + zeros


@dataclass(frozen=True, slots=True)
class Holder:
    """A stage that is no module, immutable, with slots."""

    module: Caching
    offset: Tensor

    def run(self, value: Tensor) -> Tensor:
        return self.module(value) + self.offset


def test_every_tensor_of_an_object_graph_is_on_the_fake_gpu() -> None:
    holder = Holder(Caching(), torch.ones(4))
    for mode in MODES:
        with mode(), fake_cuda(holder, HOST) as (fake, value):
            result = fake.run(value)
            module = fake.module
        assert result.device == CUDA
        assert result.shape == (3, 4)
        assert module.anchors is module.same
        assert module.anchors.device == fake.offset.device == module.device == CUDA
        assert isinstance(module.layer.weight, nn.Parameter)
        assert module.layer.weight.requires_grad
        assert module.missing is None


def test_the_original_stays_as_it_was() -> None:
    holder = Holder(Caching(), torch.ones(4))
    tensors = [*holder.module.state_dict(keep_vars=True).values(), holder.module.anchors]
    values = [tensor.clone() for tensor in tensors]
    expected = holder.run(HOST)
    with torch.no_grad(), fake_cuda(holder, HOST) as (fake, value):
        fake.module.layer.weight.zero_()
        fake.module.anchors.add_(1)
        fake.run(value)
        fake.module.cache.clear()
    after = [*holder.module.state_dict(keep_vars=True).values(), holder.module.anchors]
    assert all(now is before for now, before in zip(after, tensors, strict=True))
    assert all(torch.equal(now, value) for now, value in zip(after, values, strict=True))
    assert holder.module.device == torch.device("cpu")
    assert torch.equal(holder.run(HOST), expected)


def test_layout_and_dtype_are_kept() -> None:
    grey = torch.zeros(1, 5, 7, dtype=torch.uint8).expand(3, -1, -1)
    last = torch.zeros(1, 3, 5, 7).to(memory_format=torch.channels_last)
    with fake_cuda(grey, [last]) as (fake_grey, [fake_last]):
        pass
    assert (fake_grey.stride(), fake_grey.dtype) == (grey.stride(), torch.uint8)
    assert fake_last.stride() == last.stride()


def test_a_bound_method_or_a_record_can_be_run_at_once() -> None:
    holder = Holder(Caching(), torch.ones(4))
    assert run_on_fake_cuda(holder.run, HOST).device == CUDA
    record = run_on_fake_cuda(lambda taken: taken, frame())
    assert record.rgb.device == CUDA
    assert record.rgb.shape == frame().rgb.shape


def test_what_cannot_be_copied_is_named() -> None:
    class Locked:
        lock = None

        def __init__(self) -> None:
            self.lock = threading.Lock()

    message = r"cannot copy Locked to a fake GPU: .*lock"
    with pytest.raises(TypeError, match=message), fake_cuda(Locked()):
        pytest.fail("the block ran")


# --- the libraries of the hot path ---------------------------------------------------------


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Tensor, Tensor]:
    step = tiny_tracker(tmp_path_factory.mktemp("sam2"))
    picture, boxes = torch.rand(1, 3, SIZE, SIZE), torch.rand(2, 4) * SIZE
    with torch.no_grad():
        step(picture, boxes)
    return step, picture, boxes


def test_sam2_runs_on_a_fake_gpu(tracker: tuple[nn.Module, Tensor, Tensor]) -> None:
    with torch.inference_mode(), fake_cuda(*tracker) as (step, picture, boxes):
        result = step(picture, boxes)
    assert result.device == CUDA
    assert all(value.device.type == "cpu" for value in tracker[0].state_dict().values())


def test_a_position_code_left_on_the_host_is_found(
    tracker: tuple[nn.Module, Tensor, Tensor],
) -> None:
    with pytest.raises(ResidencyError) as caught, torch.inference_mode():
        spoil_and_run(*tracker)
    assert "sam2/modeling/" in str(caught.value)


def spoil_and_run(*tracker: Any) -> None:
    with fake_cuda(*tracker) as (step, picture, boxes):
        attention = step.sam.memory_attention.layers[0].self_attn
        attention.freqs_cis = torch.ones_like(attention.freqs_cis, device="cpu")
        step(picture, boxes)


@pytest.mark.parametrize("mode", MODES)
def test_an_end_to_end_yolo_runs_on_a_fake_gpu_once_warm(mode: Mode) -> None:
    network, picture = tiny_yolo(), torch.rand(1, 3, 64, 96)
    with mode():
        with (
            pytest.raises(ResidencyError, match=r"ultralytics/utils/tal\.py:\d+, called from"),
            fake_cuda(network, picture) as (cold, there),
        ):
            cold(there)
        network(picture)
        with fake_cuda(network, picture) as (warm, there):
            rows = warm(there)[0]
    assert (rows.shape, rows.device) == ((1, 4, 6), CUDA)
