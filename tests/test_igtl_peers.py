"""Others' OpenIGTLink senders feed ours: PyIGTL, and the protocol's C++ library."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pyigtl_sender
import pytest
from chaos_proxy import ChaosProxy
from conftest import ROOT
from igtl_cxx import compiled
from igtl_peers import fresh
from numpy.typing import NDArray
from services import require_file

from stages.sources.feed import Arrival, FeedError
from stages.sources.igtl_dial import Dialer
from stages.sources.igtl_door import Door, Doorkeeper
from stages.sources.igtl_feed import IgtlFeed, IgtlWishes
from stages.sources.igtl_lookup import Lookup
from stages.sources.openigtlink import OpenIGTLinkConfig, OpenIGTLinkSource
from stages.sources.troubles import Troubles

EXAMPLES = Path("/usr/share/doc/openigtlink-examples/examples/Imager")
ROLES = ["server", "client"]
"""Of the sender."""
PICTURES = 4
WAIT_S = 30.0
STAMP_NS = 1_700_000_000_250_000_000
POSED = IgtlWishes(device="Image", pose_device="Tool", max_pose_skew_ns=900_000_000)

Build = Callable[[Path], str]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Compiles a C++ program against the library and gives its path."""
    folder = tmp_path_factory.mktemp("cxx")
    return lambda source: compiled(source, folder)


@contextmanager
def fed(
    role: str, command: Callable[[int], Sequence[str]], wishes: IgtlWishes
) -> Iterator[Callable[[], IgtlFeed]]:
    """A sender that runs `command(port)` as server or client; gives what makes our next feed."""
    troubles = Troubles("us")
    door = Door("127.0.0.1", 0, "us", troubles) if role == "client" else None
    port = door.port if door is not None else free_port()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command(port), env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            if door is not None:
                yield lambda: IgtlFeed(Doorkeeper(door), wishes, troubles)
            else:
                lookup = Lookup("127.0.0.1", port)
                yield lambda: IgtlFeed(Dialer(lookup, "it"), wishes, troubles)
            assert not troubles.counts
        finally:
            process.kill()
            if door is not None:
                door.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def arrivals(feed: Callable[[], IgtlFeed], count: int) -> list[Arrival]:
    """The first pictures of one connection; a server may take its time to be there."""
    deadline = time.monotonic() + WAIT_S
    one, found = feed(), list[Arrival]()
    while len(found) < count and time.monotonic() < deadline:
        try:
            arrival = one.read(fresh, 0.1)
        except FeedError:
            assert not found, "the connection broke"
            one.close()
            time.sleep(0.1)
            one = feed()
            continue
        if arrival is not None:
            found.append(arrival)
    one.close()
    assert len(found) == count, "too few pictures came"
    return found


def in_8_bits(index: int, kind: str) -> NDArray[np.uint8]:
    """What we make of a test picture: 257 times a value is that value in 16 bits."""
    sent = pyigtl_sender.pixels(index, kind)
    return sent if sent.dtype == np.uint8 else (sent // 257).astype(np.uint8)


def check(found: list[Arrival], kind: str) -> None:
    """Pixels, times, spacing and pose of the test pictures."""
    turned = np.diag([-1.0, -1.0, 1.0, 1.0]) if kind == "lps" else np.eye(4)
    y_mm, x_mm = pyigtl_sender.SPACING_MM
    for index, arrival in enumerate(found):
        assert np.array_equal(arrival.pixels, in_8_bits(index, kind)), index
        assert arrival.captured_unix_ns is not None
        assert abs(arrival.captured_unix_ns - (STAMP_NS + index * 1_000_000_000)) < 1_000
        assert arrival.spacing_mm == pytest.approx((y_mm, x_mm), rel=1e-6)
        assert arrival.pose is not None
        tool = np.eye(4)
        tool[2, 3] = index
        for row, column in ((0, 0), (5, 0), (0, 9), (5, 9)):
            sent = tool @ turned @ pyigtl_sender.matrix() @ [column, row, 0, 1]
            assert np.allclose(arrival.pose @ [column * x_mm, row * y_mm, 0, 1], sent, atol=1e-4)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("kind", "version"),
    [("grey", 1), ("grey", 2), ("rgb", 2), ("grey16", 1), ("lps", 1)],
)
def test_pyigtl_feeds_us(role: str, kind: str, version: int) -> None:
    script = str(ROOT / "tests" / "pyigtl_sender.py")

    def command(port: int) -> list[str]:
        words = (sys.executable, script, role, port, kind, PICTURES, version)
        return [str(word) for word in words]

    with fed(role, command, POSED) as feed:
        check(arrivals(feed, PICTURES), kind)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("kind", ["grey", "rgb", "grey16"])
