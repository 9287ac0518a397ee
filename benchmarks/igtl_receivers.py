"""One receiver of an OpenIGTLink stream, in a process of its own:

    python -m benchmarks.igtl_receivers NAME PORT

Prints one JSON line when the stream is over: pictures received, seconds, and processor time.
"""

from __future__ import annotations

import json
import resource
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.igtl_stream import SIZE, bodies, header

_RING = 4  # pictures, as in the upload ring
_SLICE_S = 0.1
_QUIET_S = 2.0


@dataclass(frozen=True, slots=True)
class Received:
    """From the first picture to the last."""

    pictures: int
    seconds: float
    user_s: float
    system_s: float
    switches: int
    """How often the process waited."""


class Ring:
    """A `Buffer` that gives the same few arrays in turn."""

    def __init__(self) -> None:
        self._arrays = [np.zeros((SIZE[1], SIZE[0]), np.uint8) for _ in range(_RING)]
        self._given = 0

    def __call__(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        array = self._arrays[self._given % _RING]
        self._given += 1
        if array.shape != shape:
            raise ValueError(f"{shape}, expected {array.shape}")
        return array


def copy(port: int) -> Iterator[None]:
    """What no receiver can do without: the bytes from the kernel into arrays, nothing else."""
    message = len(header(0, *bodies()[0])) + len(bodies()[0][0])
    rooms = [memoryview(bytearray(message)) for _ in range(_RING)]
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.settimeout(_QUIET_S)
        for turn in range(1 << 62):
            left = rooms[turn % _RING]
            while left:
                count = peer.recv_into(left)
                if not count:
                    return
                left = left[count:]
            yield


def feed(port: int) -> Iterator[None]:
    """Our feed: every check sum looked at, pixels in the ring."""
    from stages.sources.feed import FeedError
    from stages.sources.igtl_dial import Dialer
    from stages.sources.igtl_feed import IgtlFeed, IgtlWishes
    from stages.sources.igtl_lookup import Lookup
    from stages.sources.troubles import Troubles

    troubles = Troubles("bench")
    dialer = Dialer(Lookup("127.0.0.1", port), "the stream")
    ours, ring = IgtlFeed(dialer, IgtlWishes(), troubles), Ring()
    try:
        while True:
            if ours.read(ring, _SLICE_S) is not None:
                yield
    except FeedError:
        if troubles.counts:
            raise ValueError(str(troubles.counts)) from None
    finally:
        ours.close()


def source(port: int) -> Iterator[None]:
    """The whole source: our feed, and what watches over it."""
    from kpi.emit import current_logger
    from kpi.events import Event, SourceStateChanged
    from stages.sources.openigtlink import OpenIGTLinkConfig, OpenIGTLinkSource

    class Watcher:
        """Ends it when the stream does: by itself the source would wait for the next."""

        def emit(self, event: Event) -> None:
            if isinstance(event, SourceStateChanged) and event.state == "reconnecting":
                ours.close()

    current_logger.set(Watcher())
    ours, ring = OpenIGTLinkSource(OpenIGTLinkConfig(port=port)), Ring()
    while ours.read(ring) is not None:
        yield


def pyigtl(port: int) -> Iterator[None]:
    """PyIGTL's client: it keeps the newest picture, and looks at no check sum."""
    import pyigtl as peer

    client = peer.OpenIGTLinkClient("127.0.0.1", port)
    heard = time.monotonic()
    while time.monotonic() - heard < _QUIET_S:
        if client.wait_for_message("Image", timeout=_SLICE_S) is not None:
            heard = time.monotonic()
            yield


RECEIVERS: dict[str, Callable[[int], Iterator[None]]] = {
    "copy": copy,
    "feed": feed,
    "source": source,
    "pyigtl": pyigtl,
}


def measure(received: Iterator[None]) -> Received:
    """Consume it all."""
    pictures = 0
    for _ in received:
        used, now = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
        if not pictures:
            first, began = used, now
        pictures += 1
        last, ended = used, now
    if pictures < 2:
        raise SystemExit("too few pictures came")
    return Received(
        pictures,
        ended - began,
        last.ru_utime - first.ru_utime,
        last.ru_stime - first.ru_stime,
        last.ru_nvcsw - first.ru_nvcsw,
    )


def main() -> None:
    name, port = sys.argv[1], int(sys.argv[2])
    print(json.dumps(asdict(measure(RECEIVERS[name](port)))), flush=True)


if __name__ == "__main__":
    main()
