"""A whole run and its subscribers: nothing is copied for nobody, and who listens is told."""

from __future__ import annotations

import io
import json
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from conftest import StartCli
from igtl_receivers import Receiver
from PIL import Image
from rich.console import Console
from test_live_run import WAIT_S, Watched

from pipeline.config import load_config
from pipeline.frame_flow import RunOptions
from pipeline.meter import Meter
from pipeline.run import start
from pipeline.subscribe import subscribe
from stages.client import Subscriber
from stages.frame_sender import FrameSender
from stages.packets import HostPacket
from stages.wire import KpiMessage, Message, PictureMessage, ResultMessage, StateMessage

CONFIG = """
name: edge
source: {kind: zmq, source_id: cam, endpoint: 'tcp://127.0.0.1:0'}
detector: {kind: none}
segmenter: {kind: sam2_image, model: demo, max_objects: 1}
preview: null
results: {endpoint: 'tcp://127.0.0.1:0', masks: logits}
pictures: {fps: 20}
control: {endpoint: 'tcp://127.0.0.1:0'}
openigtlink_out: {port: 0, version: 2}
http: {port: 0}
"""
TOLD_S = 2.0
STALLS = 3
"""One of which is told in time, though the machine may be busy with something else."""
OLD_NS = 30 * 10**9
PIXELS = np.tile(np.arange(0, 256, 2, dtype=np.uint8)[None, :, None], (96, 1, 3))


PHANTOM = """
name: breaks
source: {kind: phantom, size_hw: [96, 128], fps: 20}
detector: {kind: none}
segmenter: {kind: sam2_image, model: demo, max_objects: 1}
preview: null
control: null
http: null
results: {endpoint: 'ipc://%s'}
"""


def copied(run: Watched, where: str) -> float:
    name = f'maskstream_host_copies_total{{direction="d2h",where="{where}"}}'
    lines = run.ask("/metrics")[1].splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_nothing_for_nobody_then_everything_and_a_stall_is_told(
    tmp_path: Path, start_cli: StartCli
) -> None:
    (tmp_path / "edge.yaml").write_text(CONFIG)
    run = Watched(tmp_path / "run")
    process = start_cli("run", "edge.yaml", "--out", str(run.folder), cwd=tmp_path)
    with FrameSender(run.endpoint("frames"), "cam") as sender:
        assert sender.wait(WAIT_S)

        def published() -> int:
            sender.send(PIXELS)
            return int(json.loads(run.ask("/status")[1])["published"])

        run.eventually(lambda: published() >= 10)
        run.eventually(lambda: copied(run, "header") >= 10)
        assert (copied(run, "egress"), copied(run, "picture")) == (0, 0)

        kinds = ("result", "state", "kpi", "frame")
        seen: dict[type, Message] = {}
        with Subscriber(run.endpoint("results"), "cam", topics=kinds) as listener:

            def look() -> None:
                message = listener.next_message(0.05)
                is_second = not isinstance(message, KpiMessage) or message.event == "frame_second"
                has_logits = not isinstance(message, ResultMessage) or message.has_masks
                if message is not None and is_second and has_logits:
                    seen[type(message)] = message

            def complete() -> bool:
                sender.send(PIXELS)
                look()
                return len(seen) == len(kinds)

            run.eventually(complete)
            run.eventually(lambda: copied(run, "egress") > 0 and copied(run, "picture") > 0)
            check(seen)
            assert any(told_of_the_stall(run, sender, listener) < TOLD_S for _ in range(STALLS))
            check_what_is_old(run, sender, listener)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=WAIT_S)
    assert process.returncode == 0
    copies = json.loads((run.folder / "summary.json").read_text())["host_copies"]
    hot = [copies[f"hot_path_{what}"] for what in ("d2h", "h2d", "syncs")]
    assert hot == [0, 0, 0]
    assert 0 < copies["egress_d2h"] < copies["header_d2h"]
    assert copies["picture_d2h"] > 0


@pytest.mark.timeout(120)
@pytest.mark.parametrize("breaks", [False, True])
def test_a_run_whose_results_cannot_be_written_is_heard_to_fail(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    breaks: bool,
) -> None:
    def write(meter: Meter, packet: HostPacket) -> None:
        if breaks and packet.info.frame_id > 0:
            raise OSError("a sink broke")

    monkeypatch.setattr(Meter, "write", write)
    endpoint, codes = tmp_path / "results", []
    (tmp_path / "run.yaml").write_text(PHANTOM % endpoint)
    listener = threading.Thread(
        target=lambda: codes.append(subscribe(f"ipc://{endpoint}", timeout_s=WAIT_S))
    )
    listener.start()
    options = RunOptions(frames=8, out=tmp_path / "run", wait_subscribers=1)
    with (tmp_path / "log.txt").open("w") as log:
        code = start(load_config(str(tmp_path / "run.yaml")), options, Console(file=log))
    listener.join()
    assert (code, codes) == (int(breaks), [int(breaks)])
    assert ("failed; see its run's log" in capsys.readouterr().err) == breaks


def told_of_the_stall(run: Watched, sender: FrameSender, listener: Subscriber) -> float:
    """Seconds from the last result's capture to the publishing of `stale`, on one clock."""
    last: list[int] = []
    sender.send(PIXELS)

    def heard() -> bool:
        message = listener.next_message(0.05)
        if isinstance(message, ResultMessage):
            last.append(message.published_unix_ns - (message.published_ns - message.captured_ns))
        return bool(last) and isinstance(message, StateMessage) and message.state == "stale"

    run.eventually(heard)
    return (listener.states["cam"].published_unix_ns - last[-1]) / 1e9


def check_what_is_old(run: Watched, sender: FrameSender, listener: Subscriber) -> None:
    """A picture that was 30 s old when it came is stale to all who look, one of now is not."""
    with Receiver(run.endpoint("openigtlink")) as receiver:
        receiver.socket.settimeout(0.1)
        shown: dict[str, object] = {}

        def look() -> None:
            with suppress(TimeoutError):
                for message in iter(receiver.next, None):
                    if message.type == "STATUS":
                        shown["STATUS"] = message.code
                    elif message.type == "IMAGE":
                        shown["IMAGE"] = message.metadata["stale"]

        def told(age_ns: int) -> tuple[bool | None, dict[str, object]]:
            sender.send(PIXELS, captured_ns=time.monotonic_ns() - age_ns)
            result = listener.receive(0.2)
            look()
            return None if result is None else result.stale, shown

        run.eventually(lambda: told(OLD_NS) == (True, {"STATUS": 7, "IMAGE": "1"}))
        run.eventually(lambda: told(0) == (False, {"STATUS": 1, "IMAGE": "0"}))


def check(seen: dict[type, Message]) -> None:
    result, shown, event = (seen[kind] for kind in (ResultMessage, PictureMessage, KpiMessage))
    assert isinstance(result, ResultMessage)
    assert result.logits().shape[0] == len(result.objects)
    assert result.age_ns(time.time_ns()) > 0
    assert isinstance(shown, PictureMessage)
    with Image.open(io.BytesIO(shown.jpeg)) as picture:
        difference = np.abs(np.asarray(picture).astype(int) - PIXELS)
    assert difference.mean() < 3
    assert isinstance(event, KpiMessage)
    line = json.loads(event.line)
    assert line["event"] == "frame_second"
    assert line["published"] > 0