def test_the_cxx_library_feeds_us(build: Build, role: str, kind: str) -> None:
    program = build(ROOT / "tests" / "igtl_sender.cxx")
    with fed(role, lambda port: [program, role, str(port), kind, "200"], POSED) as feed:
        found = arrivals(feed, PICTURES)
    centred(found)
    check(found, kind)


def test_the_cxx_library_cut_off_at_random_bytes_goes_on_in_a_new_epoch(build: Build) -> None:
    program, port, cuts = build(ROOT / "tests" / "igtl_sender.cxx"), free_port(), 3
    rng = np.random.default_rng(8)
    with (
        subprocess.Popen([program, "server", str(port), "grey", "10000"]) as process,
        ExitStack() as at_last,
        ChaosProxy("127.0.0.1", port) as proxy,
    ):
        at_last.callback(process.kill)
        told = {"host": "127.0.0.1", "port": proxy.port, "pose_device": "Tool"}
        source = OpenIGTLinkSource(OpenIGTLinkConfig.model_validate(told))
        overdue = threading.Timer(WAIT_S, source.close)
        overdue.start()
        for epoch in range(cuts + 1):
            seen = 0
            while seen < PICTURES:
                picture = source.read(fresh)
                assert picture is not None, "it did not come back in time"
                assert picture.captured_unix_ns is not None
                number = round((picture.captured_unix_ns - STAMP_NS) / 1e9)
                assert np.array_equal(picture.pixels, in_8_bits(number, "grey"))
                seen += picture.epoch == epoch
            assert picture.epoch == epoch
            if epoch < cuts:
                proxy.faults.cut_at = int(rng.integers(1, 3000))
        overdue.cancel()
        source.close()
    assert not source.troubles.counts


def centred(found: list[Arrival]) -> None:
    """The library's users give the position of the centre, PyIGTL's that of the first pixel:
    what the same numbers mean lies half a picture apart."""
    y_mm, x_mm = pyigtl_sender.SPACING_MM
    for arrival in found:
        assert arrival.pose is not None
        arrival.pose[:3, 3] += arrival.pose[:3, :3] @ [4.5 * x_mm, 2.5 * y_mm, 0]


@pytest.mark.parametrize("role", ROLES)
def test_the_examples_of_the_cxx_library_feed_us(build: Build, role: str) -> None:
    """As Debian ships them, unchanged."""
    name = "ImagerServer.cxx" if role == "server" else "ImagerClient.cxx"
    program = build(require_file(EXAMPLES / name, "openigtlink-examples"))
    pictures = EXAMPLES / "img"

    def command(port: int) -> list[str]:
        host = [] if role == "server" else ["127.0.0.1"]
        return [program, *host, str(port), "50", str(pictures)]

    with fed(role, command, IgtlWishes()) as feed:
        found = arrivals(feed, 5)
    for index, arrival in enumerate(found):
        sent = np.fromfile(pictures / f"igtlTestImage{index + 1}.raw", np.uint8)
        assert np.array_equal(arrival.pixels, sent.reshape(256, 256)), index
        assert arrival.spacing_mm == (1.0, 1.0)
