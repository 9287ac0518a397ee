"""SAM2 weights by their id on the Hugging Face hub, from the local cache only."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from stages.errors import ConfigError

SAM2_NAMES: Final = tuple(
    f"{family}_hiera_{size}" for family in ("sam2.1", "sam2") for size in ("t", "s", "b+", "l")
)
"""Names of the structures that the sam2 package brings along; their weights are Meta's to give."""

_SIZES: Final = {"t": "tiny", "s": "small", "b+": "base_plus", "l": "large"}
_FILES: Final = {name: f"{name[: name.rindex('_') + 1]}{_SIZES[name.split('_')[-1]]}.pt"
                 for name in SAM2_NAMES}  # fmt: skip

MODEL_IDS: Final = {
    f"facebook/{file.removesuffix('.pt').replace('_', '-')}": name for name, file in _FILES.items()
}
"""Structure by id, such as `facebook/sam2.1-hiera-tiny`; see `sam2.build_sam`."""


def weights_file(model_id: str) -> str:
    """Name of the file with the weights of one of `MODEL_IDS`."""
    return _FILES[MODEL_IDS[model_id]]


def cached_checkpoint(model_id: str) -> Path:
    """The weights that `hf download` once fetched; raises `ConfigError` where there are none."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError as error:
        raise ConfigError(
            f"model: {model_id} needs the huggingface_hub package (pip install 'maskstream[hub]'), "
            "or a name such as sam2.1_hiera_t with a checkpoint"
        ) from error
    file = weights_file(model_id)
    found = try_to_load_from_cache(model_id, file)
    if not isinstance(found, str):
        raise ConfigError(
            f"model: {model_id} is not in the local cache (nothing is downloaded), expected "
            f"`hf download {model_id} {file}` to have run"
        )
    return Path(found)
