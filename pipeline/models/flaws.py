"""Why a file cannot be what its name says, found without loading it: `flaw_of`."""

from __future__ import annotations

import gzip
import json
import zipfile
import zlib
from pathlib import Path
from typing import Final

from safetensors import SafetensorError, safe_open

from stages.checkpoints import one_line

_CHUNK: Final = 1 << 20
_BEFORE_ZIP: Final = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How a file of `torch.save` began before torch 1.6; such a one has no check sums."""


def flaw_of(path: Path) -> str | None:
    """One line, or None where nothing was found; raises OSError."""
    if path.stat().st_size == 0:
        return "the file is empty"
    match path.suffix:
        case ".safetensors":
            return _of_safetensors(path)
        case ".json":
            return _of_json(path)
        case ".pt" | ".pth":
            return _of_torch(path)
        case ".gz":
            return _of_gzip(path)
    return None


def _of_safetensors(path: Path) -> str | None:
    try:
        with safe_open(path, framework="pt") as file:
            return None if file.keys() else "holds no tensors"
    except (SafetensorError, ValueError) as error:
        return f"truncated or not a safetensors file ({one_line(error)})"


def _of_json(path: Path) -> str | None:
    try:
        json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        return f"not JSON ({one_line(error)})"
    return None


def _of_torch(path: Path) -> str | None:
    with path.open("rb") as file:
        if file.read(len(_BEFORE_ZIP)) == _BEFORE_ZIP:
            return None
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    # zipfile says NotImplementedError of a compression, and RuntimeError of a password, that no
    # torch file has.
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        return f"truncated or not a torch file ({one_line(error)})"
    return f"its entry {damaged} does not match its check sum" if damaged is not None else None


def _of_gzip(path: Path) -> str | None:
    try:
        with gzip.open(path) as file:
            while file.read(_CHUNK):
                pass
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        return f"truncated or not a gzip file ({one_line(error)})"
    return None
