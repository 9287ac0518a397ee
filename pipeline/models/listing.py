"""`maskstream models list`: what is shipped or configured, and where it lies."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from pipeline.config import load_config
from pipeline.models.places import ModelPlace, configured, shipped
from stages.file_digest import sha256_of


def show(configs: Sequence[str]) -> int:
    """Print the models of these configurations, or the shipped ones; 1 where a file is missing or
    cannot be read.

    Raises `ConfigError` for a configuration that cannot be read.
    """
    if not configs:
        return _print(shipped())
    codes = []
    for name in configs:
        sys.stdout.write(f"{name}:\n" if len(configs) > 1 else "")
        codes.append(_print(configured(load_config(name))))
    return max(codes)


def _print(places: Iterable[ModelPlace]) -> int:
    code, count = 0, 0
    for place in places:
        count += 1
        sys.stdout.write(f"{place.name}  ({place.used_by})\n")
        if not place.files:
            code = 1
            sys.stdout.write("  not on this machine (nothing is fetched during a run)\n")
            continue
        sys.stdout.write(f"  licence {place.licence}, {size(place.size)}\n")
        for path in place.files:
            try:
                told = f"sha256 {sha256_of(path)}"
            except OSError as error:  # a link to nothing, or a file of somebody else
                code, told = 1, error.strerror or type(error).__name__
            sys.stdout.write(f"  {path}\n    {told}\n")
    if not count:
        sys.stdout.write("no model files\n")
    return code


def size(count: int) -> str:
    """Bytes for a person."""
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"
