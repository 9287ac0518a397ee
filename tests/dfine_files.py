"""Small D-FINE and RT-DETR folders for tests, written by transformers itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stages.detectors.dfine_network import import_transformers

CLASS_NAMES = ("vessel", "tumor", "rib")
INPUT_HW = (64, 96)
KINDS = {
    "d_fine": "DFineForObjectDetection",
    "rt_detr": "RTDetrForObjectDetection",
    "rt_detr_v2": "RTDetrV2ForObjectDetection",
}
_SHARED: dict[str, Any] = {
    "encoder_hidden_dim": 32, "encoder_in_channels": [16, 24], "feat_strides": [8, 16],
    "encoder_ffn_dim": 64, "encoder_attention_heads": 2, "encode_proj_layers": [1], "d_model": 32,
    "num_queries": 30, "decoder_in_channels": [32, 32], "decoder_ffn_dim": 64,
    "num_feature_levels": 2, "decoder_layers": 2, "decoder_attention_heads": 2, "num_denoising": 0,
    "id2label": dict(enumerate(CLASS_NAMES)),
}  # fmt: skip


def tiny_network(kind: str = "d_fine", seed: int = 0) -> Any:
    """With random weights and scores that are spread over 0..1."""
    library = import_transformers()
    torch.manual_seed(seed)
    if kind == "d_fine":
        backbone = library.HGNetV2Config(
            stem_channels=[3, 8, 8], stage_in_channels=[8, 8, 16], stage_mid_channels=[8, 8, 8],
            stage_out_channels=[8, 16, 24], stage_num_blocks=[1] * 3,
            stage_downsample=[False, True, True], stage_downsample_strides=[2] * 3,
            stage_light_block=[False] * 3, stage_kernel_size=[3] * 3, stage_numb_of_layers=[1] * 3,
            hidden_sizes=[8, 16, 24], depths=[1] * 3, embedding_size=8,
            out_features=["stage2", "stage3"],
        )  # fmt: skip
        config = library.DFineConfig(
            **_SHARED, backbone_config=backbone, max_num_bins=8, lqe_hidden_dim=16, depth_mult=0.34
        )
    else:
        backbone = library.RTDetrResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16, 24], depths=[1] * 3, layer_type="basic",
            out_features=["stage2", "stage3"],
        )  # fmt: skip
        maker = library.RTDetrConfig if kind == "rt_detr" else library.RTDetrV2Config
        levels = {} if kind == "rt_detr" else {"decoder_n_levels": 2}
        config = maker(**_SHARED, **levels, backbone_config=backbone)
    network = getattr(library, KINDS[kind])(config).eval()
    for module in network.modules():  # as made, all features and boxes are about the same
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
    return network


def write_folder(path: Path, network: Any, **preprocessor: object) -> Path:
    """``preprocessor``: more for, or other values in, its file."""
    network.save_pretrained(path)
    height, width = INPUT_HW
    form = {
        "image_processor_type": "RTDetrImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": False,
        **preprocessor,
    }
    (path / "preprocessor_config.json").write_text(json.dumps(form))
    return path


def changed(path: Path, file: str, **values: object) -> Path:
    """Other values in one of a folder's JSON files; None takes a key away."""
    content = json.loads((path / file).read_text()) | values
    kept = {key: value for key, value in content.items() if value is not None}
    (path / file).write_text(json.dumps(kept))
    return path
