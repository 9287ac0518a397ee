"""Phrases on a live run: a network that knows the phantom's truth in place of SAM3's."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from conftest import Outcome
from fake_concepts import TruthConcepts

import stages.detectors.sam3 as sam3
from pipeline.config import RunConfig
from pipeline.frame_flow import RunOptions
from pipeline.run import start
from stages.client import Subscriber
from stages.control_client import Answer, Controller
from stages.sources.phantom import PhantomConfig
from stages.wire import ResultMessage

SEED, FPS = 20, 8  # a needle, a lumen and a lesion that stay
WAIT_S = 60.0


class Person:
    """Somebody who watches the run and talks to it, frame by frame."""

    def __init__(self, folder: Path) -> None:
        self._results = Subscriber(f"ipc://{folder}/results", high_water_mark=1000)
        self._control = Controller(f"ipc://{folder}/control", timeout_s=WAIT_S)
        self.seen: list[ResultMessage] = []

    def next(self) -> ResultMessage:
        message = self._results.receive(WAIT_S)
        assert message is not None
        self.seen.append(message)
        return message

    def until(self, *labels: str) -> dict[str, int]:
        """Ids by label on the first frame that shows these labels, each once, and no other."""
        for _ in range(40):
            objects = self.next().objects
            if sorted(str(one.label) for one in objects) == sorted(labels):
                return {str(one.label): one.id for one in objects}
        raise AssertionError(f"never {labels}, last {self.seen[-1].objects}")

    def say(self, verb: Any, **words: Any) -> Answer:
        return self._control.send(verb, **words)

    def at(self, frame_id: int | None) -> set[str | None]:
        """The labels on the frame that an answer named."""
        assert frame_id is not None
        while self.seen[-1].frame_id < frame_id:
            self.next()
        found = {one.frame_id: one for one in self.seen}[frame_id]
        return {one.label for one in found.objects}

    @property
    def class_names(self) -> tuple[str, ...]:
        return self._results.states["phantom"].class_names

    def close(self) -> None:
        self._results.close()
        self._control.close()


def story(person: Person, told: dict[str, Any]) -> None:
    """Add "needle", remove it, add "lumen"; the lesion was there from the start."""
    lesion = person.until("lesion")
    added = person.say("add_phrase", phrase="needle")
    assert added.applied
    both = person.until("lesion", "needle")
    assert both["lesion"] == lesion["lesion"]
    told["phrases"] = person.say("status").data["phrases"]
    while "needle" not in person.class_names:
        person.next()
    removed = person.say("remove_phrase", phrase="needle")
    assert "needle" not in person.at(removed.frame_id)
    assert "lesion" in person.at(removed.frame_id)
    assert person.until("lesion") == lesion
    assert person.say("add_phrase", phrase="a thing that is not there").applied
    assert person.say("add_phrase", phrase="lumen").applied
    last = person.until("lesion", "lumen")
    assert last["lesion"] == lesion["lesion"]
    assert last["lumen"] not in both.values()
    again = person.say("remove_phrase", phrase="needle")
    assert (again.applied, again.reason) == (False, "unknown_phrase")
    while "lumen" not in person.class_names:
        person.next()
    told["class_names"] = person.class_names


@pytest.mark.timeout(180)
def test_phrases_come_and_go_and_the_others_keep_their_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call_main: Callable[..., Outcome]
) -> None:
    network = TruthConcepts(PhantomConfig(seed=SEED, fps=None))
    monkeypatch.setattr(sam3, "build_network", lambda config, device: network)
    sockets = tmp_path / "s"
    sockets.mkdir(mode=0o700)
    config = RunConfig.model_validate(
        {
            "name": "phrases",
            "device": "cpu",
            "source": {"kind": "phantom", "seed": SEED, "fps": FPS},
            "grab": {"mailbox": "every"},
            "detector": {"kind": "sam3", "model": "m", "phrases": ["lesion"], "every": 2},
            "segmenter": {"kind": "sam2_stream", "model": "demo", "max_objects": 6},
            "results": {"endpoint": f"ipc://{sockets}/results", "hwm": 1000},
            "control": {"endpoint": f"ipc://{sockets}/control"},
            "http": None,
            "preview": None,
            "recorder": {"record": ["frames", "detections", "prompts", "logits", "packets"]},
        }
    )
    told: dict[str, Any] = {}
    ended: Future[None] = Future()

    def watch() -> None:
        person = Person(sockets)
        try:
            story(person, told)
        except BaseException as error:
            ended.set_exception(error)
        else:
            ended.set_result(None)
        finally:
            person.close()
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=watch)
    thread.start()
    code = start(config, RunOptions(None, tmp_path / "out", False, 1))
    thread.join(WAIT_S)
    ended.result(timeout=0)
    assert code == 0
    assert [(one["phrase"], one["objects"]) for one in told["phrases"]] == [
        ("lesion", 1), ("needle", 1)
    ]  # fmt: skip
    assert told["class_names"][0] == "object"
    assert network.texts == ["lesion", "needle", "a thing that is not there", "lumen"]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["host_copies"]["hot_path_d2h"] == 0
    assert summary["frames"]["published"] >= 10
    on_record = (tmp_path / "out" / "control.jsonl").read_text()
    assert '"verb": "add_phrase"' in on_record or '"verb":"add_phrase"' in on_record
    again = call_main("rerun", str(tmp_path / "out"))
    assert again.stdout.startswith("identical, bit for bit as float16: "), again.stdout
