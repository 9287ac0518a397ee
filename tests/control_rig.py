"""A control channel over real sockets, whose stream is whatever a test says."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from blind_network import BlindNetwork
from result_packets import random_packet

from kpi.emit import current_logger
from kpi.events import Event
from pipeline.control.audit import AuditLog
from pipeline.control.channel import ControlChannel
from pipeline.control.config import ControlConfig
from pipeline.control.deadlines import Deadlines
from pipeline.control.desk import Desk
from pipeline.control.names import Names
from pipeline.control.seen import Seen
from pipeline.control.snapshots import Snapshots
from stages.box_inbox import BoxesAsked, BoxesEnd, BoxInbox
from stages.control_client import Controller
from stages.detectors.phrases import Phrases
from stages.found_boxes import FoundBoxes
from stages.key_frames import Switch
from stages.packets import HostPacket
from stages.phrasing import PhraseFlaw
from stages.prompting import Prompt, Ticket
from stages.segmenters.live_prompts import PromptQueue
from stages.window import whole

SIZE_HW = (48, 64)


class Follower:
    """A segmenter's queue without a model: what is taken is applied at once."""

    def __init__(self) -> None:
        self.queue = PromptQueue()
        self.applied: list[Prompt] = []
        self.holds = False
        """Frames come, but no answer."""
        self._ids = 0

    def prompt(self, prompt: Prompt) -> Ticket:
        return self.queue.put(prompt)

    def expire(self) -> None:
        self.queue.expire()

    def frame(self, frame_id: int) -> None:
        self.expire()
        for ticket in self.queue.take(frame_id):
            self.applied.append(ticket.prompt)
            about = ticket.prompt.object_id
            if about is None and ticket.prompt.action == "add":
                about, self._ids = self._ids, self._ids + 1
            if not self.holds:
                self.queue.answer(ticket.number, None, about)


class SwitchedOff:
    """A detector's switch."""

    def __init__(self) -> None:
        self.switch = Switch()


class Sought(BlindNetwork):
    """A network of the mind: every phrase is fine, none is ever looked at."""

    def flaw(self, phrase: str) -> PhraseFlaw | None:
        return "long_phrase" if len(phrase) > 40 else None

    def words(self, phrase: str) -> object:
        return phrase


class Finder:
    """A detector that is told what there is, without a device."""

    def __init__(self) -> None:
        self.inbox = BoxInbox(classes=2)
        self.used: list[FoundBoxes] = []

    def tell(self, asked: BoxesAsked) -> Future[BoxesEnd]:
        return self.inbox.ask(asked)


class Rig:
    """The channel, its parts, and a stream of frames made by `step` or, in a thread, by `flow`."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.folder = folder
        self.follower, self.detector = Follower(), SwitchedOff()
        self.phrases = Phrases(Sought(), ("probe",))
        self.finder = Finder()
        self.seen, self.names = Seen(), Names()
        self.snapshots = Snapshots(folder, ("vessel", "needle"))
        self.events: list[Event] = []
        self.frame_id, self.epoch = -1, 0
        self.packet: HostPacket | None = None
        settings = ControlConfig(**{"endpoint": f"ipc://{folder}/control", **config})
        desk = Desk(
            segmenter=self.follower,
            detector=self.detector,
            phrases=self.phrases,
            boxes=self.finder,
            seen=self.seen,
            names=self.names,
            snapshots=self.snapshots,
            status=lambda: {"published": self.frame_id + 1},
            class_names=("vessel", "needle"),
            deadlines=Deadlines(settings.patience_s),
        )
        self.channel = ControlChannel(settings, desk)
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def emit(self, event: Event) -> None:
        self.events.append(event)

    @property
    def log(self) -> Path:
        return self.folder / "control.jsonl"

    def step(self) -> HostPacket:
        """One frame through all."""
        self.frame_id += 1
        if self.frame_id == 0 or self.packet is None or self.packet.info.epoch != self.epoch:
            self.follower.queue.enter(self.epoch, whole(SIZE_HW))
        self.follower.frame(self.frame_id)
        self.detector.switch.is_on(self.frame_id)
        self.phrases.turn(self.frame_id)
        window = whole(SIZE_HW)
        self.finder.used += self.finder.inbox.take(self.epoch, self.frame_id, window, on=True)
        rng = np.random.default_rng(self.frame_id)
        packet = random_packet(rng, 2, SIZE_HW, frame_id=self.frame_id)[0]
        packet = replace(
            packet,
            info=replace(packet.info, epoch=self.epoch),
            object_ids=np.arange(2),
            class_ids=np.arange(2, dtype=np.int32),
        )
        self.packet = self.names.named(packet)
        self.seen.write(self.packet)
        return self.packet

    def flow(self, period_s: float = 0.02) -> None:
        def go() -> None:
            while not self._over.wait(period_s):
                self.step()

        self._thread = threading.Thread(target=go, name="stream", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        self.channel.close()

    def controller(self, **more: Any) -> Controller:
        return Controller(self.channel.endpoint, **{"timeout_s": 10.0, **more})

    @property
    def heard(self) -> int:
        """Messages, however they ended."""
        connections = ("connected", "let_in", "uninvited")
        return sum(n for name, n in self.channel.counts.items() if name not in connections)


@contextmanager
def rig(folder: Path, *, flowing: bool = True, **config: Any) -> Iterator[Rig]:
    made = Rig(folder, **config)
    token = current_logger.set(made)
    try:
        made.channel.start(AuditLog(made.log))
        made.step()
        if flowing:
            made.flow()
        yield made
    finally:
        made.close()
        current_logger.reset(token)
