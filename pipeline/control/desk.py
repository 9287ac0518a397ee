"""What each command does: `Desk`. Nothing here waits, and nothing touches the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.control.answers import Effect
from pipeline.control.commands import (
    Add,
    Boxes,
    Command,
    Correct,
    Mask,
    Pause,
    Phrasing,
    Prompting,
    Reinit,
    Rename,
    Resume,
    Snapshot,
    Status,
)
from pipeline.control.deadlines import Deadlines
from pipeline.control.effects import done, then
from pipeline.control.names import Names, Unnamed
from pipeline.control.phrase_desk import change, counted
from pipeline.control.seen import Seen, describe
from pipeline.control.snapshots import Snapshots, Taken
from stages.base import PhraseBook, PromptedSegmenter, SwitchedDetector, ToldDetector
from stages.box_inbox import BoxesAsked, BoxesEnd
from stages.prompting import Outcome, Prompt


@dataclass(frozen=True, slots=True, eq=False)
class Desk:
    """Carries commands out by handing them to whom they concern."""

    segmenter: PromptedSegmenter | None
    """None: this one takes no prompts."""
    detector: SwitchedDetector | None
    """None: there is nothing to pause."""
    phrases: PhraseBook | None
    """None: this detector takes no words."""
    boxes: ToldDetector | None
    """None: this one looks for itself."""
    seen: Seen
    names: Names
    snapshots: Snapshots
    status: Callable[[], Mapping[str, object]]
    class_names: Sequence[str]
    deadlines: Deadlines
    """What is for the next frame is not for one that comes when the source was away."""

    def expire(self) -> None:
        """Take back what has waited too long; to be called again and again, by one thread."""
        self.deadlines.expire()
        if self.segmenter is not None:
            self.segmenter.expire()

    def carry_out(self, command: Command) -> Future[Effect]:
        """Begin; the result may come in another thread."""
        match command:
            case Rename():
                return self._rename(command)
            case Pause() | Resume():
                return self._switch(on=isinstance(command, Resume))
            case Boxes():
                return self._tell_boxes(command)
            case Snapshot():
                return self._snapshot()
            case _ if isinstance(command, Phrasing):
                return change(self.phrases, command, self._epoch(None), self.deadlines)
            case Status():
                return done(Effect(epoch=self._epoch(None), data=self._status()))
            case _ if isinstance(command, Prompting):
                return self._prompt(command)
            case _:
                return done(Effect(epoch=self._epoch(None)))

    def _prompt(self, command: Prompting) -> Future[Effect]:
        if self.segmenter is None:
            return done(Effect("no_prompts"))
        epoch = self._epoch(command.epoch)
        object_id = getattr(command, "object_id", None)
        shaped = command if isinstance(command, Add | Correct | Reinit) else None
        class_id = command.class_id if isinstance(command, Add) else 0
        if class_id and not any(self.class_names[class_id : class_id + 1]):
            return done(Effect("no_class", epoch))
        mask = None
        if shaped is not None and shaped.mask is not None:
            mask = self._decoded(shaped.mask)
            if mask is None:
                return done(Effect("bad_mask", epoch))
        prompt = Prompt(
            command.verb,
            object_id=object_id,
            box=None if shaped is None else shaped.box,
            points=() if shaped is None else shaped.points,
            labels=() if shaped is None else shaped.labels,
            mask=mask,
            text=None if shaped is None else shaped.text,
            class_id=class_id,
            epoch=epoch,
            frame_id=command.frame_id,
            until_ns=self.deadlines.until_ns if command.frame_id is None else None,
        )

        def effect(outcome: Outcome) -> Effect:
            about = object_id if outcome.object_id is None else outcome.object_id
            return Effect(outcome.reason, epoch, outcome.frame_id, about)

        return then(self.segmenter.prompt(prompt).outcome, effect, epoch)

    def _decoded(self, mask: Mask) -> NDArray[np.bool_] | None:
        """bool (H, W); None where it is not of the picture's size, so that none larger is made."""
        packet, (height, width) = self.seen.packet, mask.size_hw
        if packet is None or packet.info.size_hw != mask.size_hw:
            return None
        if sum(mask.counts) != height * width:
            return None
        runs = np.arange(len(mask.counts)) % 2 == 1
        return np.ascontiguousarray(np.repeat(runs, mask.counts).reshape(width, height).T)

    def _rename(self, command: Rename) -> Future[Effect]:
        epoch = self._epoch(command.epoch)
        if epoch is None:
            return done(Effect("no_frame_yet"))

        def effect(end: int | Unnamed) -> Effect:
            reason, frame_id = (None, end) if isinstance(end, int) else (end, None)
            return Effect(reason, epoch, frame_id, command.object_id)

        asked = self.names.ask(epoch, command.object_id, command.name)
        return then(self.deadlines.watch(asked), effect, epoch)

    def _switch(self, *, on: bool) -> Future[Effect]:
        if self.detector is None:
            return done(Effect("no_detector"))
        epoch = self._epoch(None)
        asked = self.deadlines.watch(self.detector.switch.set(on))
        return then(asked, lambda at: Effect(None, epoch, at), epoch)

    def _tell_boxes(self, command: Boxes) -> Future[Effect]:
        if self.boxes is None:
            return done(Effect("no_boxes"))
        epoch = self._epoch(command.epoch)
        rows = [(*found.box, found.score, found.class_id) for found in command.boxes]
        asked = BoxesAsked(
            np.array(rows, np.float32).reshape(-1, 6),
            epoch,
            command.frame_id,
        )

        def effect(end: BoxesEnd) -> Effect:
            return Effect(end.reason, epoch, end.frame_id)

        told = self.boxes.tell(asked)
        if command.frame_id is None:
            self.deadlines.watch(told)
        return then(told, effect, epoch)

    def _snapshot(self) -> Future[Effect]:
        taking = self.snapshots.ask()
        if taking is None:
            return done(Effect("busy", self._epoch(None)))

        def effect(taken: Taken) -> Effect:
            return Effect(None, taken.epoch, taken.frame_id, data={"files": list(taken.files)})

        return then(self.deadlines.watch(taking), effect, self._epoch(None))

    def _status(self) -> dict[str, Any]:
        packet = self.seen.packet
        return {
            **self.status(),
            "class_names": list(self.class_names),
            "takes_prompts": self.segmenter is not None,
            "phrases": counted(self.phrases, self.seen.packet),
            "detector_on": None if self.detector is None else self.detector.switch.on,
            "newest": None if packet is None else describe(packet, self.class_names),
        }

    def _epoch(self, asked: int | None) -> int | None:
        """The epoch that a command is for: what it says, else the newest that could be seen."""
        packet = self.seen.packet
        return asked if asked is not None or packet is None else packet.info.epoch
