"""The same masks however the tracker's units run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from tiny_sam2 import enliven, tiny_structure, write_model
from tiny_stream import BOX, Stream
from torch._dynamo import config as dynamo

from stages.errors import ConfigError
from stages.segmenters import execution, tracker
from stages.segmenters.execution import Execution, made_ready
from stages.segmenters.live_prompts import Prompt
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
    generator = torch.Generator("cpu").manual_seed(0)
    shape = (1, 3, core.image_size, core.image_size)
    for number in range(12):
        picture = torch.randn(shape, generator=generator, device="cpu")
        pictures = units.encode(picture.to(core.device))
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


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Units are traced as for compiling, guards and limits included, and then run as they stand."""

    def compiled(unit: Any) -> Any:
        return torch.compile(unit, fullgraph=True, dynamic=False, backend="eager")

    monkeypatch.setattr(execution, "_compiled", compiled)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def prompted(stream: Stream) -> list[np.ndarray[Any, Any]]:
    """Presence and masks over frames on which ever more objects, with more memory, are followed."""
    found = []
    for number in range(14):
        if number in (1, 2, 4, 5, 6):
            stream.segmenter.prompt(Prompt("add", box=BOX))
        elif number > 6:
            stream.segmenter.prompt(Prompt("reinit", object_id=1, box=BOX))
        packet = stream.step(seed=number)
        found += [packet.presence, packet.masks]
    assert packet.object_ids.tolist() == [0, 1, 2, 3, 4]
    return found


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_every_size_that_eight_slots_need_is_made_before_the_first_frame(
    files: tuple[Path, Path], traced: None
) -> None:
    stream = Stream(files, max_objects=8, execution="compile")
    with dynamo.patch(error_on_recompile=True):
        found = prompted(stream)
    for ours, wanted in zip(found, prompted(Stream(files, max_objects=8)), strict=True):
        assert np.allclose(ours, wanted, atol=1e-3)
    assert dynamo.recompile_limit == 8


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_failure_of_the_compiler_is_not_blamed_on_the_model(
    files: tuple[Path, Path], traced: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker, "room_for", lambda *_: nullcontext())
    expected = (
        r"^execution: compile cannot be made ready here \(.*recompile limit.*\), expected eager"
    )
    with dynamo.patch(recompile_limit=2), pytest.raises(ConfigError, match=expected):
        Stream(files, max_objects=2, execution="compile")


def test_what_no_execution_can_run_is_the_models_fault(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise ValueError("sizes do not fit")

    monkeypatch.setattr(TrackerCore, "track", fails)
    monkeypatch.setattr(execution, "_compiled", lambda unit: unit)
    for how in ("eager", "compile"):
        with pytest.raises(ConfigError, match=r"sam2 cannot run this model \(sizes do not fit\)"):
            Stream(files, execution=how)
