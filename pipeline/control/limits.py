"""How much each controller may say: `Limits`."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, Literal

Verdict = Literal["heard", "told", "ignored"]
_PEERS: Final = 1024
_TOLD: Final = 20
"""Refusals that a peer is sent, in multiples of what it may say."""


@dataclass(slots=True)
class Bucket:
    """Tokens that are left, and when that was so."""

    left: float
    at: float

    def spend(self, rate: float, most: float, now_s: float) -> bool:
        """Take one, where there is one; ``rate`` come a second, up to ``most``."""
        self.left = min(most, self.left + (now_s - self.at) * rate)
        self.at = now_s
        if self.left < 1:
            return False
        self.left -= 1
        return True


class Limits:
    """A token bucket a peer, and one for the refusals that it is sent. Bounded: of more peers
    than `_PEERS`, the one silent for longest is forgotten."""

    def __init__(self, rate_per_s: float, burst: int) -> None:
        self._rate, self._burst = rate_per_s, burst
        self._peers: OrderedDict[bytes, tuple[Bucket, Bucket]] = OrderedDict()

    def judge(self, peer: bytes, now_s: float) -> Verdict:
        """`heard`; or refused, which it is `told`, unless it has been told often enough."""
        buckets = self._peers.pop(peer, None)
        if buckets is None:
            most = self._burst * _TOLD
            buckets = Bucket(self._burst, now_s), Bucket(most, now_s)
            if len(self._peers) >= _PEERS:
                self._peers.popitem(last=False)
        self._peers[peer] = buckets
        if buckets[0].spend(self._rate, self._burst, now_s):
            return "heard"
        if buckets[1].spend(self._rate * _TOLD, self._burst * _TOLD, now_s):
            return "told"
        return "ignored"
