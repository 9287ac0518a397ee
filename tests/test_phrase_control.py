"""Phrases over the control channel and from the shell, with every answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from conftest import Outcome
from control_rig import Rig, rig

from pipeline.control import schema
from pipeline.control.answers import DETAILS
from pipeline.control.reading import CommandError, read_command
from stages.phrasing import EXPECTED

Call = Callable[..., Outcome]


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path) as made:
        yield made


@pytest.fixture
def control(live: Rig, call_main: Call) -> Call:
    return lambda *words: call_main("control", live.channel.endpoint, *words)


def test_a_phrase_is_answered_with_its_class_and_frame(live: Rig) -> None:
    with live.controller() as run:
        added = run.send("add_phrase", phrase=" the  sky")
        assert (added.applied, added.data) == (True, {"class_id": 2})
        assert added.frame_id is not None
        assert run.send("add_phrase", phrase="the sky").data == {"class_id": 2}
        found = run.send("status").data["phrases"]
        assert [one["phrase"] for one in found] == ["probe", "the sky"]
        assert found[0] == {"phrase": "probe", "class_id": 1, "objects": 1}
        assert run.send("remove_phrase", phrase="probe").data == {"class_id": 1}
        assert [one["phrase"] for one in run.send("status").data["phrases"]] == ["the sky"]


def test_100_phrases_are_refused_from_the_17th_on(live: Rig) -> None:
    with live.controller() as run:
        answers = [run.send("add_phrase", phrase=f"phrase {number}") for number in range(20)]
        assert [each.reason for each in answers] == [None] * 15 + ["too_many_phrases"] * 5
        assert "at most 16 phrases" in str(answers[-1].detail)


def test_a_detector_without_words_says_so(live: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live.channel, "_desk", replace(live.channel._desk, phrases=None))
    with live.controller() as run:
        assert run.send("add_phrase", phrase="sky").reason == "no_phrases"
        assert run.send("status").data["phrases"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("add", " "), "add_phrase: refused: bad_phrase (expected 1 to 128 printable"),
        (("add", "a\tb\x07"), "refused: bad_phrase"),
        (("add", ""), "refused: bad_command (phrase: String"),
        (("add", "x" * 129), "refused: bad_command"),
        (("add", "x" * 41), "refused: long_phrase (it is longer than the model reads"),
        (("remove", "sky"), "remove_phrase: refused: unknown_phrase (it is not looked for)"),
    ],
)
def test_what_went_wrong_is_one_line(control: Call, words: tuple[str, ...], said: str) -> None:
    ended = control("phrase", *words)
    assert ended.code == 1
    assert said in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_from_the_shell(live: Rig, control: Call) -> None:
    ended = control("phrase", "add", "needle")
    assert ended.code == 0
    assert ended.stdout.startswith("add_phrase: applied, class 2, frame ")
    assert control("phrase", "remove", "needle").stdout.startswith("remove_phrase: applied")
    assert control("phrase", "add").code == 2


def test_an_object_is_added_only_under_a_class_that_means_something(live: Rig) -> None:
    with live.controller() as run:
        assert run.send("add", box=(1, 2, 30, 40), class_id=2).reason == "no_class"
        assert run.send("add", box=(1, 2, 30, 40), class_id=1).applied


def test_every_reason_has_its_words_and_the_schema_knows_the_verbs() -> None:
    assert set(EXPECTED) <= set(DETAILS)
    command = {"id": "1", "verb": "add_phrase", "phrase": "sky"}
    jsonschema.validate(command, schema.control_schema())
    assert read_command(b'{"id": "1", "verb": "remove_phrase", "phrase": "sky"}').verb
    with pytest.raises(CommandError, match="phrase"):
        read_command(b'{"id": "1", "verb": "add_phrase", "phrase": 7}')
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**command, "phrase": ""}, schema.control_schema())
