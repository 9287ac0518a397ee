"""A SAM2 small enough for tests, with random weights that give lively masks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor, nn

import stages.segmenters.sam2_checkpoint as sam2_checkpoint
from kpi.emit import current_logger
from kpi.events import Event
from stages.records import Detections, Frame, Tracks
from stages.segmenters.sam2_checkpoint import build_structure

SIZE = 64
FRAME_HW = (90, 131)


def tiny_structure() -> Any:
    """The demo's structure with smaller numbers."""
    path = Path(sam2_checkpoint.__file__).parent / "weights" / "sam2_demo.yaml"
    structure = OmegaConf.load(path)
    model = structure.model
    model.image_size = SIZE
    trunk, neck = model.image_encoder.trunk, model.image_encoder.neck
    trunk.embed_dim, trunk.stages, trunk.global_att_blocks = 16, [1, 1, 2, 1], [3]
    neck.d_model, neck.backbone_channel_list = 32, [128, 64, 32, 16]
    neck.position_encoding.num_pos_feats = 32
    memory = model.memory_attention
    memory.d_model, memory.num_layers, memory.layer.dim_feedforward = 32, 1, 64
    memory.layer.d_model = 32
    for attention in (memory.layer.self_attention, memory.layer.cross_attention):
        attention.embedding_dim, attention.feat_sizes = 32, [SIZE // 16, SIZE // 16]
    memory.layer.cross_attention.kv_in_dim = 16
    encoder = model.memory_encoder
    encoder.in_dim, encoder.out_dim, encoder.position_encoding.num_pos_feats = 32, 16, 16
    encoder.mask_downsampler.embed_dim, encoder.fuser.layer.dim = 32, 32
    return structure


def write_structure(folder: Path, structure: Any = None) -> Path:
    path = folder / "tiny.yaml"
    OmegaConf.save(structure or tiny_structure(), path)
    return path


def write_model(folder: Path, stability: bool = True) -> tuple[Path, Path]:
    """A YAML file and a safetensors file in `folder`; `stability`: whether an unstable single
    mask gives way to the best of three."""
    settings = tiny_structure()
    settings.model.sam_mask_decoder_extra_args.dynamic_multimask_via_stability = stability
    structure = write_structure(folder, settings)
    torch.manual_seed(0)
    network = build_structure(str(structure))
    enliven(network)
    weights = folder / "tiny.safetensors"
    save_file(network.state_dict(), weights)
    return structure, weights


def enliven(network: nn.Module) -> None:
    """Scale up what fresh weights leave near zero, so that masks and scores differ by prompt."""
    decoder = network.get_submodule("sam_mask_decoder")
    with torch.no_grad():
        for name, weights in decoder.named_parameters():
            if "output_hypernetworks" in name and name.endswith("layers.2.weight"):
                weights.mul_(150)
            elif "iou_prediction_head" in name or "pred_obj_score_head" in name:
                weights.mul_(3)


def frame(
    size_hw: tuple[int, int] = FRAME_HW,
    *,
    epoch: int = 0,
    frame_id: int = 0,
    seed: int = 0,
    grey: bool = False,
    device: str = "cpu",
) -> Frame:
    generator = torch.Generator().manual_seed(seed)
    planes = torch.randint(
        0, 256, (1 if grey else 3, *size_hw), dtype=torch.uint8, generator=generator
    )
    rgb = planes.to(device).expand(3, -1, -1)
    return Frame(rgb, "camera", epoch, frame_id, captured_ns=5, grabbed_ns=7)


def detections(
    of: Frame, boxes: list[list[float]], valid: list[bool] | None = None, *, computed: bool = True
) -> Detections:
    count, device = len(boxes), of.rgb.device
    return Detections(
        of,
        torch.tensor(boxes, dtype=torch.float32, device=device).reshape(count, 4),
        torch.linspace(0.9, 0.5, count, device=device),
        torch.arange(count, dtype=torch.int32, device=device),
        torch.tensor(valid or [True] * count, dtype=torch.bool, device=device),
        computed,
    )


def tracks(of: Frame, logits: Tensor, valid: list[bool] | None = None) -> Tracks:
    count, device = logits.shape[0], logits.device
    values = torch.linspace(0, 1, count, device=device)
    return Tracks(
        detections(of, []),
        logits=logits,
        object_ids=torch.arange(10, 10 + count, device=device),
        presence=values + 1,
        quality=values + 2,
        age_frames=torch.arange(count, dtype=torch.int32, device=device),
        scores=values,
        class_ids=torch.arange(count, dtype=torch.int32, device=device),
        valid=torch.tensor(valid or [True] * count, dtype=torch.bool, device=device),
    )


def blobs(count: int, side: int, seed: int = 0) -> Tensor:
    """float32 (count, side, side): smooth random logits."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 1, 4, 4, generator=generator) * 8
    return nn.functional.interpolate(coarse, (side, side), mode="bicubic")[:, 0].contiguous()


class Heard:
    """An emitter that remembers."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)


@contextmanager
def listening() -> Iterator[list[Event]]:
    heard = Heard()
    token = current_logger.set(heard)
    try:
        yield heard.events
    finally:
        current_logger.reset(token)
