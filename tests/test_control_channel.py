"""The control channel over real sockets: done once, answered, remembered, logged, never held up."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
import zmq
from conftest import ROOT
from control_rig import SIZE_HW, Rig, rig
from result_packets import wait_until
from test_curve import DEAF_S, Keys
from test_peers import raw_peer

from kpi.edge_events import ControlCommands
from kpi.events import ErrorRaised
from pipeline.control import ledger, memory, schema
from pipeline.control.answers import DETAILS
from pipeline.control.commands import MAX_COMMAND_BYTES
from pipeline.control.limits import Limits
from pipeline.control.reading import CommandError, read_command
from stages.connecting import WATCHFUL
from stages.control_client import Answer, Controller, run_lengths
from stages.errors import ConfigError, ControlError
from stages.prompting import Refusal
from stages.records import Frame

DISC = np.asarray([[(y - 20) ** 2 + (x - 30) ** 2 < 100 for x in range(64)] for y in range(48)])


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path) as made:
        yield made


@pytest.fixture
def run(live: Rig) -> Iterator[Controller]:
    with live.controller() as controller:
        yield controller


def raw_socket(context: zmq.Context[zmq.Socket[bytes]], to: Rig, kind: int) -> zmq.Socket[bytes]:
    socket = context.socket(kind)
    socket.linger = 0
    socket.setsockopt(zmq.RCVTIMEO, 10_000)
    socket.connect(to.channel.endpoint)
    return socket


def lines(to: Rig) -> list[dict[str, Any]]:
    return [json.loads(line) for line in to.log.read_text().splitlines()]


# What each command does


def test_every_shape_reaches_the_segmenter_as_it_was_meant(live: Rig, run: Controller) -> None:
    added = run.send("add", box=(1, 2, 30, 40), class_id=1)
    assert (added.applied, added.object_id, added.epoch) == (True, 0, 0)
    assert added.frame_id is not None
    assert 0 < added.frame_id <= live.frame_id
    assert run.send("correct", object_id=0, points=((3, 4), (5, 6)), labels=(1, 0)).applied
    assert run.send("reinit", object_id=0, mask=DISC).applied
    assert run.send("remove", object_id=0).applied
    assert run.send("reset").applied
    first, second, third, *_ = live.follower.applied
    assert (first.action, first.box, first.class_id, first.epoch) == ("add", (1, 2, 30, 40), 1, 0)
    assert (second.object_id, second.points, second.labels) == (0, ((3, 4), (5, 6)), (1, 0))
    assert third.mask is not None
    assert np.array_equal(third.mask, DISC)


def test_a_prompt_waits_for_its_frame(live: Rig, run: Controller) -> None:
    wanted = live.frame_id + 10
    added = run.send("add", box=(1, 2, 30, 40), frame_id=wanted)
    assert added.frame_id == wanted
    assert run.send("add", box=(1, 2, 30, 40), frame_id=wanted).reason == "past_frame"
    assert run.send("add", box=(1, 2, 30, 40), frame_id=10**9).reason == "far_frame"


BAD: list[tuple[dict[str, Any], str]] = [
    ({"verb": "add"}, "bad_request"),
    ({"verb": "add", "box": (5, 5, 5, 9)}, "bad_box"),
    ({"verb": "add", "box": (500, 5, 600, 9)}, "outside"),
    ({"verb": "add", "points": ((5, 5),)}, "bad_points"),
    ({"verb": "add", "mask": np.ones((5, 5), bool)}, "bad_mask"),
    ({"verb": "add", "mask": np.zeros(SIZE_HW, bool)}, "bad_mask"),
    ({"verb": "add", "text": "the needle"}, "no_text"),
    ({"verb": "add", "box": (1, 2, 3, 4), "class_id": 9}, "no_class"),
    ({"verb": "add", "box": (1, 2, 3, 4), "epoch": 7}, "past_epoch"),
    ({"verb": "add", "box": (1, 2, 3, 4), "mask": DISC}, "bad_request"),
    ({"verb": "boxes", "boxes": [(5, 5, 5, 9, 0.5, 0)]}, "bad_box"),
    ({"verb": "boxes", "boxes": [(500, 5, 600, 9, 0.5, 0)]}, "outside"),
    ({"verb": "boxes", "boxes": [(5, 5, 9, 9, 0.5, 2)]}, "no_class"),
    ({"verb": "boxes", "boxes": [(5, 5, 9, 9, 1.5, 0)]}, "bad_command"),
    ({"verb": "boxes", "boxes": [(5, 5, 9, 9, 0.5, -1)]}, "bad_command"),
    ({"verb": "boxes", "boxes": [(5, 5, 9, 9, 0.5, 0)] * 301}, "bad_command"),
    ({"verb": "boxes", "boxes": [], "epoch": 7}, "past_epoch"),
    ({"verb": "boxes", "boxes": [], "frame_id": 0}, "past_frame"),
    ({"verb": "boxes"}, "bad_command"),
    ({"verb": "rename", "object_id": 77, "name": "x"}, "unknown_object"),
    ({"verb": "rename", "object_id": 0, "name": "x", "epoch": 7}, "past_epoch"),
    ({"verb": "rename", "object_id": 0, "name": "x\n"}, "bad_command"),
    ({"verb": "rename", "object_id": 0, "name": "x" * 65}, "bad_command"),
    ({"verb": "remove"}, "bad_command"),
    ({"verb": "fly"}, "bad_command"),
    ({"verb": "add", "box": (1, 2, 1e300, 4)}, "bad_command"),
    ({"verb": "ping", "command_id": "no spaces"}, "bad_command"),
]


@pytest.mark.parametrize(("command", "reason"), BAD)
def test_what_cannot_be_done_is_refused_with_its_reason(
    live: Rig, run: Controller, command: dict[str, Any], reason: str
) -> None:
    answer = run.send(**command)
    assert (answer.applied, answer.reason) == (False, reason)
    assert answer.detail
    assert live.follower.applied == []
    assert run.send("ping").applied


def test_every_reason_is_told_in_words() -> None:
    assert set(Refusal.__args__) <= set(DETAILS)


def test_a_picture_that_began_anew_is_not_clicked_on(live: Rig, run: Controller) -> None:
    """Without an epoch, the newest one that could be seen is meant."""
    live.epoch = 1
    wait_until(lambda: run.send("status").epoch == 1, lambda: None)
    assert run.send("add", box=(1, 2, 30, 40), epoch=0).reason == "past_epoch"
    assert run.send("add", box=(1, 2, 30, 40)).applied
    assert live.follower.applied[-1].epoch == 1


def test_a_name_stands_in_the_packets_until_the_object_goes(tmp_path: Path) -> None:
    with (
        rig(tmp_path, flowing=False) as still,
        still.controller() as run,
        ThreadPoolExecutor() as pool,
    ):
        asked = pool.submit(run.send, "rename", object_id=1, name="left vein")
        wait_until(lambda: bool(still.names._asked), lambda: time.sleep(0.01))
        packet = still.step()
        assert asked.result().frame_id == packet.info.frame_id
        assert packet.label(1, ("a", "b")) == "left vein"
        assert packet.label(0, ("a", "b")) == "a"
        assert still.step().label(1, ("a", "b")) == "left vein"
        still.epoch = 1
        assert still.step().label(1, ("a", "b")) == "b"


def test_who_heard_of_a_packet_renames_in_the_next_one(tmp_path: Path) -> None:
    """Asked in the moment of the answer, which another thread may well do."""
    with rig(tmp_path, flowing=False) as still:
        ask = partial(still.names.ask, 0, 1)
        ask("left vein").add_done_callback(lambda _: ask("right vein"))
        assert still.step().label(1, ("a", "b")) == "left vein", "as was answered"
        assert still.step().label(1, ("a", "b")) == "right vein"


def test_the_detector_rests_and_looks_again(live: Rig, run: Controller) -> None:
    paused = run.send("pause")
    assert paused.applied
    assert paused.frame_id is not None
    assert run.send("status").data["detector_on"] is False
    resumed = run.send("resume")
    assert run.send("status").data["detector_on"] is True
    assert resumed.frame_id is not None
    assert resumed.frame_id > paused.frame_id


def test_status_tells_the_objects(live: Rig, run: Controller) -> None:
    data = run.send("status").data
    assert data["published"] > 0
    assert data["class_names"] == ["vessel", "needle"]
    assert [one["label"] for one in data["newest"]["objects"]] == ["vessel", "needle"]


def test_what_a_run_has_not_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with rig(tmp_path) as live, live.controller() as run:
        without = replace(live.channel._desk, segmenter=None, detector=None, boxes=None)
        monkeypatch.setattr(live.channel, "_desk", without)
        assert run.send("add", box=(1, 2, 3, 4)).reason == "no_prompts"
        assert run.send("pause").reason == "no_detector"
        assert run.send("boxes", boxes=[]).reason == "no_boxes"
        assert run.send("status").data["takes_prompts"] is False


def test_an_error_of_ours_is_told_and_the_channel_goes_on(
    live: Rig, run: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(prompt: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(live.follower, "prompt", broken)
    assert run.send("add", box=(1, 2, 3, 4)).reason == "failed"
    assert any(isinstance(event, ErrorRaised) for event in live.events)
    assert run.send("ping").applied


FOR_THE_NEXT_FRAME: tuple[dict[str, Any], ...] = (
    {"verb": "add", "box": (1, 2, 30, 40)},
    {"verb": "rename", "object_id": 1, "name": "left vein"},
    {"verb": "pause"},
    {"verb": "add_phrase", "phrase": "needle"},
    {"verb": "boxes", "boxes": [(1, 2, 30, 40, 0.5, 1)]},
    {"verb": "snapshot"},
)


def test_while_no_frame_comes_what_waits_for_one_is_taken_back(tmp_path: Path) -> None:
    with rig(tmp_path, flowing=False, patience_s=0.1) as still, still.controller() as run:
        for command in FOR_THE_NEXT_FRAME:
            answer = run.send(**command)
            assert (answer.reason, answer.epoch) == ("expired", 0), command
        assert run.send("snapshot").reason == "expired", "the one before it is not in the way"
        assert len(lines(still)) == len(FOR_THE_NEXT_FRAME) + 1
        packet = still.step()
        still.snapshots.offer(
            Frame(torch.zeros(3, *SIZE_HW, dtype=torch.uint8), "cam1", 0, still.frame_id, 0, 0)
        )
        assert still.follower.applied == []
        assert packet.label(1, ("a", "b")) == "b"
        assert still.detector.switch.on
        assert still.phrases.now == ("probe",)
        assert still.finder.used == []
        assert not still.snapshots.wants_masks


def test_who_waits_for_a_frame_far_ahead_hears_that_the_run_is_there(tmp_path: Path) -> None:
    with rig(tmp_path, flowing=False) as still, still.controller(timeout_s=0.3) as run:
        with pytest.raises(ControlError, match=r"for 0.3 s, but the run answers pings"):
            run.send("add", box=(1, 2, 30, 40), frame_id=9)
        assert run.send("ping").applied


# Once, and on record


def test_what_comes_again_is_not_done_again(live: Rig, run: Controller) -> None:
    first = run.send("add", box=(1, 2, 30, 40), command_id="click-1")
    assert run.send("add", box=(1, 2, 30, 40), command_id="click-1") == first
    with live.controller() as other:  # after a loss of connection, say
        assert other.send("add", box=(1, 2, 30, 40), command_id="click-1") == first
        reused = other.send("add", box=(1, 2, 30, 41), command_id="click-1")
    assert reused.reason == "id_reused"
    assert len(live.follower.applied) == 1
    assert live.channel.counts["repeated"] == 2


def test_a_repetition_while_it_waits_is_answered_with_it(tmp_path: Path) -> None:
    with rig(tmp_path, flowing=False) as still, zmq.Context() as context:
        sockets = [raw_socket(context, still, zmq.DEALER) for _ in range(2)]
        said = b'{"id": "a", "verb": "add", "box": [1, 2, 30, 40]}'
        for number, socket in enumerate(sockets):
            socket.send(said)
            wait_until(lambda n=number: still.heard + 1 > n, lambda: time.sleep(0.01))  # type: ignore[misc]
        wait_until(lambda: still.channel.counts["repeated"] == 1, lambda: time.sleep(0.01))
        still.step()
        answers = [json.loads(socket.recv()) for socket in sockets]
        assert answers[0] == answers[1]
        assert answers[0]["outcome"] == "applied"
        assert len(still.follower.applied) == 1
        for socket in sockets:
            socket.close()


def test_memory_is_bounded(live: Rig, run: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "REMEMBERED", 5)
    for number in range(12):
        run.send("add", box=(5, 5, 5, 9), command_id=f"c{number}")
    assert len(live.channel._memory._asked) == 5
    assert live.channel._asked == {}


def test_too_many_that_wait_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "WAITING", 6)
    with rig(tmp_path, flowing=False) as still, zmq.Context() as context:
        socket = raw_socket(context, still, zmq.DEALER)
        for number in range(4):
            socket.send(f'{{"id": "{number}", "verb": "reset"}}'.encode())
        refused = json.loads(socket.recv())
        assert (refused["id"], refused["reason"]) == ("3", "too_many")
        still.step()
        assert [json.loads(socket.recv())["outcome"] for _ in range(3)] == ["applied"] * 3
        socket.close()


def test_who_has_many_that_wait_leaves_places_for_others(tmp_path: Path) -> None:
    """By the prompts of one for frames far ahead, another's is not kept from the next one."""
    with rig(tmp_path) as live, zmq.Context() as context, live.controller() as run:
        greedy, at = raw_socket(context, live, zmq.DEALER), live.frame_id + 900
        for number in range(70):
            said = {"id": f"g{number}", "verb": "reset", "frame_id": at}
            greedy.send(json.dumps(said).encode())
        refused = [json.loads(greedy.recv()) for _ in range(6)]
        assert [each["reason"] for each in refused] == ["too_many"] * 6
        assert live.channel._memory.waiting == 64
        assert run.send("reset").applied
        assert run.send("pause").applied
        greedy.close()


