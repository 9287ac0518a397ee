"""The only file of the detectors that imports transformers, and only when a network is built."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final, cast

import torch
from torch import nn

from stages.checkpoints import one_line
from stages.detectors.dfine_folder import DfineFolder
from stages.detectors.model_folder import WEIGHTS, not_finite
from stages.errors import ConfigError

_CLASSES: Final = {
    "d_fine": "DFineForObjectDetection",
    "rt_detr": "RTDetrForObjectDetection",
    "rt_detr_v2": "RTDetrV2ForObjectDetection",
}

_CACHED: Final = ("_cached_generate_anchors", "_cached_build_2d_sinusoidal_position_embedding")


def build_network(folder: DfineFolder) -> nn.Module:
    """The network on the CPU, with its weights, in float32.

    Called with `pixel_values`, float32 (1, 3, h, w), its output has `logits` (1, queries, classes)
    and `pred_boxes` (1, queries, 4): centre x, centre y, width, height as shares of the picture.
    Nothing but what was read from the folder is asked for, so nothing can be fetched. Raises
    `ConfigError` where the weights are not those of the structure.
    """
    transformers = import_transformers()
    weights = folder.path / WEIGHTS
    raw = dict(folder.structure)
    kind = raw.pop("model_type")
    try:
        config = transformers.AutoConfig.for_model(kind, **raw)
        # Anchors of one size would lie on the host; without, they are made for the input's own.
        config.anchor_image_size = None
        network, told = getattr(transformers, _CLASSES[kind]).from_pretrained(
            None, config=config, state_dict=dict(folder.tensors), dtype=torch.float32,
            output_loading_info=True, ignore_mismatched_sizes=True,
        )  # fmt: skip
    except Exception as error:  # a wrong structure fails anywhere inside
        told_in_lines = " ".join(str(error).split())[:200] or type(error).__name__
        raise ConfigError(
            f"{folder.path}: its network cannot be built ({told_in_lines})"
        ) from error
    problems = [
        *(f"lacks {name}" for name in sorted(told["missing_keys"])),
        *(f"has {name[0]} of another shape" for name in sorted(told["mismatched_keys"])),
        *not_finite(network),
    ]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ConfigError(
            f"{weights}: {problems[0]}{more}, expected the weights of the {kind} beside it"
        )
    network = network.eval().requires_grad_(False)
    _keep_constants(network)
    # Convolutions then need no reordering of their input, on the CPU as on the GPU.
    return cast(nn.Module, network.to(memory_format=torch.channels_last))


def _keep_constants(network: nn.Module) -> None:
    """Anchors and position codes come from caches that all models of the process share, from which
    they could be pushed out; let each module keep its own."""
    for module in network.modules():
        for name in _CACHED:
            if hasattr(module, name):
                setattr(module, name, _Kept(getattr(module, name)))


class _Kept:
    """A function that is called once, for one input size on one device, and then answers alike."""

    def __init__(self, make: Callable[..., object]) -> None:
        self._make = make
        self._made: object = None

    def __call__(self, *arguments: object, **options: object) -> object:
        if self._made is None:
            self._made = self._make(*arguments, **options)
        return self._made


def import_transformers() -> Any:  # noqa: ANN401 (its types say little)
    """transformers, kept from telling of its progress and from checks that wait for the device in
    each decoder layer.

    Raises `ConfigError` where it is not installed.
    """
    os.environ["TRANSFORMERS_DISABLE_TORCH_CHECK"] = "1"
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(
            "detector.kind dfine needs transformers, which cannot be imported "
            f"({one_line(error)}): pip install 'maskstream[dfine]'"
        ) from error
    library: Any = transformers
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
    return library
