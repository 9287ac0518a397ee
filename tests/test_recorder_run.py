"""Runs that record, and what is made of their recordings: rerun, replay, one line where they lack
something."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from conftest import Outcome, StartCli
from recorders import eventually, packet, recording
from rich.console import Console
from safetensors.torch import load_file, save_file

from kpi.edge_events import RecorderFrames
from kpi.prometheus import PrometheusSink
from pipeline.config import load_config
from pipeline.frame_flow import RunOptions
from pipeline.replay import ReplayOptions, replay
from pipeline.rerun_compare import known_frames
from pipeline.run import start
from stages.client import StaleError, Subscriber
from stages.errors import ConfigError, MaskstreamError, RecordingError
from stages.recorder.recorded_run import About, RecordedRun
from stages.recording import manifest as manifests
from stages.recording.entries import Packet, Prompted
from stages.recording.entry import Kind, Stamp
from stages.recording.log_reader import LogRecording
from stages.segmenters import sam2_checkpoint
from stages.wire import ResultMessage, decode, encode_result, encode_state
from stages.wire_replay import replayed

FRAMES = 16
FEW = ("--frames", "6")
LOCAL = [
    *("results.endpoint=tcp://127.0.0.1:0", "http.port=0", "control.endpoint=tcp://127.0.0.1:0"),
    *("source.fps=null", "source.ahead=0", "source.size_hw=[120, 160]", "preview=null"),
]
BOX, OTHER = "[20, 20, 60, 50]", "[90, 60, 150, 110]"
PROMPTS = "segmenter.prompts=[{name: first, box: %s}]"
ALL = "record: [frames, detections, prompts, logits, masks, packets], dtype: float32"

Call = Callable[..., Outcome]


def run(out: Path, *overrides: str, frames: int = FRAMES) -> tuple[int, dict[str, Any]]:
    """Exit code and summary of one run in this process."""
    config = load_config("demo", [*LOCAL, *overrides])
    with (out.parent / f"{out.name}.log").open("w") as log:
        code = start(config, RunOptions(frames, out), Console(file=log))
    return code, json.loads((out / "summary.json").read_text())


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that recorded everything."""
    out = tmp_path_factory.mktemp("recorded") / "run"
    code, _ = run(out, PROMPTS % BOX, f"recorder={{{ALL}}}")
    assert code == 0
    return out


def test_a_run_accounts_for_what_it_recorded(recorded: Path) -> None:
    told = json.loads((recorded / "summary.json").read_text())["recorder"]
    assert told["path"] == str(recorded / "recording")
    assert (told["offered"], told["written"], told["dropped"]) == (FRAMES, FRAMES, {})
    files = list((recorded / "recording").iterdir())
    assert 0 < told["bytes"] < sum(path.stat().st_size for path in files)
    assert {path.stat().st_mode & 0o077 for path in files} == {0}
    lines = [json.loads(line) for line in (recorded / "kpi.jsonl").read_text().splitlines()]
    mine = [line for line in lines if line.get("recorder") == "masks"]
    assert [line["state"] for line in mine] == ["recording", "stopped"]
    frames = [line for line in lines if line["event"] == "recorder_frames"]
    assert sum(line["written"] for line in frames) == FRAMES
    assert sum(line["written_bytes"] for line in frames) == told["bytes"]


def test_everything_that_was_asked_for_is_there(recorded: Path) -> None:
    with LogRecording(recorded / "recording") as log:
        assert not log.flaws
        assert (log.manifest.cleaning, log.manifest.exported_from) == ((), None)
        for kind in ("frame", "detections", "logits", "masks"):
            assert len(log.frames(kind)) == FRAMES, kind
        results = [
            message
            for record in log.records("packet")
            if isinstance(message := decode(bytes(Packet.of(record).message)), ResultMessage)
        ]
        assert [message.seq for message in results] == list(range(FRAMES))
        assert all(message.has_masks for message in results), "though nobody subscribed"
        for message in results:
            masks = log.masks_at(message.frame_id)
            assert [item.id for item in message.objects] == masks.object_ids.tolist()
            for row in range(len(message.objects)):
                assert (message.mask(row) == masks.mask(row)).all()


