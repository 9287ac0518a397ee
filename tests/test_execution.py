"""The same masks however the tracker's units run."""

from __future__ import annotations

import pytest
import torch
from omegaconf import OmegaConf
from tiny_sam2 import enliven, tiny_structure

from stages.errors import ConfigError
from stages.segmenters.execution import Execution, made_ready
from stages.segmenters.sam2_checkpoint import build_structure
from stages.segmenters.tracker_core import TrackerCore


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    path = tmp_path_factory.mktemp("model") / "tiny.yaml"
    OmegaConf.save(tiny_structure(), path)
    torch.manual_seed(0)
    network = build_structure(str(path)).eval().requires_grad_(False)
    enliven(network)
    return network


@torch.inference_mode()
def followed(model: torch.nn.Module, execution: Execution) -> list[torch.Tensor]:
    core = TrackerCore(model, 3, 2)
    units = made_ready(core, execution)
    rows, live = torch.arange(2), torch.tensor([True, True])
    corners = torch.tensor([[[8.0, 8.0], [40.0, 40.0]], [[20.0, 16.0], [60.0, 50.0]]])
    labels = torch.tensor([[2, 3], [2, 3]], dtype=torch.int32)
    found = []
    generator = torch.Generator().manual_seed(0)
    for number in range(12):
        picture = torch.randn(1, 3, core.image_size, core.image_size, generator=generator)
        pictures = units.encode(picture)
        if number == 0:
            shown = core.begin(pictures, rows, core.head.tokens(corners, labels))
        else:
            shown = units.track(pictures, rows, live, 1)
        core.advance()
        found.append(shown.masks.logits.clone())
    return found


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_compiled_units_give_the_same_masks(model: torch.nn.Module) -> None:
    for ours, wanted in zip(followed(model, "compile"), followed(model, "eager"), strict=True):
        assert (ours - wanted).abs().max() <= 1e-3


def test_graphs_need_cuda(model: torch.nn.Module) -> None:
    core = TrackerCore(model, 3, 2)
    with pytest.raises(ConfigError, match="execution: got graph, expected eager or compile"):
        made_ready(core, "graph")


@pytest.mark.gpu
def test_graphs_give_the_same_masks(model: torch.nn.Module) -> None:
    on_gpu = model.to("cuda")
    with torch.device("cuda"):
        for ours, wanted in zip(followed(on_gpu, "graph"), followed(on_gpu, "eager"), strict=True):
            assert (ours - wanted).abs().max() <= 1e-3
