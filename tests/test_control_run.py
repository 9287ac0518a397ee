"""Clicks on a live run: a real process, the demo's weights, a phantom that knows the truth."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import StartCli
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from test_curve import DEAF_S, Keys

from stages.client import Subscriber
from stages.control_client import Controller
from stages.errors import ControlError
from stages.packets import Truth
from stages.sources.phantom import PhantomConfig, PhantomSource
from stages.wire import ResultMessage

SEED, FPS = 10029, 6
START_S = 60.0
LEAST_IOU = 0.7
CONFIG = """\
name: clicks
device: cpu
source: {{kind: phantom, seed: {seed}, fps: {fps}, frames: {frames}}}
grab: {{mailbox: every}}
detector: {detector}
segmenter: {{kind: sam2_stream, model: demo, max_objects: 8, prompts: {prompts}}}
results: {{endpoint: "ipc://s/results", hwm: 1000}}
control: {{endpoint: "ipc://s/control"}}
http: null
preview: null
"""


@dataclass
class Clicked:
    """A run from outside."""

    folder: Path
    process: subprocess.Popen[str]
    results: Subscriber
    control: Controller

    def result(self, frame_id: int) -> ResultMessage:
        """The result of a frame that is yet to come, or the newest one."""
        while True:
            message = self.results.receive(START_S)
            assert message is not None, self.process.communicate()
            if message.frame_id >= frame_id:
                assert message.frame_id == frame_id
                return message

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        _, stderr = self.process.communicate(timeout=START_S)
        assert self.process.returncode == 0, stderr


@contextmanager
def clicking(
    folder: Path, start: StartCli, frames: int | None = None, fps: int = FPS,
    detector: str = "{kind: none}", prompts: str = "[]", keys: Keys | None = None,
) -> Iterator[Clicked]:  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / "s").mkdir(mode=0o700)
    limit = "null" if frames is None else str(frames)
    text = CONFIG.format(seed=SEED, fps=fps, frames=limit, detector=detector, prompts=prompts)
    if keys is not None:
        text += f"curve: {keys.curve.model_dump_json()}\n"
    (folder / "c.yaml").write_text(text)
    own = None if keys is None else keys.friend
    process = start("run", "c.yaml", "--out", "out", "--wait-subscribers", "1", cwd=folder)
    with (
        Subscriber(f"ipc://{folder}/s/results", high_water_mark=1000, keys=own) as results,
        Controller(run_endpoint(folder), timeout_s=START_S, keys=own) as control,
    ):
        yield Clicked(folder, process, results, control)


def run_endpoint(folder: Path) -> str:
    return f"ipc://{folder}/s/control"


def truth_source() -> PhantomSource:
    return PhantomSource(PhantomConfig(seed=SEED, fps=None))


def largest(truth: Truth) -> int:
    """The row of the object that can be judged best."""
    areas = truth.masks.sum(axis=(1, 2)) * truth.counted
    return int(areas.argmax())


def middle(mask: NDArray[np.bool_]) -> tuple[float, float]:
    """(x, y) of the pixel farthest from the mask's edge: where somebody would click."""
    y, x = np.unravel_index(int(distance_transform_edt(mask).argmax()), mask.shape)
    return float(x) + 0.5, float(y) + 0.5


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float((a & b).sum() / max(1, (a | b).sum()))


