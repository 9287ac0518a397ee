"""A user's own detector, in a process of its own: sends pictures and what it found in them.

Usage: FRAMES RESULTS CONTROL, three endpoints. Pictures are the phantom's, boxes those of its
truth. Each picture waits for its result, so that none is lost. Prints one JSON object.
"""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import asdict
from typing import Any

import numpy as np

from stages.client import Subscriber
from stages.control_client import Controller
from stages.found_boxes import FoundBoxes
from stages.frame_sender import FrameSender
from stages.sources.phantom_scene import PhantomScene

FRAMES, SIZE_HW = 30, (240, 320)
WAIT_S = 60.0
BAD = np.array([[1, 1, np.nan, 9, 0.9, 0], [400, 300, 410, 310, 0.9, 0], [1, 1, 9, 9, 0.9, 7]])
COMMANDS: dict[str, dict[str, Any]] = {
    "inverted": {"boxes": [(60, 60, 20, 90, 0.9, 0)]},
    "outside": {"boxes": [(400, 300, 420, 320, 0.9, 0)]},
    "no_class": {"boxes": [(20, 20, 60, 60, 0.9, 9)]},
    "too_many": {"boxes": [(20, 20, 60, 60, 0.9, 0)] * 301},
    "nothing": {"boxes": []},
    "past": {"boxes": [], "frame_id": 0},
    "another_epoch": {"boxes": [], "epoch": 7},
}


class Detector:
    """The phantom's truth as boxes."""

    def __init__(self, sender: FrameSender, results: Subscriber) -> None:
        self._scene, self._sent = PhantomScene(10_029, size_hw=SIZE_HW), 0
        self._sender, self._results = sender, results

    def found(self) -> FoundBoxes:
        """What the next picture shows."""
        truth, rows = self._scene.truth(self._sent), []
        for mask, class_id in zip(truth.masks, truth.class_ids, strict=True):
            y, x = np.nonzero(mask)
            if len(y) > 100:
                rows.append((x.min(), y.min(), x.max() + 1, y.max() + 1, 0.9, class_id))
        return np.array(rows, np.float32).reshape(-1, 6)

    def show(self, boxes: FoundBoxes | None) -> dict[str, Any]:
        """Send the next picture; what the run made of it."""
        self._sender.send(self._scene.render(self._sent), boxes=boxes)
        self._sent += 1
        message = self._results.receive(WAIT_S)
        assert message is not None
        labels = [each.label for each in message.objects]
        return {"frame_id": message.frame_id, "found": 0 if boxes is None else len(boxes),
                "labels": labels}  # fmt: skip

    def left(self) -> int:
        return FRAMES - self._sent


def told(run: Controller, detector: Detector, command: dict[str, Any]) -> dict[str, Any]:
    """The answer to boxes over the control channel, while pictures go on."""
    answers: list[dict[str, Any]] = []
    thread = threading.Thread(
        target=lambda: answers.append(asdict(run.send("boxes", **command))), daemon=True
    )
    thread.start()
    thread.join(0.3)
    while not answers:
        detector.show(None)
        thread.join(0.1)
    return answers[0]


def main() -> None:
    frames, results, control = sys.argv[1:]
    with (
        FrameSender(frames, "zmq") as sender,
        Subscriber(results, high_water_mark=100) as subscriber,
        Controller(control, timeout_s=WAIT_S) as run,
    ):
        assert sender.wait(WAIT_S)
        detector = Detector(sender, subscriber)
        shown = [detector.show(detector.found()) for _ in range(4)]
        shown.append(detector.show(np.concatenate((BAD.astype(np.float32), detector.found()))))
        shown.append(detector.show(None))
        asked = [(*row[:5], int(row[5])) for row in detector.found().tolist()]
        answers = {"used": told(run, detector, {"boxes": asked})}
        answers |= {name: told(run, detector, command) for name, command in COMMANDS.items()}
        while detector.left() > 0:
            detector.show(None)
    print(json.dumps({"shown": shown, "answers": answers}))  # noqa: T201


if __name__ == "__main__":
    main()
