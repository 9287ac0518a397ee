"""A record's JSON by name and type; whatever does not fit is a `RecordingError`."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence

from stages.errors import RecordingError
from stages.recording.entry import Json
from stages.window import Window


class Fields:
    """One JSON object of a record or manifest."""

    __slots__ = ("_values", "_where", "arrays")

    def __init__(self, values: Json, where: str, arrays: frozenset[str] = frozenset()) -> None:
        """``arrays``: names of the arrays beside it."""
        self._where = where
        self.arrays = arrays
        if not isinstance(values, Mapping):
            raise RecordingError(f"{where}: got {reprlib.repr(values)}, expected an object")
        self._values = values

    def absent(self, name: str) -> bool:
        """True where the field is missing or null."""
        return self._values.get(name) is None

    def integer(self, name: str) -> int:
        value = self._values.get(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.misfit(name, "an integer")
        return value

    def integers(self, name: str, count: int) -> tuple[int, ...]:
        value = self._values.get(name)
        if (
            not isinstance(value, list)
            or len(value) != count
            or not all(isinstance(item, int) for item in value)
        ):
            raise self.misfit(name, f"{count} integers")
        return tuple(int(item) for item in value)

    def all_integers(self, name: str) -> tuple[int, ...]:
        value = self._values.get(name)
        return self.integers(name, len(value) if isinstance(value, list) else 0)

    def number(self, name: str) -> float:
        value = self._values.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self.misfit(name, "a number")
        return float(value)

    def flag(self, name: str) -> bool:
        value = self._values.get(name)
        if not isinstance(value, bool):
            raise self.misfit(name, "true or false")
        return value

    def text(self, name: str) -> str:
        value = self._values.get(name)
        if not isinstance(value, str):
            raise self.misfit(name, "a text")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        value = self._values.get(name)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.misfit(name, "texts")
        return tuple(str(item) for item in value)

    def numbers(self, name: str, count: int) -> tuple[float, ...]:
        items = self.items(name)
        if len(items) != count or not all(_is_number(item) for item in items):
            raise self.misfit(name, f"{count} numbers")
        return tuple(float(item) for item in items if isinstance(item, int | float))

    def items(self, name: str) -> Sequence[Json]:
        value = self._values.get(name)
        if not isinstance(value, list):
            raise self.misfit(name, "a list")
        return value

    def mapping(self, name: str) -> Mapping[str, Json]:
        value = self._values.get(name)
        if not isinstance(value, Mapping):
            raise self.misfit(name, "an object")
        return value

    def window(self) -> Window:
        """From `size_hw`, `origin_yx` and `full_hw`."""
        size, origin, full = (
            self.integers(name, 2) for name in ("size_hw", "origin_yx", "full_hw")
        )
        try:
            return Window((size[0], size[1]), (origin[0], origin[1]), (full[0], full[1]))
        except ValueError as error:
            raise RecordingError(f"{self._where}: {error}") from None

    def misfit(self, name: str, expected: str) -> RecordingError:
        got = reprlib.repr(self._values.get(name))
        return RecordingError(f"{self._where}: {name}: got {got}, expected {expected}")


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