def now(run: Clicked) -> int:
    """The newest frame, once there is one."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        newest = run.control.send("status").data.get("newest")
        if newest is not None:
            return int(newest["frame_id"])
        time.sleep(0.1)
    raise AssertionError("no frame came")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_click_becomes_the_mask_of_what_was_clicked_on(
    tmp_path: Path, start_cli: StartCli
) -> None:
    """Through sockets that let in nobody but who has a key."""
    source, keys = truth_source(), Keys(tmp_path / "keys")
    with clicking(tmp_path, start_cli, keys=keys) as run:
        at = now(run) + 2 * FPS
        before = source.truth(at)
        row = largest(before)
        answer = run.control.send(
            "add", points=(middle(before.masks[row]),), labels=(1,), frame_id=at, epoch=0
        )
        assert (answer.applied, answer.frame_id) == (True, at)
        found = []
        for frame_id in range(at, at + 3):
            message, truth = run.result(frame_id), source.truth(frame_id)
            ids = [one.id for one in message.objects]
            known = truth.object_ids.tolist().index(before.object_ids[row])
            if answer.object_id in ids and message.mask_rows is not None:
                mask = message.mask(ids.index(answer.object_id))
                found.append(iou(mask, truth.masks[known]))
                others = [iou(mask, each) for each in np.delete(truth.masks, known, axis=0)]
                assert max(others, default=0.0) < 0.3
        assert len(found) == 3, "from the frame it took effect on"
        assert max(found) >= LEAST_IOU, found
        stranger = Controller(run_endpoint(tmp_path), timeout_s=DEAF_S, keys=keys.stranger)
        with stranger, pytest.raises(ControlError, match="no answer"):
            stranger.send("reset")
        run.stop()
    told = [json.loads(line) for line in (tmp_path / "out" / "control.jsonl").open()]
    clicks = [line for line in told if line["command"].get("verb") == "add"]
    assert [line["answer"]["frame_id"] for line in clicks] == [at]
    assert {line["user"] for line in told} == {"friend"}
    events = [json.loads(line) for line in (tmp_path / "out" / "kpi.jsonl").open()]
    prompts = [event for event in events if event["event"] == "prompt"]
    assert [(event["action"], event["frame_id"]) for event in prompts] == [("add", at)]
    assert any(event["event"] == "control_commands" for event in events)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_click_on_the_next_frame_names_removes_and_pictures_it(
    tmp_path: Path, start_cli: StartCli
) -> None:
    source = truth_source()
    with clicking(tmp_path, start_cli, detector="{kind: yolo, weights: demo}") as run:
        truth = source.truth(now(run))
        row = largest(truth)
        paused = run.control.send("pause")
        assert paused.frame_id is not None
        while now(run) < paused.frame_id:  # frames before it were looked at already
            time.sleep(0.1)
        assert run.control.send("reset").applied
        added = run.control.send("add", points=(middle(truth.masks[row]),), labels=(1,))
        assert added.applied
        named = run.control.send("rename", object_id=added.object_id, name="what I mean")
        assert named.applied
        assert named.frame_id is not None
        message = run.result(named.frame_id)
        labels = {one.id: one.label for one in message.objects}
        assert labels[added.object_id] == "what I mean"
        assert set(labels) == {added.object_id}, "the detector rests"
        shot = run.control.send("snapshot")
        assert shot.applied
        picture, state = (tmp_path / "out" / name for name in shot.data["files"])
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert json.loads(state.read_text())["objects"][0]["label"] == "what I mean"
        assert run.control.send("remove", object_id=added.object_id).applied
        assert run.control.send("resume").applied
        deadline = time.monotonic() + START_S
        while not run.control.send("status").data["newest"]["objects"]:
            assert time.monotonic() < deadline, "the detector looks again"
            time.sleep(0.1)
        run.stop()


BAD = (
    {"verb": "add", "box": (5000, 5, 6000, 9)},
    {"verb": "add", "points": ((5, 5),), "labels": ()},
    {"verb": "add", "mask": np.zeros((480, 640), bool)},
    {"verb": "add", "text": "the needle"},
    {"verb": "add", "box": (10, 10, 60, 60), "epoch": 9},
    {"verb": "correct", "object_id": 77, "points": ((5, 5),), "labels": (1,)},
    {"verb": "remove", "object_id": 77},
    {"verb": "rename", "object_id": 77, "name": "x"},
    {"verb": "fly"},
)
FRAMES = 36


def everything(run: Clicked, bad: bool) -> list[tuple[int, list[object], bytes]]:
    """Every result of a run that ends by itself: what it says of its objects, and their masks."""
    told: list[tuple[int, list[object], bytes]] = []
    refused = 0
    while len(told) < FRAMES:
        message = run.results.receive(START_S)
        assert message is not None
        numbers: list[object] = [
            (one.id, one.presence, one.quality, one.area_px, one.box, one.centroid)
            for one in message.objects
        ]
        told.append((message.frame_id, numbers, bytes(message.payload)))
        if bad and len(told) % 4 == 2 and refused < len(BAD):
            assert not run.control.send(**BAD[refused]).applied
            refused += 1
    assert refused == (len(BAD) if bad else 0)
    _, stderr = run.process.communicate(timeout=START_S)
    assert run.process.returncode == 0, stderr
    return told


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_bad_command_changes_nothing_of_the_others(tmp_path: Path, start_cli: StartCli) -> None:
    truth = truth_source().truth(0)
    points = [middle(mask) for mask, good in zip(truth.masks, truth.counted, strict=True) if good]
    prompts = json.dumps([{"points": [point], "labels": [1]} for point in points])
    told = []
    for name in ("quiet", "busy"):
        with clicking(tmp_path / name, start_cli, FRAMES, 4, prompts=prompts) as run:
            told.append(everything(run, bad=name == "busy"))
    quiet, busy = told
    assert len(quiet[-1][1]) == len(points) > 0
    assert len({payload for _, _, payload in quiet}) > FRAMES // 2, "they move"
    assert busy == quiet
