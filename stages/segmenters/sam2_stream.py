"""SAM2 as a stage that follows objects: lasting ids, fixed memory, prompts at any time."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import Final, Literal, cast

import torch
from pydantic import Field

from kpi.emit import emit
from kpi.events import PromptEnded
from stages.choices import Choice, Choices
from stages.packets import HostPacket, Identity
from stages.records import Detections, Encoded, Frame, Tracks
from stages.segmenters.configured import Configured
from stages.segmenters.execution import Execution
from stages.segmenters.lifecycle import Lifecycle, LifecycleConfig
from stages.segmenters.live_prompts import Prompt, PromptQueue, Refusal, Ticket, within
from stages.segmenters.mask_cleaning import fill_holes, without_overlap
from stages.segmenters.object_events import ObjectEvents
from stages.segmenters.occupancy import Header, Occupancy, Permit
from stages.segmenters.sam2_checkpoint import build_sam2
from stages.segmenters.sam2_config import Sam2Config
from stages.segmenters.tracker import APPLIED, NO_SLOT, TICKETS, UNKNOWN_OBJECT, Tracker
from stages.segmenters.tracker_core import TrackerCore
from stages.segmenters.tracker_records import Pictures
from stages.segmenters.trial import try_out
from stages.window import Window

_COUNTS: Final = 4
"""Numbers before the answers in a header: who waits for a birth and for a look, refused births,
conditioning frames held."""
_REFUSALS: Final[dict[int, Refusal]] = {UNKNOWN_OBJECT: "unknown_object", NO_SLOT: "no_slot"}


class Sam2StreamConfig(Sam2Config):
    """SAM2 following objects through a stream."""

    kind: Literal["sam2_stream"] = "sam2_stream"
    conditioning_frames: int = Field(4, ge=2, le=16)
    """K: prompted frames that each object remembers (`max_cond_frames_in_attn`)."""
    every: int = Field(1, ge=1, le=30)
    """Every so many frames objects are followed; on the others their masks stay and grow older
    (`age_frames`). For slow machines; the numbers of `lifecycle` count followed frames, and
    `detector.every` is best a multiple."""
    execution: Execution = "eager"
    """`compile`: slow to start, faster then; `graph`: CUDA only, not yet proven on a GPU."""
    fill_hole_area: int = Field(default=0, ge=0, le=64)
    """Holes of at most so many low-resolution pixels are filled in what leaves; 0: none."""
    non_overlap: bool = False
    """Whether each pixel of what leaves belongs to one object at most."""
    lifecycle: LifecycleConfig = LifecycleConfig()


@dataclass(frozen=True, slots=True)
class _View:
    """Frames of one epoch and window; slots are empty where one begins."""

    number: int
    epoch: int
    window: Window
    first: int
    """Its first frame."""


class Sam2StreamSegmenter:
    """N slots whose ids last as long as their objects; ids never repeat in an epoch."""

    identity: Identity = "tracked"

    def __init__(
        self, config: Sam2StreamConfig, device: torch.device, first_prompt_class: int = 0
    ) -> None:
        """Build and load the model; raises `ConfigError`.

        The prompts' class ids follow those of the detector: `first_prompt_class` is how many the
        detector has, `prompt_names` what the ids from there on mean.
        """
        self.prompt_names = tuple(prompt.name or "prompt" for prompt in config.prompts)
        self._configured = Configured(config.prompts, first_prompt_class)
        model = build_sam2(config.model, config.checkpoint, config.sha256, device)
        core = TrackerCore(
            model, config.max_objects, config.conditioning_frames, bf16=device.type == "cuda"
        )
        self.tracker = Tracker(core, Lifecycle(config.lifecycle, device), config.execution)
        life = config.lifecycle
        self._occupancy = Occupancy(config.max_objects, life.births, life.unheard)
        self._queue = PromptQueue(TICKETS)
        self.choices = Choices(self._occupancy, config.every)
        """What may be written down, and told again to a rerun."""
        self._fill, self._apart = config.fill_hole_area, config.non_overlap
        self._told = ObjectEvents()
        self._view: _View | None = None
        try_out(self.tracker, config.model, config.execution)

    @torch.inference_mode()
    def encode(self, detections: Detections) -> Encoded:
        """What every object of the picture shares; nothing where nobody is followed."""
        frame = detections.frame
        if not self.choices.follows(frame):
            return Encoded(detections, None)
        core = self.tracker.core
        pixels = core.network.transform(frame.rgb)
        return Encoded(detections, self.tracker.units.encode(pixels))

    @torch.inference_mode()
    def segment(self, given: Encoded | Detections) -> Tracks:
        """One frame of the stream; see `Tracker`."""
        item = given if isinstance(given, Encoded) else self.encode(given)
        detections, frame = item.detections, item.detections.frame
        view = self._view
        if view is None or (view.epoch, view.window) != (frame.epoch, frame.window):
            self._enter(frame)
        self.tracker.forget(detections.classes)
        if item.features is None:
            self.choices.done(frame, followed=False)
            return self._cleaned(self.tracker.stay(detections))
        tracker, encoded = self.tracker, cast(Pictures, item.features)
        tracker.follow(encoded, frame, *self.choices.bounds(frame))
        told = self.choices.told(frame)
        if told is None:
            self._apply_all(encoded, frame)
        else:
            self._apply_told(encoded, frame, told)
        if detections.computed:
            tracker.grow(encoded, detections, self.choices.permit(frame))
        self.choices.done(frame, followed=True)
        return self._cleaned(tracker.finish(detections))

    def _apply_told(self, encoded: Pictures, frame: Frame, told: Choice) -> None:
        """Apply what a script says; what is configured, as it is configured now."""
        for number, each in enumerate(told.applied):
            prompt = each.prompt
            if each.configured is not None:
                prompt = within(frame.window, self._configured.prompt(each.configured, frame.epoch))
            self._apply_now(encoded, frame, prompt, number, each.configured)

    def _apply_all(self, encoded: Pictures, frame: Frame) -> None:
        """Apply the prompts that wait; where one fails, it is refused and the others wait on."""
        self.expire()
        waiting = deque(self._queue.take(frame.frame_id))
        while waiting:
            ticket = waiting.popleft()
            try:
                self._apply(encoded, frame, ticket)
            except BaseException:
                self._queue.give_back(waiting)
                self._refuse(ticket, "failed", frame)
                raise

    def _apply(self, encoded: Pictures, frame: Frame, ticket: Ticket) -> None:
        prompt = ticket.prompt
        if prompt.object_id is not None and not self._occupancy.may_live(prompt.object_id):
            self._refuse(ticket, "unknown_object", frame)
            return
        self._apply_now(encoded, frame, prompt, ticket.number, self._configured.place_of(ticket))

    def _apply_now(
        self, encoded: Pictures, frame: Frame, prompt: Prompt, number: int, place: int | None
    ) -> None:
        new = prompt.action == "add"
        self._occupancy.allow(frame.frame_id, int(new), again=not new)
        self.choices.applied(prompt, place)
        self.tracker.prompt(encoded, frame, prompt, number)

    def _refuse(self, ticket: Ticket, reason: Refusal, frame: Frame) -> None:
        ended = self._queue.answer(ticket.number, reason, None)
        if ended is not None:
            self._emit(ended, frame.source_id, frame.frame_id)

    def _cleaned(self, tracks: Tracks) -> Tracks:
        logits = fill_holes(tracks.logits, self._fill)
        if self._apart:
            logits = without_overlap(logits, tracks.valid)
        return tracks if logits is tracks.logits else replace(tracks, logits=logits)

    def prompt(self, prompt: Prompt) -> Ticket:
        """Ask for something from any thread; it is applied at the next frame and answered.

        The answer comes with a header that `heed` is given, else with the end of the epoch, or
        `close`.
        """
        ticket = self._queue.put(prompt)
        if ticket.outcome.done():
            self._emit(ticket, self._told.source_id, self._told.frame_id)
        return ticket

    def expire(self) -> None:
        """End the tickets whose time is over; from any thread."""
        for late in self._queue.expire():
            self._emit(late, self._told.source_id, self._told.frame_id)

    def weights_sha256(self) -> str:
        """See `stages.base.Weighted`."""
        return self.tracker.core.network.weights_sha256()

    def heed(self, packet: HostPacket) -> None:
        """Read the header of an earlier frame; called by the egress thread."""
        info, feedback, view = packet.info, packet.feedback, self._view
        if feedback is None or view is None:
            return
        if info.epoch != view.epoch or info.frame_id < view.first:
            return
        births, looks, refused, held = feedback[:_COUNTS].tolist()
        ids = frozenset(packet.object_ids.tolist())
        self._occupancy.heed(Header(view.number, info.frame_id, ids, Permit(births, looks), held))
        for number, outcome, object_id in feedback[_COUNTS:].reshape(TICKETS, 3).tolist():
            refusal = None if outcome == APPLIED else _REFUSALS.get(outcome)
            ticket = self._queue.answer(number, refusal, object_id if object_id >= 0 else None)
            if ticket is not None:
                self._emit(ticket, info.source_id, info.frame_id)
        self._told.tell(packet, refused)

    def close(self) -> None:
        """No header comes any more: every open ticket ends as `stopped`, and so do those to come.

        May be called from any thread, and more than once.
        """
        for ticket in self._queue.close():
            self._emit(ticket, self._told.source_id, self._told.frame_id)

    def _emit(self, ticket: Ticket, source_id: str, frame_id: int) -> None:
        epoch = -1 if self._view is None else self._view.epoch
        outcome = ticket.outcome.result()
        at = frame_id if outcome.frame_id is None else outcome.frame_id
        emit(
            PromptEnded(
                source_id, epoch, at, ticket.number, ticket.prompt.action,
                outcome.reason, outcome.object_id,
            )
        )  # fmt: skip

    def _enter(self, frame: Frame) -> None:
        """Begin anew: slots empty, configured prompts asked for.

        Ids begin at 0, but go on where pictures of another size come in the same epoch.
        """
        before = self._view
        number = 0 if before is None else before.number + 1
        self.tracker.clear(ids_go_on=before is not None and before.epoch == frame.epoch)
        self._occupancy.enter(number)  # a header of an earlier view tells it nothing
        self._view = _View(number, frame.epoch, frame.window, frame.frame_id)
        for ended in self._queue.enter(frame.epoch, frame.window):
            self._emit(ended, frame.source_id, frame.frame_id)
        self._configured.ask(self._queue, frame)
