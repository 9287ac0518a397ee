"""What the live sources that FFmpeg reads have in common: `AvSource`."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from stages.sources.live import LiveSource
from stages.sources.live_section import LiveSection
from stages.sources.troubles import Troubles

if TYPE_CHECKING:
    from stages.sources.av_feed import AvFeed
    from stages.sources.feed import Feed
    from stages.sources.second_try import SecondTry


class AvSource(LiveSource, ABC):
    """A `LiveSource` and a `DescribedSource` whose connections are `AvFeed`s."""

    def __init__(self, config: LiveSection) -> None:
        from stages.sources.av_feed import TURNS

        super().__init__(config, self._dialled)
        self.troubles = Troubles(config.source_id)
        """Pictures that came and are not shown, counted (see `AvFeed`)."""
        self._turns = threading.Semaphore(TURNS)
        self._newest: AvFeed | SecondTry | None = None

    @property
    def description(self) -> str:
        """Codec, pixel format, matrix and range, as the newest connection tells them."""
        told = None if self._newest is None else self._newest.description
        return told or "not known before the first picture"

    @abstractmethod
    def _connect(self) -> AvFeed:
        """The next attempt."""

    def _dialled(self) -> Feed:
        self._newest = self._connect()
        return self._newest
