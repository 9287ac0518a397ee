"""The versions a result depends on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "maskstream",
    "torch",
    "torchvision",
    "sam2",
    "ultralytics",
    "numpy",
    "pyzmq",
    "nvidia-ml-py",
    "prometheus-client",
    "pydantic",
    "av",
    "pydicom",
)
OPTIONAL = ("transformers",)
"""Of extras: what needs them says so."""


def package_version(name: str) -> str | None:
    """The installed version of a distribution; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Python's version and those of the packages that are installed."""
    found = {name: package_version(name) for name in (*PACKAGES, *OPTIONAL)}
    installed = {name: value for name, value in found.items() if value is not None}
    return {"python": platform.python_version(), **installed}