def test_every_command_is_on_record(live: Rig, run: Controller) -> None:
    run.send("add", mask=DISC, command_id="m")
    run.send("add", box=(5, 5, 5, 9), command_id="b")
    run.send("status", command_id="s")
    run.send("ping")
    told = lines(live)
    assert [line["command"]["id"] for line in told] == ["m", "b", "s"]
    assert told[0]["command"]["mask"] == {"size_hw": [48, 64]}, "not the whole of it"
    assert told[0]["answer"]["frame_id"] > 0
    assert told[1]["answer"]["reason"] == "bad_box"
    assert "data" not in told[2]["answer"]
    assert stat.S_IMODE(live.log.stat().st_mode) == 0o600


def test_what_was_not_heard_is_on_record_but_a_flood_of_it_drives_nothing_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "_NOTES", 8)
    monkeypatch.setattr(ledger, "_NOTES_A_SECOND", 0.0)
    with (
        rig(tmp_path, rate_per_s=0.001, burst=4) as live,
        live.controller() as run,
        zmq.Context() as context,
        raw_socket(context, live, zmq.DEALER) as other,
    ):
        for parts in ([b"a", b"b"], [b"junk"]):
            other.send_multipart(parts)
            other.recv()
        run.send("fly", command_id="f")  # type: ignore[arg-type]
        run.send("reset", command_id="r")
        run.send("reset", command_id="r")
        run.send("remove", command_id="o", object_id=0)
        run.send("reset", command_id="late")
        told = [(line["command"].get("id"), line["answer"]) for line in lines(live)]
        heard = [line["event"] == "command" for line in lines(live)]
        assert heard == [answer["outcome"] == "applied" for _, answer in told]
        assert [(name, answer.get("reason", answer["outcome"])) for name, answer in told] == [
            (None, "bad_parts"), (None, "not_json"), ("f", "bad_command"), ("r", "applied"),
            ("r", "repeated"), ("o", "applied"), ("late", "too_fast"),
        ]  # fmt: skip
        for number in range(50):
            other.send(b'{"id": "%d", "verb": "fly"}' % number)
        wait_until(lambda: live.heard == 57, lambda: time.sleep(0.02))
        assert len(lines(live)) == 2 + 8, "what was done, and so many others"


