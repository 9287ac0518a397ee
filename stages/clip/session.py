"""A clip that objects are tracked through: `Clip`, with the words of sam2's own predictor."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from stages.clip.frames import Frames, UploadedFrames
from stages.clip.objects import ClipObject, Points
from stages.clip.outputs import Keep
from stages.clip.prompts import (
    Values,
    mask_array,
    object_id,
    point_arrays,
    uploaded,
    whole_number,
)
from stages.clip.records import ClipFrame
from stages.clip.shown import frame_of
from stages.clip.tracker import ClipTracker, Walk
from stages.errors import ClipError, PromptError, SourceError
from stages.segmenters.model_pixels import in_model
from stages.segmenters.tracker_core import TrackerCore

Given = tuple[int, list[int], Tensor]
"""(frame_idx, obj_ids, masks): masks float32 (N, 1, H, W), logits on the clip's device."""


class Clip:
    """Prompts on any frame, for any number of objects, and their masks on all others.

    Used by one thread, but for `cancel`. Everything that is computed stays on the device, in
    memory that does not depend on the length of the clip.

    The masks are those of `SAM2VideoPredictor` without hole filling, with as many conditioning
    frames as there are prompted ones, whatever is prompted before the first `propagate`, in both
    directions, one after the other, from the same start. So they are after further prompts and
    further walks wherever what they depend on is held: the results of the fifteen frames next to
    a prompted frame, or to where one of the last six walks began or ended, and of the last 32
    frames that were tracked. Where more would be needed (a walk that begins far from all
    of these, in the middle of frames that were tracked before), the objects are followed from
    their conditioning frames alone, and a prompt on such a frame begins the object there anew
    instead of correcting it. With `keep="all"` nothing is let go, and memory grows with the clip.
    """

    def __init__(
        self,
        frames: Frames,
        core: TrackerCore,
        *,
        keep: Keep = "near",
        add_all_frames_to_correct_as_cond: bool = True,
    ) -> None:
        """`frames` are closed with the clip. `core`: made for as many frames, of any size.

        `add_all_frames_to_correct_as_cond`: a prompt on a frame that was tracked makes it a
        conditioning frame, which later walks keep to. False is sam2's default: such a prompt
        changes what is remembered of the frame until a walk comes by and computes it anew, and
        on a conditioning frame it changes nothing but the masks that are returned.
        """
        self._host = frames
        self._frames = UploadedFrames(frames, core.device)
        self._tracker = ClipTracker(core, self._frames, keep)
        self._core = core
        self._corrections_last = add_all_frames_to_correct_as_cond
        self._objects: dict[int, ClipObject] = {}
        self._cancelled = threading.Event()
        self._walks = 0
        self._closed = False

    @property
    def num_frames(self) -> int:
        """At least 2."""
        return self._host.count

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the pictures, pixels."""
        return self._host.size_hw

    @property
    def fps(self) -> float | None:
        """Pictures a second, where that is known."""
        return self._host.fps

    @property
    def spacing_mm(self) -> tuple[float, float] | None:
        """(y, x) millimetres per pixel, where the clip is calibrated."""
        return self._host.spacing_mm

    @property
    def trouble(self) -> str | None:
        """One line about pictures at the end that cannot be read; None: all is well so far."""
        return self._host.trouble

    @property
    def device(self) -> torch.device:
        """Where pictures and masks are."""
        return self._core.device

    @property
    def obj_ids(self) -> list[int]:
        """In the order in which they were first prompted."""
        return list(self._objects)

    def picture(self, frame_idx: int) -> Tensor:
        """uint8 (3, H, W) on the device: a frame as it is stored.

        Raises `PromptError` for a frame that does not exist, `SourceError` for one that cannot be
        read.
        """
        self._check_open()
        return self._frames.read(self._frame(frame_idx))

    def add_new_points_or_box(
        self,
        frame_idx: int,
        obj_id: int,
        points: Values | None = None,
        labels: Values | None = None,
        clear_old_points: bool = True,
        normalize_coords: bool = True,
        box: Values | None = None,
    ) -> Given:
        """Prompt an object, new or known, on a frame; the masks on this frame, at once.

        `points` (P, 2): x, y; `labels` (P,): 1 on the object, 0 beside it; `box`: x1, y1, x2, y2;
        all in pixels of the picture, or in shares of it, 0..1, where `normalize_coords` is false.
        With `clear_old_points` false the points come after those given on the frame before; a box
        must be the first. A mask given there before is replaced. Every object has its mask in
        the answer, see `result`.

        Raises `PromptError`, and nothing has changed then.
        """
        frame, target = self._aimed(frame_idx, obj_id)
        if box is not None and not clear_old_points:
            raise PromptError(
                "box: comes before all points, so clear_old_points is expected to be true"
            )
        coords, signs = point_arrays(points, labels, box, self.size_hw, normalize_coords)
        core, device = self._core, self.device
        given = Points(
            in_model(uploaded(coords[None], device), self.size_hw, core.image_size),
            uploaded(signs[None], device),
        )
        if not clear_old_points and frame in target.points:
            given = target.points[frame].and_then(given)
        self._tracker.add_points(target, frame, given, self._corrections_last)
        self._objects[target.obj_id] = target
        return self.result(frame).as_tuple()

    def add_new_mask(self, frame_idx: int, obj_id: int, mask: Values) -> Given:
        """The same by a mask, (H, W), of which what is above 0 is the object.

        It is taken as it is, and replaces points given on the frame before.
        """
        frame, target = self._aimed(frame_idx, obj_id)
        inside = mask_array(mask, self.size_hw)
        self._tracker.add_mask(target, frame, inside, self._corrections_last)
        self._objects[target.obj_id] = target
        return self.result(frame).as_tuple()

    def result(self, frame_idx: int) -> ClipFrame:
        """What is held of a frame: masks that were prompted or tracked there; see `known`."""
        self._check_open()
        frame = self._frame(frame_idx)
        if not self._objects:
            raise ClipError("nothing is prompted yet, expected points, a box or a mask first")
        objects = list(self._objects.values())
        found = [target.shown(frame) for target in objects]
        return frame_of(frame, objects, found, self._core, self.size_hw)

    def propagate_in_video(
        self,
        start_frame_idx: int | None = None,
        max_frame_num_to_track: int | None = None,
        reverse: bool = False,
    ) -> Iterator[Given]:
        """`propagate`, as (frame_idx, obj_ids, masks)."""
        walked = self.propagate(start_frame_idx, max_frame_num_to_track, reverse)
        return (found.as_tuple() for found in walked)

    def propagate(
        self,
        start_frame_idx: int | None = None,
        max_frame_num_to_track: int | None = None,
        reverse: bool = False,
    ) -> Iterator[ClipFrame]:
        """Follow all objects from a frame on, one frame at a time, as fast as asked.

        `start_frame_idx`: the first prompted frame where None; `max_frame_num_to_track`: frames
        after that one, all where None; `reverse`: towards the first frame of the clip, which
        from frame 0 gives nothing. What a frame gave counts for later walks before it is handed
        out, so a walk may be left at any time, and another goes on from there.

        Raises `ClipError` where nothing is prompted, `PromptError` for a frame that does not
        exist and for an object of which every prompt lies beyond the end of the walk; while it
        is walked, `SourceError` where pictures cannot be read, after those before them (also at
        the end of a clip whose rest is missing), and `ClipError` where the clip was closed or
        another walk began.
        """
        walk = self._planned(start_frame_idx, max_frame_num_to_track, reverse)
        self._cancelled.clear()
        self._walks += 1
        if walk is None:
            return iter(())
        objects = list(self._objects.values())
        return self._walked(objects, walk, self._walks)

    def remove_object(
        self, obj_id: int, strict: bool = False, need_output: bool = True
    ) -> tuple[list[int], list[tuple[int, Tensor]]]:
        """Forget an object; the others stay as they are.

        Returns the ids that are left and, where `need_output`, (frame_idx, masks) of each frame
        on which the object was prompted. `strict`: raise `PromptError` for an unknown id.
        """
        self._check_open()
        target = self._objects.pop(object_id(obj_id), None)
        if target is None:
            if strict:
                raise PromptError(f"obj_id: {obj_id} is unknown, expected one of {self.obj_ids}")
            return self.obj_ids, []
        self._walks += 1
        if not self._objects:
            self.reset_state()
            return [], []
        frames = sorted(target.prompted) if need_output else []
        return self.obj_ids, [(frame, self.result(frame).masks()) for frame in frames]

    def reset_state(self) -> None:
        """Forget all objects, prompts and results."""
        self._check_open()
        self._walks += 1
        self._objects.clear()
        self._tracker.clear()

    def cancel(self) -> None:
        """From any thread: a walk that is under way ends after the frame that is computed now."""
        self._cancelled.set()

    def close(self) -> None:
        """Release the pictures and all results; may be called more than once."""
        if not self._closed:
            self._closed = True
            self._objects.clear()
            self._tracker.clear()
            self._frames.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _walked(self, objects: list[ClipObject], walk: Walk, number: int) -> Iterator[ClipFrame]:
        self._check_turn(number)
        tracker, reached = self._tracker, None
        rows = tracker.begin(objects, walk)
        try:
            for frame in walk.frames:
                self._check_turn(number)
                if self._cancelled.is_set():
                    return
                tracker.step(objects, frame, walk.direction, rows.get(frame))
                reached = frame
                found = [target.settled(frame) for target in objects]
                yield frame_of(frame, objects, found, self._core, self.size_hw)
        finally:
            if reached is not None:
                tracker.finish(reached)
        if walk.direction == 1 and walk.end == self.num_frames - 1 and self.trouble is not None:
            raise SourceError(self.trouble)

    def _planned(self, start: int | None, most: int | None, reverse: bool) -> Walk | None:
        self._check_open()
        if not self._objects:
            raise ClipError("nothing is prompted yet, expected points, a box or a mask first")
        for target in self._objects.values():
            target.settle()
        prompted = {o.obj_id: sorted(o.conditioning) for o in self._objects.values()}
        if start is None:
            first = min(frames[0] for frames in prompted.values())
        else:
            first = self._frame(start, "start_frame_idx")
        steps = self.num_frames
        if most is not None:
            steps = whole_number(most, "max_frame_num_to_track", 0, 2**31)
        if reverse:
            walk = Walk(first, max(first - steps, 0), -1)
        else:
            walk = Walk(first, min(first + steps, self.num_frames - 1), 1)
        for obj_id, frames in prompted.items():
            ahead = frames[0] if walk.direction == 1 else frames[-1]
            if (ahead - walk.end) * walk.direction > 0:
                raise PromptError(
                    f"object {obj_id} is prompted on frame {ahead} at the nearest, after the range "
                    f"from {walk.start} to {walk.end}, expected a prompt in it or before it"
                )
        return None if reverse and first == 0 else walk

    def _aimed(self, frame_idx: int, obj_id: int) -> tuple[int, ClipObject]:
        self._check_open()
        frame, name = self._frame(frame_idx), object_id(obj_id)
        return frame, self._objects.get(name) or ClipObject(name)

    def _frame(self, frame_idx: int, name: str = "frame_idx") -> int:
        return whole_number(frame_idx, name, 0, self.num_frames - 1)

    def _check_open(self) -> None:
        if self._closed:
            raise ClipError("the clip is closed, expected an open one")

    def _check_turn(self, number: int) -> None:
        self._check_open()
        if number != self._walks:
            raise ClipError("another walk began, or an object was removed, since this one began")
