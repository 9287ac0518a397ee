"""The libraries of the hot path, small: SAM2 and an end-to-end YOLO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from stages.segmenters.sam2_checkpoint import build_structure
from tests.tiny_sam2 import write_model
from tests.yolo_files import tiny_model


def tiny_tracker(folder: Path) -> nn.Module:
    structure, _ = write_model(folder)
    return EncodeAndDecode(build_structure(str(structure))).eval()


def tiny_yolo() -> Any:
    """Fused, with its NMS-free head; four rows."""
    network = tiny_model()
    network.end2end = True
    network.model[-1].max_det = 4
    return network.fuse(verbose=False).eval()


class EncodeAndDecode(nn.Module):
    """A picture and two boxes through SAM2's encoder, prompt encoder and mask decoder, then
    through its memory: what a frame of the tracker uses."""

    def __init__(self, sam: Any) -> None:
        super().__init__()
        self.sam = sam

    def forward(self, picture: Tensor, boxes: Tensor) -> Tensor:
        sam = self.sam
        seen = sam.forward_image(picture)
        levels = seen["backbone_fpn"]
        sparse, dense = sam.sam_prompt_encoder(points=None, boxes=boxes, masks=None)
        masks, _, _, presence = sam.sam_mask_decoder(
            image_embeddings=levels[-1],
            image_pe=sam.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
            repeat_image=True,
            high_res_features=levels[:2],
        )
        _, features, _, sizes = sam._prepare_backbone_features(seen)
        memory, places = sam._encode_new_memory(features, sizes, masks[:1], presence[:1], False)
        attended = sam.memory_attention(
            curr=features[-1],
            curr_pos=features[-1],
            memory=memory.flatten(2).permute(2, 0, 1),
            memory_pos=places[-1].flatten(2).permute(2, 0, 1),
            num_obj_ptr_tokens=0,
        )
        return masks.sum() + attended.sum()
