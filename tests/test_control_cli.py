"""`maskstream control` from the shell: what it sends, what it says, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Outcome
from control_rig import SIZE_HW, Rig, rig
from PIL import Image
from test_curve import Keys

from pipeline.config import load_config
from pipeline.control.config import ControlConfig
from pipeline.exposure import exposed
from stages.curve import CurveConfig
from stages.errors import ConfigError
from stages.sinks.zmq_publisher import ZmqPublisherConfig
from stages.sources.zmq_frames import ZmqFramesConfig

Call = Callable[..., Outcome]


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path) as made:
        yield made


@pytest.fixture
def control(live: Rig, call_main: Call) -> Call:
    def call(*words: str) -> Outcome:
        return call_main("control", live.channel.endpoint, *words)

    return call


def test_a_click_and_what_may_follow_it(live: Rig, control: Call) -> None:
    added = control("add", "--point", "3,4", "--not", "5.5,6")
    assert added.code == 0
    assert added.stdout.startswith("add: applied, object 0, frame ")
    for words in (
        ("correct", "0", "--box", "1,2,30,40"),
        ("reinit", "0", "--point", "3,4"),
        ("rename", "0", "left vein"),
        ("remove", "0", "--epoch", "0"),
        ("reset",),
        ("pause",),
        ("resume",),
        ("ping",),
    ):
        ended = control(*words)
        assert (ended.code, ended.stderr) == (0, ""), words
        assert ended.stdout.startswith(f"{words[0]}: applied")
    first, second, *_ = live.follower.applied
    assert (first.points, first.labels) == (((3, 4), (5.5, 6)), (1, 0))
    assert second.box == (1, 2, 30, 40)


def test_boxes_of_a_detector(live: Rig, control: Call) -> None:
    told = control("boxes", "--box", "1,2,30,40,0.5,1", "--box", "3,4,5,6,1,0")
    assert told.code == 0
    assert told.stdout.startswith("boxes: applied, frame ")
    assert control("boxes").code == 0
    for box, expected in (("1,2,3,4", "expected 6 numbers"), ("1,2,3,4,1,0.5", "a whole number")):
        refused = control("boxes", "--box", box)
        assert refused.code == 2
        assert expected in refused.stderr
    refused = control("boxes", "--box", "30,2,1,40,0.5,1")
    assert refused.code == 1
    assert "boxes: refused: bad_box (expected x1 < x2" in refused.stderr
    used = [boxes.tolist() for boxes in live.finder.used]
    assert used == [[[1, 2, 30, 40, 0.5, 1], [3, 4, 5, 6, 1, 0]], []]


def test_a_mask_is_a_picture(live: Rig, control: Call, tmp_path: Path) -> None:
    mask = np.zeros(SIZE_HW, np.uint8)
    mask[5:20, 7:30] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    assert control("add", "--mask", str(tmp_path / "m.png")).code == 0
    assert live.follower.applied[0].mask is not None
    assert np.array_equal(live.follower.applied[0].mask, mask > 0)


def test_status_is_json(control: Call) -> None:
    assert json.loads(control("status").stdout)["class_names"] == ["vessel", "needle"]


def test_an_answer_as_it_came(live: Rig, call_main: Call) -> None:
    ended = call_main("control", "--json", live.channel.endpoint, "add", "--box", "1,2,30,40")
    assert json.loads(ended.stdout)["object_id"] == 0
    refused = call_main("control", "--json", live.channel.endpoint, "add", "--box", "9,2,3,4")
    assert refused.code == 1
    assert json.loads(refused.stdout)["reason"] == "bad_box"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("add", "--box", "9,2,3,4"), 1, "add: refused: bad_box (expected x1 < x2"),
        (("remove", "77", "--epoch", "9"), 1, "refused: past_epoch"),
        (("add", "--text", "the needle"), 1, "refused: no_text (no segmenter takes words; a"),
        (("correct", "0", "--text", "it"), 1, "or `phrase add`)"),
        (("reinit", "0", "--text", "it"), 1, "refused: no_text"),
        (("reset", "--frame", "0"), 1, "reset: refused: past_frame"),
        (("remove", "0", "--frame", "0"), 1, "remove: refused: past_frame"),
        (("rename", "0", "vein", "--epoch", "9"), 1, "rename: refused: past_epoch"),
        (("add",), 2, "expected one of --box, --point"),
        (("add", "--box", "1,2,3,4", "--text", "x"), 2, "expected one of --box, --point"),
        (("add", "--box", "1,2,3"), 2, "--box 1,2,3: expected 4 numbers"),
        (("add", "--point", "1;2"), 2, "--point 1;2: expected 2 numbers"),
        (("add", "--mask", "none.png"), 2, "--mask none.png: cannot be read"),
    ],
)
def test_what_went_wrong_is_one_line(
    control: Call, words: tuple[str, ...], code: int, said: str
) -> None:
    ended = control(*words)
    assert ended.code == code
    assert said in ended.stderr
    assert ended.stderr.startswith("maskstream: ")
    assert ended.stderr.count("\n") == 1


def test_nobody_there_is_told_in_time(call_main: Call, tmp_path: Path) -> None:
    ended = call_main("control", "--timeout", "0.3", f"ipc://{tmp_path}/none", "ping")
    assert ended.code == 1
    assert "no answer from ipc://" in ended.stderr
    assert call_main("control", "nonsense", "ping").code == 78


def test_with_keys_it_is_heard(call_main: Call, tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys")
    with rig(tmp_path, endpoint="tcp://127.0.0.1:0", curve=keys.curve) as live:
        server = ("--server-key", str(tmp_path / "keys" / "run.key"))
        own = ("--key", str(keys.allowed / "friend.key_secret"))
        assert call_main("control", *own, *server, live.channel.endpoint, "reset").code == 0
        away = call_main("control", "--timeout", "0.4", live.channel.endpoint, "reset")
        assert away.code == 1
        assert len(live.follower.applied) == 1


# Said once for all sockets


def configured(folder: Path, text: str, **more: Any) -> Any:
    path = folder / "c.yaml"
    path.write_text(
        "name: t\ndetector: {kind: none}\nsegmenter: {kind: sam2_image, max_objects: 1}\n" + text
    )
    return load_config(str(path), **more)


def test_keys_are_for_every_socket_that_has_none_of_its_own(tmp_path: Path) -> None:
    config = configured(
        tmp_path,
        "source: {kind: zmq}\ncurve: {secret_key: a, clients: b}\n"
        "control: {curve: {secret_key: c, clients: d}}\n",
    )
    ours = CurveConfig(secret_key=Path("a"), clients=Path("b"))
    assert isinstance(config.source, ZmqFramesConfig)
    assert config.results.curve == config.source.curve == ours
    assert config.control.curve == CurveConfig(secret_key=Path("c"), clients=Path("d"))
    (tmp_path / "again.yaml").write_text(config.as_yaml())
    assert load_config(str(tmp_path / "again.yaml")) == config


def test_without_keys_nothing_has_some(tmp_path: Path) -> None:
    config = configured(tmp_path, "source: {kind: phantom}\nresults: null\n")
    assert (config.curve, config.results, config.control) == (None, None, ControlConfig())
    with pytest.raises(ConfigError, match="clients: missing key"):
        configured(tmp_path, "source: {kind: phantom}\ncurve: {secret_key: a}\n")


def test_insecure_bind_is_said_in_every_section_that_is_there(tmp_path: Path) -> None:
    text = "source: {kind: zmq}\nresults: {endpoint: 'tcp://*:0'}\ncontrol: null\n"
    config = configured(tmp_path, text, insecure_bind=True)
    assert config.results == ZmqPublisherConfig(endpoint="tcp://*:0", insecure_bind=True)
    assert config.source.insecure_bind
    assert config.http.insecure_bind
    assert config.control is None
    assert config.openigtlink_out is None
    assert not configured(tmp_path, text).results.insecure_bind
    text = (
        "source: {kind: openigtlink, listen: true, host: 0.0.0.0}\nopenigtlink_out: {host: '::'}\n"
    )
    config = configured(tmp_path, text, insecure_bind=True)
    assert config.source.insecure_bind
    assert config.openigtlink_out.insecure_bind
    with pytest.raises(ConfigError, match="insecure_bind: true"):
        configured(tmp_path, text)


def test_the_flag_lets_a_run_be_reached_and_says_so(
    call_main: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = (
        "results.endpoint=tcp://*:0", "http=null", "control=null", "preview=null",
        "detector={kind: none}", "source.size_hw=[96, 128]", "source.ahead=0",
    )  # fmt: skip
    words = [word for each in settings for word in ("--set", each)]
    refused = call_main("run", "demo", "--frames", "1", "--out", "a", *words)
    assert refused.code == 78
    assert "insecure_bind: true" in refused.stderr
    done = call_main("run", "demo", "--frames", "1", "--out", "b", *words, "--insecure-bind")
    assert done.code == 0, done.stderr
    assert "results: insecure_bind: whoever reaches it may read it" in done.stdout + done.stderr


ANYWHERE = {name: "tcp://0.0.0.0:1" for name in ("results", "control", "frames")}


def test_what_anyone_may_use_is_named(tmp_path: Path) -> None:
    text = "results: {endpoint: 'tcp://*:0'}\ncontrol: {endpoint: 'tcp://*:0'}\n"
    text += "openigtlink_out: {host: '::'}\nhttp: {host: 0.0.0.0}\nsource: "
    names = ["results", "control", "frames", "openigtlink", "http"]
    here = {name: "tcp://127.0.0.1:1" for name in ANYWHERE} | {"results": "ipc:///x"}
    for source in ("{kind: openigtlink, listen: true, host: 0.0.0.0}", "{kind: zmq}"):
        config = configured(tmp_path, text + source + "\n", insecure_bind=True)
        assert list(exposed(config, ANYWHERE)) == names
    assert list(exposed(config, here)) == ["openigtlink", "http"]
    config = configured(tmp_path, "source: {kind: openigtlink, host: scanner}\n")
    assert not list(exposed(config, here)), "it calls, nobody can call it"
