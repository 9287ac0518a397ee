"""A SAM3 small enough for tests: random weights, a tokenizer of bytes, a processor's settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

SIDE = 112
QUERIES = 20


def tiny_config() -> Any:
    """The sizes of transformers' own test, with pictures of half the side."""
    from transformers import Sam3Config

    small = {"hidden_size": 32, "num_attention_heads": 4}
    layers = {**small, "num_layers": 1, "intermediate_size": 64}
    return Sam3Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam3_vit_model",
                **small,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "image_size": SIDE,
                "patch_size": 14,
                "window_size": 4,
                "global_attn_indexes": [1],
                "pretrain_image_size": SIDE // 2,
            },
            "fpn_hidden_size": 32,
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        },
        text_config={
            "model_type": "clip_text_model",
            **small,
            "vocab_size": 600,
            "intermediate_size": 64,
            "projection_dim": 32,
            "num_hidden_layers": 2,
            "max_position_embeddings": 32,
            "bos_token_id": 512,
            "eos_token_id": 513,
        },
        geometry_encoder_config=layers,
        detr_encoder_config=layers,
        detr_decoder_config={**layers, "num_queries": QUERIES},
        mask_decoder_config={**small, "num_upsampling_stages": 2},
    )


def write_sam3(folder: Path) -> Path:
    """`folder` with all that a model needs; scores and masks are lively."""
    from transformers import CLIPTokenizer, Sam3ImageProcessor, Sam3Model, Sam3Processor

    torch.manual_seed(3)
    model = Sam3Model(tiny_config())
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "dot_product_scoring" in name or "mask_decoder" in name or "box_head" in name:
                weights.mul_(6)
            elif "presence_head.layer3" in name:
                weights.mul_(20)
        model.detr_decoder.reference_points.weight.normal_(0, 1)
    model.save_pretrained(folder)
    signs = [*range(33, 127), *range(161, 173), *range(174, 256)]
    alphabet = [chr(code) for code in signs]
    alphabet += [chr(256 + place) for place in range(256 - len(alphabet))]
    tokens = [*alphabet, *(f"{sign}</w>" for sign in alphabet)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: at for at, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    size = {"height": SIDE, "width": SIDE}
    Sam3Processor(Sam3ImageProcessor(size=size), tokenizer).save_pretrained(folder)
    return folder