def test_prompts_are_there_for_who_looks_for_them(recorded: Path) -> None:
    with LogRecording(recorded / "recording") as log:
        prompts = [Prompted.of(record) for record in log.records("prompt")]
    assert [prompt.stamp.frame_id for prompt in prompts] == [0]
    request = prompts[0].request
    assert (request["action"], request["configured"]) == ("add", 0)
    assert request["box"] == [20, 20, 60, 50]


def test_a_rerun_gives_the_same_masks_bit_for_bit(recorded: Path, call_main: Call) -> None:
    outcome = call_main("rerun", str(recorded))
    assert outcome.stdout.startswith(f"identical, bit for bit: {FRAMES} frames, ")
    assert (outcome.code, outcome.stderr) == (0, "")


def test_the_detector_looks_again_where_it_is_asked_to(recorded: Path, call_main: Call) -> None:
    outcome = call_main("rerun", str(recorded / "recording"), "--detect", "--json", *FEW)
    told = json.loads(outcome.stdout)
    assert (outcome.code, told["identical"], told["frames"]) == (0, True, 6)
    assert told["changed"] == []


def test_a_rerun_tells_where_another_prompt_makes_a_difference(
    recorded: Path, call_main: Call
) -> None:
    outcome = call_main("rerun", str(recorded), "--json", *FEW, "--set", PROMPTS % OTHER)
    told = json.loads(outcome.stdout)
    assert outcome.code == 1
    assert (told["identical"], told["frames"]) == (False, 6)
    assert told["changed"] == [f"set: {PROMPTS % OTHER}"]
    prompted = told["objects"][0]
    assert (prompted["object_id"], prompted["first_frame_id"]) == (0, 0)
    assert prompted["lowest_iou"] < 0.5
    assert prompted["worst_logit"] > 1


def test_a_rerun_tells_that_the_weights_are_others(
    recorded: Path, tmp_path: Path, call_main: Call
) -> None:
    shipped = Path(sam2_checkpoint.__file__).parent / "weights"
    weights = load_file(shipped / "sam2_demo.safetensors")
    name = next(name for name in weights if "output_hypernetworks" in name)
    save_file(weights | {name: weights[name] * 1.01}, tmp_path / "other.safetensors")
    model = [
        *("--set", f"segmenter.model={shipped / 'sam2_demo.yaml'}"),
        *("--set", f"segmenter.checkpoint={tmp_path / 'other.safetensors'}"),
    ]
    outcome = call_main("rerun", str(recorded), "--frames", "3", *model)
    assert outcome.code == 1
    assert "the weights of the segmenter differ: " in outcome.stdout
    assert "3 of 3 frames differ" in outcome.stdout
    assert " of epoch 0: from frame 0 on, " in outcome.stdout


def test_recorded_frames_can_be_the_source_of_another_run(recorded: Path, tmp_path: Path) -> None:
    where = str(recorded)
    code, summary = run(
        tmp_path / "run",
        f"source={{kind: recorded, path: {where}, realtime: false}}",
        f"detector={{kind: recorded, path: {where}}}",
    )
    assert code == 0
    assert summary["frames"] == {"grabbed": FRAMES, "published": FRAMES, "dropped": {}}


LIGHT = [
    *("detector={kind: none}", "segmenter={kind: sam2_image, prompts: [{box: [20, 20, 60, 50]}]}"),
    "audited_frames=0",
]


