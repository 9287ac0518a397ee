"""The segmenter's ear: what the header of a result tells the stage that made it."""

from __future__ import annotations

from stages.base import Segmenter
from stages.packets import HostPacket


class HeaderReader:
    """A sink that hands every header, a few frames late, to the segmenter."""

    wants_masks = False

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter

    def write(self, packet: HostPacket) -> None:
        self._segmenter.heed(packet)

    def poll(self) -> None:
        """Nothing to look after."""

    def close(self) -> None:
        """Whoever waits for the answer to a prompt waits no longer."""
        self._segmenter.close()
