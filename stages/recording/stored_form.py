"""What the typed forms of entries read themselves from."""

from __future__ import annotations

from typing import Any, Protocol

from numpy.typing import NDArray

from stages.recording.entry import Json, Kind, Stamp
from stages.recording.fields import Fields
from stages.window import Window


class Stored(Protocol):
    """A record that was read: see `stages.recording.stored.StoredRecord`."""

    @property
    def kind(self) -> Kind: ...
    @property
    def stamp(self) -> Stamp: ...
    @property
    def fields(self) -> Fields: ...
    def array(self, name: str) -> NDArray[Any]: ...


def window_fields(window: Window) -> dict[str, Json]:
    """What `Fields.window` reads again."""
    return {
        "size_hw": list(window.size_hw),
        "origin_yx": list(window.origin_yx),
        "full_hw": list(window.full_hw),
    }