def test_a_log_that_cannot_be_written_costs_no_answer(
    live: Rig, run: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    audit = live.channel._ledger.audit
    assert audit is not None
    monkeypatch.setattr(audit._sink, "_append", full)
    for _ in range(3):
        assert run.send("add", box=(1, 2, 30, 40)).applied
    told = [event for event in live.events if isinstance(event, ErrorRaised)]
    assert len(told) == 1
    assert "control.jsonl" in told[0].message


def test_what_came_in_is_told_as_events(live: Rig, run: Controller) -> None:
    run.send("ping")
    run.send("add", box=(5, 5, 5, 9))
    wait_until(
        lambda: (
            sum(e.counts.get("refused", 0) for e in live.events if isinstance(e, ControlCommands))
            == 1
        ),
        lambda: time.sleep(0.02),
    )


def test_those_who_wait_at_the_end_are_told(tmp_path: Path) -> None:
    with (
        rig(tmp_path, flowing=False) as still,
        still.controller() as run,
        ThreadPoolExecutor() as pool,
    ):
        asked = pool.submit(run.send, "reset")
        wait_until(lambda: still.channel._memory.waiting == 1, lambda: time.sleep(0.01))
        still.channel.close()
        assert asked.result().reason == "stopped"
    assert lines(still)[-1]["answer"]["reason"] == "stopped"


def test_what_came_before_is_answered_as_before_also_to_who_is_too_fast(tmp_path: Path) -> None:
    """For it may be why it came again; beyond what it is told at all, that ends, too."""
    with rig(tmp_path, rate_per_s=0.001, burst=1) as live, live.controller() as run:
        first = run.send("reset", command_id="r0")
        assert first.applied
        assert run.send("reset", command_id="r1").reason == "too_fast"
        assert run.send("reset", command_id="r0") == first
        assert len(live.follower.applied) == 1
        with live.controller(timeout_s=0.1) as other:
            assert [other.send("reset", command_id="r0") for _ in range(21)] == [first] * 21
            with pytest.raises(ControlError, match="no answer"):
                other.send("reset", command_id="r0")


# Two, many, and hostile


def test_two_controllers_are_both_heard(live: Rig) -> None:
    def ten(name: str) -> list[Answer]:
        with live.controller() as run:
            return [run.send("add", box=(1, 2, 30, 40), command_id=f"{name}{n}") for n in range(10)]

    with ThreadPoolExecutor() as pool:
        both = [*pool.map(ten, ("a", "b"))]
    ids = [answer.object_id for answers in both for answer in answers]
    assert sorted(ids) == list(range(20))
    assert len({line["peer"] for line in lines(live)}) == 2


def test_a_req_socket_will_do(live: Rig) -> None:
    with zmq.Context() as context, raw_socket(context, live, zmq.REQ) as socket:
        socket.send(b'{"id": "1", "verb": "ping"}')
        assert json.loads(socket.recv())["outcome"] == "applied"


def test_a_thousand_a_second_of_one_do_not_cost_another_its_turn(tmp_path: Path) -> None:
    with rig(tmp_path, rate_per_s=20, burst=20) as live, zmq.Context() as context:
        flood = raw_socket(context, live, zmq.DEALER)
        with live.controller() as run:
            for number in range(1000):
                flood.send(f'{{"id": "f{number}", "verb": "reset"}}'.encode(), zmq.DONTWAIT)
                if number % 250 == 0:
                    assert run.send("ping").applied
        wait_until(lambda: live.heard >= 1000, lambda: time.sleep(0.02))
        told = []
        while flood.poll(200):
            told.append(json.loads(flood.recv()))
        flood.close()
        refused = [one for one in told if one.get("reason") == "too_fast"]
        assert refused
        assert refused[0]["detail"] == "too many commands a second"
        assert refused[0]["id"].startswith("f")
        assert live.channel.counts["too_fast"] >= 900
        assert len(live.follower.applied) < 100


def test_limits_forget_the_silent() -> None:
    limits = Limits(rate_per_s=10, burst=2)
    assert [limits.judge(b"a", 0.0) for _ in range(3)] == ["heard", "heard", "told"]
    assert limits.judge(b"a", 0.1) == "heard"
    assert {limits.judge(b"a", 0.1) for _ in range(100)} == {"told", "ignored"}
    assert limits.judge(b"b", 0.1) == "heard"
    for number in range(5000):
        limits.judge(str(number).encode(), 0.2)
    assert len(limits._peers) == 1024


def test_who_never_reads_is_no_burden(tmp_path: Path) -> None:
    with rig(tmp_path, rate_per_s=10_000, burst=100_000) as live, zmq.Context() as context:
        deaf = raw_socket(context, live, zmq.DEALER)
        deaf.setsockopt(zmq.RCVHWM, 1)
        for number in range(300):
            deaf.send(f'{{"id": "d{number}", "verb": "status"}}'.encode())
        with live.controller() as run:
            assert run.send("ping").applied
        wait_until(lambda: live.heard >= 301, lambda: time.sleep(0.02))
        deaf.close()


def test_ten_megabytes_are_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Whoever answers no ping is cut off, too, but for that.
    monkeypatch.setitem(WATCHFUL, zmq.HEARTBEAT_IVL, 0)
    with rig(tmp_path, endpoint="tcp://127.0.0.1:0") as live, live.controller() as run:
        with raw_peer(live.channel.endpoint, b"DEALER") as peer:
            peer.sendall(b"\x02" + MAX_COMMAND_BYTES.to_bytes(8, "big") + bytes(MAX_COMMAND_BYTES))
            assert b"not_json" in peer.recv(4096), "so much may be said"
            peer.sendall(b"\x02" + (10_000_000).to_bytes(8, "big"))
            assert peer.recv(4096) == b"", "the connection is over before they have come"
        assert run.send("ping").applied
        with pytest.raises(ControlError, match="expected at most 65536"):
            run.exchange("x", b"x" * (MAX_COMMAND_BYTES + 1))


def test_a_hundred_that_come_and_go_are_no_burden(live: Rig, run: Controller) -> None:
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(100):
        with zmq.Context() as context, raw_socket(context, live, zmq.DEALER) as socket:
            socket.send(b'{"id": "1", "verb": "ping"}')
    assert run.send("ping").applied
    wait_until(
        lambda: len(list(Path("/proc/self/fd").iterdir())) <= descriptors + 2,
        lambda: time.sleep(0.05),
    )


@pytest.mark.parametrize("parts", [[b""], [b"", b"", b"{}"], [b"a", b"b"], [b"{}"] * 50])
def test_what_has_not_one_part_is_refused(live: Rig, run: Controller, parts: list[bytes]) -> None:
    with zmq.Context() as context, raw_socket(context, live, zmq.DEALER) as socket:
        socket.send_multipart(parts)
        answer = json.loads(socket.recv())
    assert answer["outcome"] == "refused"
    assert answer["reason"] in ("bad_parts", "not_json")
    assert run.send("ping").applied


# Keys


def test_without_keys_nobody_chooses_the_name_on_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which a connection may send in its handshake (ZMTP: properties of READY)."""
    monkeypatch.setitem(WATCHFUL, zmq.HEARTBEAT_IVL, 0)
    said = b'{"id": "spoof", "verb": "reset"}'
    with rig(tmp_path, endpoint="tcp://127.0.0.1:0") as live:
        name = b"\x07User-Id" + len(b"the-surgeon").to_bytes(4, "big") + b"the-surgeon"
        with raw_peer(live.channel.endpoint, b"DEALER", more=name) as peer:
            peer.sendall(bytes([0, len(said)]) + said)
            assert b"applied" in peer.recv(4096)
        assert [line["user"] for line in lines(live)] == [""]


def test_only_an_allowed_key_is_heard_and_its_name_is_on_record(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys")
    with rig(tmp_path, endpoint="tcp://127.0.0.1:0", curve=keys.curve) as live:
        with live.controller(keys=keys.friend) as run:
            assert run.send("add", box=(1, 2, 30, 40)).applied
        for own in (keys.stranger, keys.mistaken, None):
            told = pytest.raises(ControlError, match=r"no answer .* and keys that it allows")
            with live.controller(keys=own, timeout_s=DEAF_S) as run, told:
                run.send("add", box=(1, 2, 30, 40))
        assert len(live.follower.applied) == 1
        wait_until(lambda: live.channel.counts["uninvited"] >= 1, lambda: time.sleep(0.02))
    assert [line["user"] for line in lines(live)] == ["friend"]


# The schema


def test_the_schema_that_is_shipped_is_the_one_in_force() -> None:
    shipped = json.loads(schema.DEFAULT_PATH.read_text())
    assert shipped == schema.control_schema(), "write it: python -m pipeline.control.schema"


def test_the_schema_and_the_channel_agree() -> None:
    validator = jsonschema.Draft202012Validator(schema.control_schema())
    good = {"id": "1", "verb": "add", "box": [1, 2, 3, 4], "frame_id": 7}
    assert validator.is_valid(good)
    assert read_command(json.dumps(good).encode()).verb == "add"
    changes: tuple[dict[str, Any], ...] = (
        *({"verb": "fly"}, {"extra": 1}, {"id": ""}, {"id": "x" * 65}, {"version": 2}),
        *({"box": [1, 2, 3]}, {"box": "1"}, {"frame_id": -1}, {"frame_id": 1.5}, {"labels": [2]}),
    )
    for change in changes:
        assert not validator.is_valid(good | change), change
        with pytest.raises(CommandError):
            read_command(json.dumps(good | change).encode())


def test_an_answer_fits_the_schema(live: Rig) -> None:
    whole = schema.control_schema()
    validator = jsonschema.Draft202012Validator(
        {**whole["$defs"]["Answer"], "$defs": whole["$defs"]}
    )
    with zmq.Context() as context, raw_socket(context, live, zmq.REQ) as socket:
        for said in (b'{"id": "1", "verb": "status"}', b'{"id": "2", "verb": "fly"}', b"junk"):
            socket.send(said)
            validator.validate(json.loads(socket.recv()))


# The client


@pytest.mark.parametrize("first", [True, False])
def test_run_lengths_are_those_of_coco(first: bool) -> None:
    mask = np.array([[first, True], [False, True], [False, False]])
    counts = [0, 1, 2, 2, 1] if first else [3, 2, 1]
    assert run_lengths(mask) == {"size_hw": [3, 2], "counts": counts}
    with pytest.raises(ValueError, match="expected bool"):
        run_lengths(mask.astype(np.uint8))


def test_a_connection_that_ends_right_before_the_command_is_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = f"ipc://{tmp_path}/none"
    with Controller(endpoint, timeout_s=0.2) as controller:
        # So it may be between asking for room and sending, where a handshake is refused.
        controller._socket.disconnect(endpoint)
        monkeypatch.setattr(zmq.Socket, "poll", lambda *args: len(args) == 3)
        with pytest.raises(ControlError, match="no answer from ipc"):
            controller.send("ping")


def test_an_address_that_is_none() -> None:
    with pytest.raises(ConfigError, match="cannot connect to 'nonsense'"):
        Controller("nonsense")


def test_the_client_needs_numpy_and_pyzmq_only() -> None:
    code = (
        "import sys, stages.control_client, stages.client, stages.frame_sender\n"
        "heavy = {'torch', 'pydantic', 'yaml', 'PIL', 'av', 'rich'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stderr


def test_a_thread_of_its_own_answers_and_ends_with_the_channel(live: Rig) -> None:
    assert "control" in {thread.name for thread in threading.enumerate()}
    live.channel.close()
    assert "control" not in {thread.name for thread in threading.enumerate()}
