"""A running OpenIGTLink server of results, driven as egress drives it: `Served`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np
from result_packets import random_packet

from stages.packets import HostPacket
from stages.sinks.openigtlink_server import OpenIGTLinkServer, OpenIGTLinkServerConfig

SIZE_HW = (48, 64)
WAIT_S = 20.0
NS = 1_700_000_000_000_000_000


class Served:
    """A server on a free port; `config` overrides its section."""

    def __init__(self, **config: Any) -> None:
        section = OpenIGTLinkServerConfig(**{"port": 0, **config})
        self.server = OpenIGTLinkServer(section, "cam1", ("needle", "vessel"))
        self.endpoint = self.server.endpoint
        self.port = int(self.endpoint.rpartition(":")[2])
        self.written = 0

    def packet(self, size_hw: tuple[int, int] = SIZE_HW, **info: Any) -> HostPacket:
        """The next one; each is stamped a millisecond later."""
        packet, _ = random_packet(np.random.default_rng(self.written), 3, size_hw)
        told = {
            "frame_id": self.written,
            "captured_unix_ns": NS + self.written * 1_000_000,
            "spacing_mm": (0.5, 0.25),
            **info,
        }
        return replace(packet, info=replace(packet.info, **told))

    def write(self, size_hw: tuple[int, int] = SIZE_HW, **info: Any) -> HostPacket:
        packet = self.packet(size_hw, **info)
        self.server.poll()
        self.server.write(packet)
        self.written += 1
        return packet

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline, "it never happened"
            self.server.poll()
            time.sleep(0.005)

    def __enter__(self) -> Served:
        self.server.poll()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.server.close()
