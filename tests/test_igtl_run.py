"""A whole run that others' OpenIGTLink senders feed: PyIGTL, and the protocol's C++ library."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyigtl_sender
import pytest
from conftest import ROOT, StartCli
from igtl_cxx import compiled
from igtl_peers import until
from numpy.typing import NDArray
from PIL import Image

from stages.client import Subscriber
from stages.wire_messages import ResultMessage

WAIT_S = 60.0
FRAMES = 6
Command = Callable[[int], Sequence[str]]
SETTINGS = (
    "source.listen=true",
    "source.port=0",
    "source.pose_device=Tool",
    "results.endpoint=tcp://127.0.0.1:0",
    "control=null",
    "http=null",
    "preview.every=1",
    "detector={kind: none}",
)


def by_pyigtl(folder: Path, kind: str) -> Command:
    script = str(ROOT / "tests" / "pyigtl_sender.py")
    return lambda port: [sys.executable, script, "client", str(port), kind, "2000"]


def by_the_cxx_library(folder: Path, kind: str) -> Command:
    program = compiled(ROOT / "tests" / "igtl_sender.cxx", folder)
    return lambda port: [program, "client", str(port), kind, "2000"]


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("sender", "kind"), [(by_pyigtl, "rgb"), (by_the_cxx_library, "grey")],
    ids=["pyigtl", "the C++ library"],
)  # fmt: skip
def test_pictures_times_spacing_and_pose_arrive_right(
    tmp_path: Path, start_cli: StartCli, sender: Callable[[Path, str], Command], kind: str
) -> None:
    command = sender(tmp_path, kind)
    out = tmp_path / "run"
    words = [word for one in SETTINGS for word in ("--set", one)]
    told = ["--frames", str(FRAMES), "--out", str(out), "--wait-subscribers", "1"]
    process = start_cli("run", "openigtlink", *words, *told, cwd=tmp_path)
    until((out / "endpoints.json").exists, WAIT_S)
    endpoints = json.loads((out / "endpoints.json").read_text())
    port = int(endpoints["frames"].rsplit(":", 1)[1])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (
        Subscriber(endpoints["results"]) as results,
        subprocess.Popen(command(port), env=environment, stderr=subprocess.DEVNULL) as peer,
    ):
        try:
            came = followed(results, process)
        finally:
            peer.kill()
    assert process.returncode == 0
    counted = json.loads((out / "summary.json").read_text())["frames"]
    assert counted["grabbed"] == FRAMES == counted["published"] + sum(counted["dropped"].values())
    assert len(came) == counted["published"] >= 2
    for one in came:
        check(one, centred=sender is by_the_cxx_library)
    with Image.open(out / "preview.png") as preview:
        assert np.array_equal(np.asarray(preview), expected(came[-1], kind)), "the last frame"
    assert not np.array_equal(expected(came[-1], kind), expected(came[0], kind))


def followed(results: Subscriber, process: subprocess.Popen[str]) -> list[ResultMessage]:
    """Every result of the run."""
    came: list[ResultMessage] = []
    over = False
    while not over:
        over = process.poll() is not None
        while (message := results.receive(0.1)) is not None:
            came.append(message)
    return came


def index_of(message: ResultMessage) -> int:
    """Which picture of the sender's it came from: each is a second after the one before."""
    assert message.captured_unix_ns is not None
    seconds = message.captured_unix_ns / 1e9 - pyigtl_sender.STAMP_S
    assert abs(seconds - round(seconds)) < 1e-6
    return round(seconds)


def expected(message: ResultMessage, kind: str) -> NDArray[np.uint8]:
    """Its picture, (H, W, 3)."""
    sent = pyigtl_sender.pixels(index_of(message), kind)
    return sent if sent.ndim == 3 else np.stack([sent] * 3, -1)


def check(message: ResultMessage, *, centred: bool) -> None:
    """Its spacing and pose. ``centred``: the position that was sent is that of the middle."""
    y_mm, x_mm = pyigtl_sender.SPACING_MM
    rows, columns = pyigtl_sender.SHAPE
    assert message.spacing_mm == pytest.approx((y_mm, x_mm), rel=1e-6)
    assert message.pose is not None
    tool = np.eye(4)
    tool[2, 3] = index_of(message)
    middle = ((columns - 1) / 2, (rows - 1) / 2) if centred else (0.0, 0.0)
    for row, column in ((0, 0), (rows - 1, 0), (0, columns - 1)):
        place = [column - middle[0], row - middle[1], 0, 1]
        sent = tool @ pyigtl_sender.matrix() @ place
        found = message.pose @ [column * x_mm, row * y_mm, 0, 1]
        assert np.allclose(found, sent, atol=1e-4)
