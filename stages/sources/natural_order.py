"""The order in which a person counts files: picture 9 before picture 10."""

from __future__ import annotations

import re
from string import digits

_Key = tuple[tuple[int, int, str], ...]


def natural_key(name: str) -> _Key:
    """To sort by: numbers in ``name`` count as numbers, the rest as text."""
    parts = re.split(r"(\d+)", name, flags=re.ASCII)
    return tuple(
        (0, int(part), "") if part[0] in digits else (1, 0, part) for part in parts if part
    )
