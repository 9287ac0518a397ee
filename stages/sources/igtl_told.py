"""What OpenIGTLink's messages tell: `Told`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from stages.sources.igtl_header import Header
from stages.sources.igtl_image import ImageLayout


@dataclass(frozen=True, slots=True)
class PictureBegins:
    """An IMAGE whose pixels follow: say with `MessageReader.place` where to, or that they are
    not wanted."""

    header: Header
    layout: ImageLayout


@dataclass(frozen=True, slots=True)
class PictureEnds:
    """All of them are in place and undamaged."""

    header: Header
    layout: ImageLayout


@dataclass(frozen=True, slots=True, eq=False)
class PoseTold:
    """A TRANSFORM, POSITION or QTRANS."""

    header: Header
    matrix: NDArray[np.float64]
    """float64 (4, 4)."""


@dataclass(frozen=True, slots=True)
class StatusTold:
    """A STATUS."""

    header: Header
    code: int
    """1: everything is well."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A message that is damaged, or that cannot be used."""

    reason: str


Told: TypeAlias = PictureBegins | PictureEnds | PoseTold | StatusTold | Refused
