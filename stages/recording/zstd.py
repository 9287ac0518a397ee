"""Zstandard, where the extra `zstd` is installed."""

from __future__ import annotations

from types import ModuleType
from typing import Final

from stages.errors import RecordingError

_LEVEL: Final = 3


def check() -> None:
    """Raises `RecordingError` where zstandard is not installed."""
    _module()


def compress(data: bytes) -> bytes:
    """One frame, which tells its size."""
    packed: bytes = _module().ZstdCompressor(level=_LEVEL).compress(data)
    return packed


def decompress(data: bytes | memoryview, nbytes: int, where: str) -> bytes:
    """The `nbytes` that ``data`` stands for; raises `RecordingError` where it does not."""
    module = _module()
    try:
        if module.frame_content_size(data) != nbytes:
            raise RecordingError(f"{where}: zstd: not of {nbytes} bytes")
        raw: bytes = module.ZstdDecompressor().decompress(data, max_output_size=nbytes)
    except (module.ZstdError, MemoryError) as error:
        raise RecordingError(f"{where}: zstd: {error}") from None
    return raw


def _module() -> ModuleType:
    try:
        import zstandard
    except ImportError:
        raise RecordingError(
            "zstandard is not installed (expected: pip install 'maskstream[zstd]')"
        ) from None
    return zstandard
