"""The names of a frame's files in the `npy` layout."""

from __future__ import annotations

import re
from typing import Final

PREDICTIONS: Final = "predictions"
"""The folder of all recordings of this layout below a root."""
INDEX: Final = "index.jsonl"
_LOGITS: Final = re.compile(r"frame_(\d{5,18})\.npy", re.ASCII)


def logits_name(frame_id: int) -> str:
    """Wider than five digits from frame 100 000 on."""
    return f"frame_{frame_id:05d}.npy"


def ids_name(frame_id: int) -> str:
    return f"frame_{frame_id:05d}_obj_ids.npy"


def frame_of(name: str) -> int | None:
    """Whose logits a file of this name holds; None for other files."""
    found = _LOGITS.fullmatch(name)
    if found is None or logits_name(int(found[1])) != name:
        return None
    return int(found[1])
