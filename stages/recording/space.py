"""Whether there is room to go on: the disk's free space and the recording's quota."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stages.recording.ledger import Clock

_EVERY_S = 0.5
_EVERY_BYTES = 16 << 20
_SPARE = 16


@dataclass(frozen=True, slots=True)
class SpaceLimits:
    """How much a recording may take."""

    min_free_bytes: int = 512 << 20
    """With less on the disk it pauses."""
    resume_free_bytes: int = 768 << 20
    """With so much it goes on; more than the other, so that it does not flicker."""
    quota_bytes: int | None = None
    """Of the recording itself; where it is used up, it pauses."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_free_bytes <= self.resume_free_bytes:
            raise ValueError(
                f"got min_free_bytes {self.min_free_bytes} and resume_free_bytes "
                f"{self.resume_free_bytes}, expected 0 <= min_free_bytes <= resume_free_bytes"
            )


class Space:
    """Asks the disk twice a second, and after each 16 MiB."""

    def __init__(self, limits: SpaceLimits, free_bytes: Callable[[], int], clock: Clock) -> None:
        self._limits = limits
        self._free_bytes = free_bytes
        self._clock = clock
        self._asked_at = float("-inf")
        self._since = 0

    def refusal(self, used_bytes: int, wanted_bytes: int, resuming: bool) -> str | None:
        """Why ``wanted_bytes`` may not be added to the ``used_bytes`` of the recording; None where
        they may. Raises `OSError` where the disk cannot be asked."""
        limits = self._limits
        quota = limits.quota_bytes
        # Going on takes some room: else it would flicker until the last bytes are used up.
        spare = quota // _SPARE if quota is not None and resuming else 0
        if quota is not None and used_bytes + wanted_bytes + spare > quota:
            return f"quota of {limits.quota_bytes} bytes used up"
        now = self._clock.monotonic()
        self._since += wanted_bytes
        if not resuming and now < self._asked_at + _EVERY_S and self._since < _EVERY_BYTES:
            return None
        self._asked_at, self._since = now, 0
        least = limits.resume_free_bytes if resuming else limits.min_free_bytes
        if self._free_bytes() - wanted_bytes < least:
            return f"less than {least} bytes free on the disk"
        return None
