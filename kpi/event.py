"""What every event is: one JSON object a line.

`ts` (Unix seconds) is set by the logger when an event is emitted; `source_id`, `epoch` and
`frame_id` stand where they apply.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Event:
    """Base of every event."""

    event: ClassVar[str]

    def as_dict(self) -> dict[str, object]:
        """`event` and the fields, JSON-ready; fields that are None are left out."""
        values: dict[str, object] = {"event": self.event}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if value is not None:
                values[name] = _plain(value)
        return values


_PLAIN = (float, int, str, tuple)


def _plain(value: object) -> object:
    """What `dataclasses.asdict` gives, without copying what nobody can change: a fraction of the
    time, and it is spent on every frame."""
    if value is None or isinstance(value, _PLAIN):
        return value
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    fields = getattr(value, "__dataclass_fields__", None)
    return value if fields is None else {name: _plain(getattr(value, name)) for name in fields}
