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
class _Bucket:
    left: float
    at: float


class Limits:
    """A token bucket a peer, and one for the refusals that it is sent. Bounded: of more peers
    than `_PEERS`, the one silent for longest is forgotten."""

    def __init__(self, rate_per_s: float, burst: int) -> None:
        self._rate, self._burst = rate_per_s, burst
        self._peers: OrderedDict[bytes, tuple[_Bucket, _Bucket]] = OrderedDict()

    def judge(self, peer: bytes, now_s: float) -> Verdict:
        """`heard`; or refused, which it is `told`, unless it has been told often enough."""
        buckets = self._peers.pop(peer, None)
        if buckets is None:
            most = self._burst * _TOLD
            buckets = _Bucket(self._burst, now_s), _Bucket(most, now_s)
            if len(self._peers) >= _PEERS:
                self._peers.popitem(last=False)
        self._peers[peer] = buckets
        if _spend(buckets[0], self._rate, self._burst, now_s):
            return "heard"
        if _spend(buckets[1], self._rate * _TOLD, self._burst * _TOLD, now_s):
            return "told"
        return "ignored"


def _spend(bucket: _Bucket, rate: float, most: float, now_s: float) -> bool:
    bucket.left = min(most, bucket.left + (now_s - bucket.at) * rate)
    bucket.at = now_s
    if bucket.left < 1:
        return False
    bucket.left -= 1
    return True
