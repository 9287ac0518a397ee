"""JSON objects that carry a CRC-32C of themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from fastcrc.crc32 import iscsi as crc32c

from stages.errors import RecordingError

_SEAL: Final = "crc32c"


def sealed(values: Mapping[str, object], indent: int | None = None) -> bytes:
    """One object, on one line without ``indent``, whose last value is the CRC of the same JSON
    without it."""
    crc = crc32c(_text(values, indent))
    return _text({**values, _SEAL: f"{crc:08x}"}, indent)


def unsealed(raw: bytes, where: str, indent: int | None = None) -> dict[str, Any]:
    """The object without its CRC; raises `RecordingError` for what `sealed` has not written, byte
    for byte."""
    try:
        values = json.loads(raw.decode())
    except (ValueError, RecursionError) as error:
        raise RecordingError(f"{where}: is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise RecordingError(f"{where}: is no JSON object")
    values.pop(_SEAL, None)
    try:
        whole = sealed(values, indent) == raw
    except ValueError:
        whole = False
    if not whole:
        raise RecordingError(f"{where}: its check sum is wrong: it was changed or is damaged")
    return values


def _text(values: Mapping[str, object], indent: int | None) -> bytes:
    separators = (",", ":") if indent is None else None
    text = json.dumps(values, indent=indent, separators=separators, allow_nan=False)
    return text.encode() + b"\n"
