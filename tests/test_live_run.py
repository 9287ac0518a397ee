"""A whole run on a live source: it begins without it, says so, and writes no secret anywhere."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import StartCli
from PIL import Image
from rtsp_peer import BARS, RtspServer, bars, require_rtsp_server
from test_frame_loop import FakeChain, FakeSink, Rig

from kpi.timing import FrameTimes
from stages.base import Buffer
from stages.client import Subscriber
from stages.grab import Grab
from stages.mailbox import MailboxPolicy
from stages.records import Encoded, Frame
from stages.sources.feed import Arrival, FeedError
from stages.sources.live import LiveSource
from stages.sources.live_section import LiveSection

WORD = "p@CANARY:w%41rd"
WAIT_S = 50.0
UP = 'maskstream_source_up{source="cam"}'


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@dataclass
class Watched:
    """A run from outside: everything that it lets out."""

    folder: Path
    said: list[bytes] = field(default_factory=list)

    def endpoint(self, name: str) -> str:
        self.eventually((self.folder / "endpoints.json").exists)
        return str(json.loads((self.folder / "endpoints.json").read_text())[name])

    def ask(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"{self.endpoint('http')}{path}", timeout=10) as answer:  # noqa: S310
                status, body = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, body = error.code, error.read()
        self.said.append(body)
        return status, body.decode()

    def eventually(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline, "it never happened"
            time.sleep(0.05)

    def events(self, name: str) -> list[dict[str, Any]]:
        log = self.folder / "kpi.jsonl"
        lines = log.read_text().splitlines() if log.exists() else []
        return [event for line in lines if (event := json.loads(line))["event"] == name]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "live.yaml"
    path.write_text(
        "name: live\ndetector: {kind: none}\npreview: null\n"
        "segmenter: {kind: sam2_image, model: demo, max_objects: 1}\n"
        "results: {endpoint: 'tcp://127.0.0.1:0'}\ncontrol: {endpoint: 'tcp://127.0.0.1:0'}\n"
        "http: {port: 0}\n"
    )
    return path


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_it_begins_without_its_camera_and_lets_out_no_secret(
    tmp_path: Path, config: Path, start_cli: StartCli
) -> None:
    require_rtsp_server()
    port, run = free_port(), Watched(tmp_path / "run")
    text = config.read_text().replace("preview: null", "preview: {every: 1}")
    config.write_text(
        f"{text}source: {{kind: rtsp, source_id: cam, "
        f"url: 'rtsp://operator:{WORD.replace('%', '%25')}@127.0.0.1:{port}/test'}}\n"
    )
    process = start_cli("run", str(config), "--out", str(run.folder), cwd=tmp_path)
    run.eventually(lambda: '"reconnecting"' in run.ask("/status")[1])
    status, why = run.ask("/readyz")
    assert status == 503
    refused = f"rtsp://127.0.0.1:{port}: Connection refused"
    assert json.loads(why)["reason"] == f"the source is reconnecting: {refused}"
    with Subscriber(run.endpoint("results")) as subscriber:
        run.eventually(
            lambda: (
                subscriber.next_message(0.2) is not None
                and subscriber.states["cam"].state == "reconnecting"
            )
        )
        with RtspServer(port, user="operator", password=WORD):
            run.eventually(lambda: subscriber.receive(0.2) is not None)
            run.eventually(lambda: run.ask("/readyz")[0] == 200)
            run.eventually(lambda: f"{UP} 1.0" in run.ask("/metrics")[1])
        run.eventually(lambda: '"reconnecting"' in run.ask("/status")[1])
        run.eventually(lambda: f"{UP} 0.0" in run.ask("/metrics")[1])
    process.send_signal(signal.SIGINT)
    run.said += [text.encode() for text in process.communicate(timeout=WAIT_S)]
    assert process.returncode == 0
    summary = json.loads((run.folder / "summary.json").read_text())
    copies = summary["host_copies"]
    hot = [copies[f"hot_path_{what}"] for what in ("d2h", "h2d", "syncs")]
    assert hot == [0, 0, 0], "warmed up with the first frame, before it was watched"
    frames = summary["frames"]
    assert frames["grabbed"] == frames["published"] + sum(frames["dropped"].values()) > 0
    states = [event["state"] for event in run.events("source_state")]
    assert states[:3] == ["connecting", "reconnecting", "streaming"]
    assert states[-1] == "ended"
    with Image.open(run.folder / "preview.png") as preview:
        assert bars(np.asarray(preview)) == BARS, "in RGB order, through the whole run"
    written = [path.read_bytes() for path in run.folder.rglob("*") if path.is_file()]
    assert len(written) >= 4
    assert any(b"rtsp://***@127.0.0.1" in one for one in written)
    for one in (*written, *run.said):
        assert b"CANARY" not in one


LEAKS = """
import sys
from stages.sources.stream_url import StreamUrl

