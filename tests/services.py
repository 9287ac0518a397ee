"""Programs and devices that only some tests need, and that a developer may not have."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest


def require(name: str) -> str:
    """The path of program `name`; skips the test where it is missing, unless
    `REQUIRE_SERVICES=1` says that here it must not be."""
    path = shutil.which(name)
    if path is None:
        reason = f"{name} is not on PATH"
        if os.environ.get("REQUIRE_SERVICES") == "1":
            pytest.fail(f"{reason}, and REQUIRE_SERVICES=1")
        pytest.skip(reason)
    return path


def require_cuda() -> None:
    """Skips the test on a machine without a CUDA GPU, and there imports no torch."""
    if not any(Path("/dev").glob("nvidia[0-9]*")):
        pytest.skip("no NVIDIA device")
    import torch

    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA GPU")


def require_file(path: Path, package: str) -> Path:
    """`path`; skips, or fails, the test where it is missing, as `require` does."""
    if not path.exists():
        reason = f"{path} is missing (Debian: {package})"
        if os.environ.get("REQUIRE_SERVICES") == "1":
            pytest.fail(f"{reason}, and REQUIRE_SERVICES=1")
        pytest.skip(reason)
    return path
