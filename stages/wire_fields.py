"""Reading a header's JSON by name, type and range; whatever does not fit is a `WireError`."""

from __future__ import annotations

import math
import reprlib

from stages.wire_masks import WireError

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
MAX_TEXT = 128


class Fields:
    """One JSON object. Fields that nobody reads are ignored: a newer publisher may add some."""

    __slots__ = ("_values", "_where")

    def __init__(self, values: object, where: str) -> None:
        if not isinstance(values, dict):
            raise WireError(f"{where}: got {reprlib.repr(values)}, expected an object")
        self._values: dict[str, object] = values
        self._where = where

    def absent(self, name: str) -> bool:
        """True where the field is missing or null."""
        return self._values.get(name) is None

    def integer(self, name: str, low: int = INT64_MIN, high: int = INT64_MAX) -> int:
        return self._integer(name, self._values.get(name), low, high)

    def integers(self, name: str, count: int, low: int, high: int) -> tuple[int, ...]:
        items = self.items(name, count)
        return tuple(self._integer(name, item, low, high) for item in items)

    def number(self, name: str) -> float:
        """A finite number; NaN where the field is null, JSON's only way to say it."""
        if name in self._values and self._values[name] is None:
            return math.nan
        return self._number(name, self._values.get(name))

    def numbers(self, name: str, count: int) -> tuple[float, ...]:
        return tuple(self._number(name, item) for item in self.items(name, count))

    def flag(self, name: str) -> bool:
        value = self._values.get(name)
        if not isinstance(value, bool):
            raise self.misfit(name, value, "true or false")
        return value

    def text(self, name: str) -> str:
        return self._text(name, self._values.get(name))

    def texts(self, name: str) -> tuple[str, ...]:
        return tuple(self._text(name, item) for item in self.items(name))

    def items(self, name: str, count: int | None = None) -> list[object]:
        value = self._values.get(name)
        if not isinstance(value, list) or (count is not None and len(value) != count):
            raise self.misfit(name, value, f"a list of {'any length' if count is None else count}")
        return value

    def misfit(self, name: str, value: object, expected: str) -> WireError:
        return WireError(f"{self._where}: {name}: got {reprlib.repr(value)}, expected {expected}")

    def _integer(self, name: str, value: object, low: int, high: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.misfit(name, value, f"an integer {low}..{high}")
        return value

    def _number(self, name: str, value: object) -> float:
        if isinstance(value, float) and math.isfinite(value):
            return value
        # An integer beyond int64 may not fit a float at all.
        if isinstance(value, int) and not isinstance(value, bool):
            return float(self._integer(name, value, INT64_MIN, INT64_MAX))
        raise self.misfit(name, value, "a finite number")

    def _text(self, name: str, value: object) -> str:
        # Printable only: a label ends up in terminals, logs and file names.
        if not isinstance(value, str) or len(value) > MAX_TEXT or not value.isprintable():
            raise self.misfit(name, value, f"at most {MAX_TEXT} printable characters")
        return value
