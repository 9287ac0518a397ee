"""What a SAM2 model must be for its objects to be followed exactly, and the sizes of its memory."""

from __future__ import annotations

from typing import Any, Final

from stages.errors import ConfigError
from stages.segmenters.memory_bank import BankShape

_NEEDED: Final = {
    "use_obj_ptrs_in_encoder": True,
    "directly_add_no_mem_embed": True,
    "use_mask_input_as_output_without_sam": True,
    "memory_temporal_stride_for_eval": 1,
}
"""Flags of `SAM2Base` as every published model has them."""


def bank_shape(
    model: Any,  # noqa: ANN401
    slots: int,
    conditioning: int,
    frames: int | None = None,
) -> BankShape:
    """The sizes that the official predictor's dependence on the past needs.

    Of fewer `frames` than it has pointers, it looks back over all but one; that many is also
    what it measures the pointers' ages by.
    """
    pointers = int(model.max_obj_ptrs_in_encoder)
    if frames is not None:
        pointers = max(2, min(frames, pointers))
    return BankShape(
        slots=slots,
        conditioning=conditioning,
        recent=int(model.num_maskmem) - 1,
        pointers=pointers - 1,
        tokens=int(model.sam_image_embedding_size) ** 2,
        memory_dim=int(model.mem_dim),
        model_dim=int(model.hidden_dim),
    )


def check_structure(model: Any) -> None:  # noqa: ANN401
    """Raise `ConfigError` where the model is built unlike every published SAM2."""
    for name, wanted in _NEEDED.items():
        found = getattr(model, name)
        if found != wanted:
            raise ConfigError(f"{name}: got {found}, expected {wanted} to follow objects")