LIGHT_FRAMES = 5


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recording of a run whose frames do not depend on each other."""
    out = tmp_path_factory.mktemp("light") / "run"
    kept = "recorder={record: [frames, detections, logits, packets], dtype: float32}"
    assert run(out, *LIGHT, kept, frames=LIGHT_FRAMES)[0] == 0
    return out / "recording"


def damaged(path: Path, folder: Path, kind: Kind, frame_id: int, at: int = 100) -> Path:
    """A copy with one bit flipped, ``at`` bytes into the last record of ``kind`` of a frame, or
    into the very first of ``kind``."""
    broken = folder / "broken"
    shutil.copytree(path, broken)
    with LogRecording(broken) as found:
        record = next(found.records(kind)) if frame_id < 0 else found.at(kind, frame_id, 0)
    name, _, start = record.where.partition(" byte ")
    data = bytearray((broken / name).read_bytes())
    data[int(start) + at] ^= 1
    (broken / name).write_bytes(data)
    return broken


def test_quantised_logits_are_compared_as_they_were_kept(tmp_path: Path, call_main: Call) -> None:
    kept = "recorder={record: [frames, detections, logits], dtype: int8, zstd: true}"
    assert run(tmp_path / "run", *LIGHT, kept, frames=3)[0] == 0
    outcome = call_main("rerun", str(tmp_path / "run"))
    assert outcome.stdout == "identical, bit for bit as int8: 3 frames, 3 masks\n"
    moved = "segmenter.prompts=[{box: [20, 20, 62, 52]}]"
    assert call_main("rerun", str(tmp_path / "run"), "--set", moved).code == 1


def test_a_detector_that_others_tell_does_not_look_again(tmp_path: Path, call_main: Call) -> None:
    kept = "recorder={record: [frames, detections, logits]}"
    assert run(tmp_path / "run", *LIGHT, "detector={kind: boxes}", kept, frames=2)[0] == 0
    assert call_main("rerun", str(tmp_path / "run")).code == 0
    outcome = call_main("rerun", str(tmp_path / "run"), "--detect")
    assert outcome.code == 78
    assert "--detect: a detector of kind boxes is told what there is" in outcome.stderr


def test_a_run_writes_numpy_files_for_other_tools(tmp_path: Path) -> None:
    where = f"root: {tmp_path}, session: s1"
    recorder = f"recorder={{layout: npy, record: [logits], {where}}}"
    code, summary = run(tmp_path / "run", *LIGHT, recorder, frames=3)
    assert code == 0
    folder = tmp_path / "predictions" / "s1"
    assert summary["recorder"]["path"] == str(folder)
    assert summary["recorder"]["written"] == 3
    values = np.load(folder / "frame_00002.npy")
    assert (values.dtype, values.shape) == (np.float32, (1, 1, 120, 160))
    assert np.load(folder / "frame_00002_obj_ids.npy").shape == (1,)
    assert 0 < (values > 0).sum() < values.size


def test_earlier_recordings_make_room_for_a_new_one(tmp_path: Path) -> None:
    with recording(tmp_path) as rig:
        rig.offer(2)
    assert rig.path.is_dir()
    recorder = f"recorder={{record: [logits], root: {tmp_path}, session: s2, retention_h: 1.0e-9}}"
    assert run(tmp_path / "run", *LIGHT, recorder, frames=1)[0] == 0
    assert not rig.path.exists()
    with LogRecording(tmp_path / "s2") as log:
        assert len(log.frames("logits")) == 1


class TestReplay:
    def test_a_subscriber_sees_the_run_again_and_that_it_is_a_replay(
        self, recorded: Path, tmp_path: Path
    ) -> None:
        endpoint = f"ipc://{private(tmp_path)}/results"
        with Subscriber(endpoint, reconnect_ms=(10, 50)) as subscriber:
            ended: list[int] = []
            options = ReplayOptions(endpoint, speed=0.0, wait_subscribers=1)
            got: list[ResultMessage] = []
            reader = threading.Thread(target=_receive, args=(subscriber, got))
            reader.start()
            ended.append(replay(recorded, options))
            reader.join(20)
        assert ended == [0]
        assert [message.seq for message in got] == list(range(FRAMES))
        assert all(message.replay and message.stale for message in got)
        assert (subscriber.lost, subscriber.restarts) == (0, 0)
        states = subscriber.states["phantom"]
        assert (states.state, states.last_seq) == ("ended", FRAMES - 1)
        assert states.class_names[:3] == ("lumen", "lesion", "needle")

    def test_who_wants_live_results_gets_none(self, recorded: Path, tmp_path: Path) -> None:
        endpoint = f"ipc://{private(tmp_path)}/results"
        told: list[str] = []

        def listen() -> None:
            with Subscriber(endpoint, stale_after_s=30, reconnect_ms=(10, 50)) as subscriber:
                try:
                    subscriber.receive(20)
                except StaleError as error:
                    told.append(str(error))

        listener = threading.Thread(target=listen)
        listener.start()
        replay(recorded, ReplayOptions(endpoint, speed=0.0, wait_subscribers=1))
        listener.join(20)
        assert len(told) == 1
        assert "and a replay" in told[0]

    def test_class_ids_mean_what_they_meant_then(self, tmp_path: Path) -> None:
        endpoint = f"ipc://{private(tmp_path)}/results"
        told = [(), ("lesion",), ("lesion", "needle")]
        with recording(tmp_path, record=("packets",)) as rig:
            for number, names in enumerate(told):
                state = encode_state("cam1", 0, "streaming", None, names)
                rig.recorder.published("state", state)
                result = encode_result(packet(number), number, names, "none")
                rig.recorder.published("result", result)
                rig.offer(1, number)
        got: list[Any] = []
        with Subscriber(endpoint, reconnect_ms=(10, 50)) as subscriber:
            reader = threading.Thread(target=_receive_all, args=(subscriber, got))
            reader.start()
            replay(rig.path, ReplayOptions(endpoint, speed=0.0, wait_subscribers=1))
            reader.join(20)
        seen, names_now = [], told[0]
        for message in got:
            if isinstance(message, ResultMessage):
                seen.append(names_now)
            else:
                names_now = message.class_names
        assert seen == told

    def test_states_that_fill_the_queue_cost_no_result(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each result is preceded by a state of other names, for a subscriber who sleeps."""
        monkeypatch.setattr("pipeline.replay._HWM", 1)
        endpoint, count = f"ipc://{private(tmp_path)}/results", 60
        big = tuple(f"{number:0>100}" for number in range(2000))
        with recording(tmp_path, record=("packets",)) as rig:
            for number in range(count):
                names = big[number % 2 :]
                state = encode_state("cam1", 0, "streaming", None, names)
                rig.recorder.published("state", state)
                result = encode_result(packet(number), number, names, "none")
                rig.recorder.published("result", result)
                rig.offer(1, number)
        got: list[Any] = []
        with Subscriber(endpoint, reconnect_ms=(10, 50), high_water_mark=1) as subscriber:
            reader = threading.Thread(target=_receive_all, args=(subscriber, got, 0.005))
            reader.start()
            replay(rig.path, ReplayOptions(endpoint, speed=0.0, wait_subscribers=1))
            reader.join(30)
        seqs = [message.seq for message in got if isinstance(message, ResultMessage)]
        assert seqs == list(range(count))

    def test_only_what_makes_it_a_replay_is_changed(self, recorded: Path) -> None:
        with LogRecording(recorded / "recording") as log:
            sent = [bytes(Packet.of(record).message) for record in log.records("packet")]
        results = [message for message in sent if message.startswith(b"result/")]
        assert len(results) == FRAMES
        assert len(sent) > FRAMES, "states were published too"
        for message in sent:
            item = replayed(message)
            assert (item is None) == (message not in results)
            if item is not None:
                (topic, before, payload), (again, after, data) = map(parts, (message, item.message))
                assert (topic, payload) == (again, data)
                assert after == before | {"stale": True, "replay": True}

    def test_its_own_time_is_kept_and_may_be_shortened(
        self, recorded: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sent = times_of(recorded, 1.0, monkeypatch)
        with LogRecording(recorded / "recording") as log:
            found = [replayed(Packet.of(record).message) for record in log.records("packet")]
        stamps = [item.published_ns for item in found if item is not None]
        own = [(stamp - stamps[0]) / 1e9 for stamp in stamps]
        assert sent == pytest.approx(own, abs=1e-6)
        assert times_of(recorded, 4.0, monkeypatch) == pytest.approx([t / 4 for t in own], abs=1e-6)

    @pytest.mark.parametrize("speed", [1.0, 4.0])
    def test_in_a_loop_the_last_packet_has_its_time_too(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speed: float
    ) -> None:
        path = recording_at(tmp_path, 0.0, 0.5, 1.0, 4.0)
        sent = times_of(path, speed, monkeypatch, stop_after=9)
        own = [0.0, 0.5, 1.0, 4.0, 4.5, 5.0, 5.5, 8.5, 9.0]
        assert sent == pytest.approx([at / speed for at in own], abs=1e-6)

    def test_in_a_loop_a_packet_alone_comes_once_a_second(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = recording_at(tmp_path, 7.0)
        assert times_of(path, 1.0, monkeypatch, stop_after=3) == pytest.approx([0, 1, 2], abs=1e-6)


def recording_at(folder: Path, *times_s: float) -> Path:
    """The recording of a packet at each of these moments."""
    with recording(folder, record=("packets",)) as rig:
        for number, at in enumerate(times_s):
            result = encode_result(packet(number), number, (), "none")
            topic, header, payload = parts(result)
            told = json.dumps(header | {"published_ns": int(at * 1e9)}).encode()
            size = len(told).to_bytes(4, "little")
            rig.recorder.published("result", topic + b"\0" + size + told + payload)
            rig.offer(1, number)
    return rig.path


def _receive(subscriber: Subscriber, got: list[ResultMessage]) -> None:
    while True:
        message = subscriber.next_message(20)
        if message is None or getattr(message, "state", None) == "ended":
            return
        if isinstance(message, ResultMessage):
            got.append(message)


def _receive_all(subscriber: Subscriber, got: list[Any], rest_s: float = 0.0) -> None:
    while (message := subscriber.next_message(20)) is not None:
        got.append(message)
        threading.Event().wait(rest_s)
        if getattr(message, "state", None) == "ended":
            return


def parts(message: bytes) -> tuple[bytes, dict[str, Any], bytes]:
    topic, _, rest = message.partition(b"\0")
    length = int.from_bytes(rest[:4], "little")
    return topic, json.loads(rest[4 : 4 + length]), rest[4 + length :]


def private(folder: Path) -> Path:
    made = folder / "own"
    made.mkdir(mode=0o700)
    return made


def times_of(
    recorded: Path,
    speed: float,
    monkeypatch: pytest.MonkeyPatch,
    code: int = 0,
    stop_after: int = 0,
) -> list[float]:
    """Seconds after the first at which each packet is sent, on a clock that only waiting moves;
    with ``stop_after`` in a loop, until a signal comes after so many."""
    now, sent = [100.0], []

    class Socket:
        endpoint, subscribers = "", 0

        def __init__(self, *given: object, **more: object) -> None: ...

        def wait(self, until: float) -> None:
            now[0] = max(now[0], until)

        def send(self, item: object, class_names: object) -> None:
            sent.append(now[0])
            if len(sent) == stop_after:
                signal.raise_signal(signal.SIGTERM)

        def close(self) -> None: ...

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.replay.ReplaySocket", Socket)
        patch.setattr("pipeline.replay.time", SimpleNamespace(monotonic=lambda: now[0]))
        assert replay(recorded, ReplayOptions("", speed, loop=stop_after > 0)) == code
    return [at - sent[0] for at in sent]


class TestBadInput:
    @pytest.mark.parametrize("command", ["replay", "rerun"])
    def test_no_recording(self, tmp_path: Path, command: str, call_main: Call) -> None:
        (tmp_path / "notes.txt").write_text("nothing")
        for path, expected in (
            (tmp_path, "no recording (expected segment-*.log, or frame_*.npy)"),
            (tmp_path / "none", "No such file or directory (expected the folder of a recording)"),
            (tmp_path / "notes.txt", "Not a directory (expected the folder of a recording)"),
            (tmp_path / ("x" * 300), "File name too long (expected the folder of a recording)"),
        ):
            outcome = call_main(command, str(path))
            assert outcome.stderr == f"maskstream: {path}: {expected}\n"
            assert outcome.code == 1

    def test_what_was_not_recorded_is_named(self, tmp_path: Path, call_main: Call) -> None:
        with recording(tmp_path) as rig:
            rig.offer(2)
        outcome = call_main("replay", str(rig.path))
        assert outcome.code == 1
        assert outcome.stderr == (
            f"maskstream: {rig.path}: no packets were recorded "
            "(expected a run with packets among its recorder.record)\n"
        )
        outcome = call_main("rerun", str(rig.path))
        assert outcome.code == 1
        assert "no frames were recorded (expected a run with frames among" in outcome.stderr

    def test_a_torn_recording_is_played_as_far_as_it_is_whole(
        self, recorded: Path, tmp_path: Path, call_main: Call
    ) -> None:
        torn = tmp_path / "torn"
        shutil.copytree(recorded / "recording", torn)
        segment = torn / "segment-000000.log"
        os.truncate(segment, segment.stat().st_size * 2 // 3)
        outcome = call_main("rerun", str(torn), "--json")
        told = json.loads(outcome.stdout)
        assert outcome.code == 0
        assert 5 <= told["frames"] < FRAMES
        assert len(times_of(torn, 1.0, pytest.MonkeyPatch())) < FRAMES

    @pytest.mark.parametrize(
        ("kind", "compared", "behind"),
        [("state", 2, 2), ("frame", 2, 2), ("detections", 2, 2), ("logits", 4, 0)],
    )
    def test_a_damaged_frame_is_named(
        self, light: Path, tmp_path: Path, call_main: Call, kind: Kind, compared: int, behind: int
    ) -> None:
        """What comes after it in its epoch has lost its past, unless only its result is damaged."""
        broken = damaged(light, tmp_path, kind, 2)
        outcome = call_main("rerun", str(broken), "--json")
        told = json.loads(outcome.stdout)
        assert (outcome.code, outcome.stderr, told["identical"]) == (1, "", False)
        assert (told["frames"], told["not_compared"]) == (compared, behind)
        (item,) = told["damaged"]
        assert (item["kind"], item["epoch"], item["frame_id"]) == (kind, 0, 2)
        lines = call_main("rerun", str(broken)).stdout.splitlines()
        assert lines[0].startswith(f"frame 2 of epoch 0: its {kind} record cannot be read: segment")
        assert lines[0].endswith("its check sum is wrong: the record is damaged")
        assert (behind == 0) == (len(lines) == 2)
        if behind:
            assert "2 frames not compared: frames before them are damaged, or were" in lines[1]
        assert lines[-1].startswith("what could be compared is identical, bit for bit: ")

    def test_a_damaged_beginning_is_not_one_that_was_deleted(
        self, light: Path, tmp_path: Path, call_main: Call
    ) -> None:
        outcome = call_main("rerun", str(damaged(light, tmp_path, "state", -1)))
        assert outcome.code == 1
        assert "its state record cannot be read: segment-000000.log byte " in outcome.stderr
        assert "retention" not in outcome.stderr

    def test_damage_of_no_known_frame_is_told(
        self, light: Path, tmp_path: Path, call_main: Call
    ) -> None:
        """The last frame's last record has lost its head, and the index is gone."""
        broken = damaged(light, tmp_path, "state", LIGHT_FRAMES - 1, at=20)
        segment = broken / "segment-000000.log"
        segment.write_bytes(segment.read_bytes()[:-1] + b"\xff")
        outcome = call_main("rerun", str(broken))
        assert outcome.code == 1
        flaws, found = outcome.stdout.splitlines()
        assert flaws == "the recording has 2 flaws: see maskstream record verify"
        assert found.startswith("what could be compared is identical, bit for bit: 4 frames")

    def test_a_damaged_packet_is_named_and_the_others_are_sent(
        self, light: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        broken = damaged(light, tmp_path, "packet", 3)
        sent = times_of(broken, 1.0, pytest.MonkeyPatch(), code=1)
        told = capsys.readouterr()
        assert told.out.splitlines()[-1] == f"{LIGHT_FRAMES - 1} packets"
        assert len(sent) == LIGHT_FRAMES - 1
        (line,) = told.err.splitlines()
        assert line.startswith("maskstream: frame 3 of epoch 0: its packet record cannot be read: ")

    def test_a_recording_whose_frames_are_all_damaged_has_frames(self, tmp_path: Path) -> None:
        with recording(tmp_path) as rig:
            rig.offer(1)
        broken = damaged(rig.path, tmp_path, "state", 0)
        with pytest.raises(RecordingError, match=r"no frame: frame 0 of epoch 0: its state record"):
            RecordedRun(broken)

    @pytest.mark.parametrize(
        ("overrides", "expected"),
        [
            (["as_numpy=true", "recorder={record: [logits]}"], "expected masks: as_numpy has no"),
            (["results=null", "recorder={}"], "recorder.record: got packets, expected none"),
            (["recorder={policy: maybe}"], "recorder.policy"),
        ],
    )
    def test_a_configuration_that_does_not_fit(self, overrides: list[str], expected: str) -> None:
        with pytest.raises(ConfigError, match=expected):
            load_config("demo", overrides)

    def test_the_prompts_of_a_rerun_are_as_many(self, recorded: Path, call_main: Call) -> None:
        outcome = call_main("rerun", str(recorded), "--set", "segmenter.prompts=[]")
        assert outcome.code == 78
        assert "segmenter.prompts: got 0, expected 1 as in the recorded run" in outcome.stderr

    def test_a_folder_that_cannot_be_recorded_to_is_told_before_the_first_frame(
        self, recorded: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "link").symlink_to(recorded)
        cases = {
            "/proc/none": "cannot record there",
            f"{recorded}, session: recording": "exists, and a recording is never overwritten",
            f"{tmp_path}, session: link": "exists, and a recording is never overwritten",
        }
        for number, (root, expected) in enumerate(cases.items()):
            out = tmp_path / f"run{number}"
            with pytest.raises(RecordingError, match=expected):
                run(out, *LIGHT, f"recorder={{root: {root}}}", frames=1)
            assert not out.exists()


def test_a_folder_that_vanishes_pauses_the_recorder_and_nothing_else(tmp_path: Path) -> None:
    with recording(tmp_path) as rig:
        rig.offer(3)
        eventually(lambda: rig.recorder.report().written == 3)
        shutil.rmtree(rig.path)
        number = iter(range(3, 100_000))

        def paused() -> bool:
            rig.offer(1, next(number))
            return rig.recorder.report().state == "paused"

        eventually(paused)
        rig.recorder.close()
        rig.recorder.finish()
        report = rig.recorder.report()
    assert report.offered == report.written + sum(report.dropped.values())
    assert "deleted" in str(report.reason) or "No such file" in str(report.reason)


def test_frames_behind_a_hole_are_not_compared() -> None:
    def known(*frames: tuple[int, int, int]) -> list[bool]:
        abouts = [About(Stamp(epoch, 0), number, skipped) for epoch, number, skipped in frames]
        return list(known_frames(cast(RecordedRun, SimpleNamespace(frames=abouts))))

    assert known((0, 0, 0), (0, 1, 0), (0, 2, 0)) == [True, True, True]
    assert known((0, 0, 0), (0, 2, 0), (0, 3, 0)) == [True, False, False]
    assert known((0, 0, 0), (0, 1, 1), (0, 2, 0)) == [True, False, False]
    assert known((0, 0, 0), (0, 2, 0), (1, 3, 0)) == [True, False, True]
    assert known((0, 0, 0), (1, 2, 0), (1, 3, 0)) == [True, False, False]
    assert known((0, 7, 0), (0, 8, 0)) == [False, False]


def test_metrics_of_the_recorder() -> None:
    sink = PrometheusSink("cam", ("detect",), {})
    sink.write(0.0, RecorderFrames(10, 7, {"ring": 2, "paused": 1}, 4096))
    text = sink.render().decode()
    assert 'maskstream_recorder_frames_total{outcome="written"} 7.0' in text
    assert 'maskstream_recorder_frames_total{outcome="dropped"} 3.0' in text
    assert 'maskstream_recorder_frames_dropped_total{reason="ring"} 2.0' in text
    assert "maskstream_recorder_bytes_total 4096.0" in text


@pytest.mark.timeout(300)
def test_what_a_killed_run_recorded_is_whole(
    tmp_path: Path, start_cli: StartCli, call_main: Call
) -> None:
    process = start_cli(
        *("run", "demo", "--out", "run", *(f"--set={value}" for value in LOCAL)),
        f"--set=recorder={{{ALL}}}",
        cwd=tmp_path,
    )
    folder = tmp_path / "run" / "recording"

    def has_frames() -> bool:
        assert process.poll() is None, process.communicate()
        try:
            return sum(path.stat().st_size for path in folder.iterdir()) > 2 << 20
        except OSError:
            return False

    eventually(has_frames, 200)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert call_main("record", "verify", str(folder)).code == 0
    outcome = call_main("rerun", str(tmp_path / "run"), "--json", "--frames", "6")
    told = json.loads(outcome.stdout)
    assert (outcome.code, told["identical"], told["frames"]) == (0, True, 6)
    assert len(times_of(tmp_path / "run", 1.0, pytest.MonkeyPatch())) >= 6


def test_a_recorder_that_must_not_lose_anything_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MaskstreamError, match="ring_bytes"):
        load_config("demo", ["recorder={policy: stop, ring_bytes: 1}"])
    quota = f"recorder={{policy: stop, quota_bytes: 1048576, min_free_bytes: 0, {ALL}}}"
    code, summary = run(tmp_path / "run", quota, "segmenter.fill_hole_area=4", frames=200)
    assert code == 1
    assert manifests.load(tmp_path / "run" / "recording").cleaning == ("fill_hole_area",)
    assert "recorder.policy is stop" in summary["error"]
    assert "quota" in summary["error"]
    told = summary["recorder"]
    assert told["offered"] == told["written"] + sum(told["dropped"].values())