StreamUrl.__str__ = lambda self: self.reveal()
from pipeline.cli import main

sys.exit(main())
"""


def test_the_search_for_the_secret_would_find_it(tmp_path: Path, config: Path) -> None:
    """The same run, with what leaves the password out taken away."""
    run = tmp_path / "run"
    config.write_text(
        f"{config.read_text()}source: {{kind: rtsp, source_id: cam, "
        "url: 'rtsp://operator:CANARY@127.0.0.1:1/test'}\n"
    )
    command = [sys.executable, "-c", LEAKS, "run", str(config), "--out", str(run)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            Watched(run).eventually(
                lambda: (run / "kpi.jsonl").exists() and bool(Watched(run).events("source_state"))
            )
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=WAIT_S)
    assert any(b"CANARY" in path.read_bytes() for path in run.rglob("*") if path.is_file())


# More pictures than can be worked on


class FastFeed:
    """A grey picture each 8 ms, stamped with its time; breaks after so many."""

    def __init__(self, count: int) -> None:
        self._left = count
        self._due = time.monotonic()

    def read(self, buffer: Buffer, timeout_s: float) -> Arrival | None:
        if self._left == 0:
            raise FeedError("enough of this one")
        self._left -= 1
        self._due += 0.008
        time.sleep(max(0.0, self._due - time.monotonic()))
        pixels = buffer((8, 12))
        pixels[...] = self._left % 256
        return Arrival(pixels, captured_ns=time.monotonic_ns())

    def close(self) -> None:
        pass


class SlowChain(FakeChain):
    """Looks for 50 ms at each frame and notes how old it was before."""

    def __init__(self) -> None:
        super().__init__()
        self.ages_ms: list[float] = []
        self.ids: list[tuple[int, int]] = []

    def look(self, frame: Frame, times: FrameTimes) -> Encoded:
        self.ages_ms.append((time.monotonic_ns() - frame.captured_ns) / 1e6)
        self.ids.append((frame.epoch, frame.frame_id))
        time.sleep(0.05)
        return super().look(frame, times)


@pytest.fixture
def overloaded() -> Callable[..., tuple[SlowChain, Rig, Grab]]:
    """Run for a second and a half on feeds that break after 60 pictures each."""

    def go(mailbox: MailboxPolicy, **grab: Any) -> tuple[SlowChain, Rig, Grab]:
        chain = SlowChain()
        rig = Rig(chain, FakeSink())
        source = LiveSource(LiveSection(), lambda: FastFeed(60), pause=lambda seconds: None)
        threading.Timer(1.5, rig.stop.set).start()
        return chain, rig, rig.run(source, mailbox=mailbox, **grab)

    return go


def test_under_latest_what_is_worked_on_is_young_and_every_picture_is_accounted_for(
    overloaded: Callable[..., tuple[SlowChain, Rig, Grab]],
) -> None:
    chain, rig, grab = overloaded("latest")
    assert rig.errors == []
    assert rig.accounted() == grab.grabbed > 2 * rig.tally.published > 0
    assert float(np.median(chain.ages_ms)) < 100.0, "two periods"
    assert chain.ids == sorted(set(chain.ids))
    assert chain.ids[-1][0] >= 1, "feeds broke on the way"


def test_a_queue_would_make_them_old(
    overloaded: Callable[..., tuple[SlowChain, Rig, Grab]],
) -> None:
    chain, rig, grab = overloaded("every", depth=16)
    assert rig.accounted() == grab.grabbed
    assert float(np.median(chain.ages_ms)) > 100.0


def test_a_budget_keeps_what_is_too_old_from_being_worked_on(
    overloaded: Callable[..., tuple[SlowChain, Rig, Grab]],
) -> None:
    chain, rig, grab = overloaded("every", depth=16, max_age_ms=120.0)
    assert rig.accounted() == grab.grabbed
    assert rig.tally.dropped["stale"] > 0
    assert float(np.median(chain.ages_ms)) < 120.0 + 30.0
