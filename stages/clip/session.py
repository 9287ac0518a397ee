"""A clip that objects are tracked through: `Clip`, with the words of sam2's own predictor."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from torch import Tensor

from stages.clip.frames import Frames
from stages.clip.objects import ClipObject, Points
from stages.clip.outputs import Keep
from stages.clip.pictures import ClipPictures
from stages.clip.prompts import Values, mask_array, object_id, point_arrays, uploaded
from stages.clip.records import ClipFrame
from stages.clip.shown import frame_of
from stages.clip.tracker import ClipTracker
from stages.clip.walk import Walk, plan_walk
from stages.errors import ClipError, PromptError, SourceError
from stages.segmenters.model_pixels import in_model
from stages.segmenters.prompts import BOX_CORNERS
from stages.segmenters.tracker_core import TrackerCore

Given = tuple[int, list[int], Tensor]
"""(frame_idx, obj_ids, masks): masks float32 (N, 1, H, W), logits on the clip's device."""


class Clip(ClipPictures):
    """Prompts on any frame, for any number of objects, and their masks on all others.

    Used by one thread, but for `cancel`. Everything that is computed stays on the device, in
    memory that does not depend on the length of the clip.

    The masks are those of `SAM2VideoPredictor` without hole filling, whose conditioning frames are
    all prompted ones: in both directions, one after the other, from the same start. So they are
    after further prompts and walks, where a walk begins, or a prompt corrects, on a conditioning
    frame, on the first or last frame of one of the last six walks or next to it, or on one of the
    last sixteen frames that were tracked: around these, earlier results are held. Elsewhere amid
    frames that were tracked before, a walk begins with the conditioning frames and what little
    else is held, and a prompt begins the object anew instead of correcting it. With `keep="all"`
    nothing is let go, all is as in sam2's predictor, and memory grows with the clip.
    """

    def __init__(
        self,
        frames: Frames,
        core: TrackerCore,
        *,
        keep: Keep = "near",
        add_all_frames_to_correct_as_cond: bool = True,
    ) -> None:
        """`frames` are closed with the clip; `core` is made for as many of them.

        `add_all_frames_to_correct_as_cond`: a prompt on a frame that was tracked makes it a
        conditioning frame, which later walks keep to. False is sam2's default: such a prompt
        changes what is remembered of the frame until a walk comes by and computes it anew, and
        on a conditioning frame it changes nothing but the masks that are returned.
        """
        super().__init__(frames, core.device)
        self._core = core
        self._tracker = ClipTracker(core, self._uploaded, keep)
        self._correct_as_cond = add_all_frames_to_correct_as_cond
        self._objects: dict[int, ClipObject] = {}
        self._cancelled = threading.Event()
        self._turn = 0

    @property
    def obj_ids(self) -> list[int]:
        """In the order in which they were first prompted."""
        return list(self._objects)

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
        must be the first. A mask given there before is replaced. An object has at most 64 points on
        a frame. A walk that is under way ends; the prompt counts from the next one on. The answer
        has a mask of every object, see `result`.

        Raises `PromptError`, and nothing has changed then.
        """
        frame, target = self._aimed(frame_idx, obj_id)
        if box is not None and not clear_old_points:
            raise PromptError(
                "box: comes before all points, so clear_old_points is expected to be true"
            )
        coords, signs = point_arrays(points, labels, box, self.size_hw, normalize_coords)
        at = in_model(uploaded(coords[None], self.device), self.size_hw, self._core.image_size)
        clicks = len(signs) if box is None else len(signs) - len(BOX_CORNERS)
        given = Points(at, uploaded(signs[None], self.device), clicks)
        if not clear_old_points and frame in target.points:
            given = target.points[frame].and_then(given)
        self._turn += 1
        self._tracker.add_points(target, frame, given, self._correct_as_cond)
        return self._answer(frame, target)

    def add_new_mask(self, frame_idx: int, obj_id: int, mask: Values) -> Given:
        """The same by a mask, (H, W), of which what is above 0 is the object.

        It is taken as it is, and replaces points given on the frame before.
        """
        frame, target = self._aimed(frame_idx, obj_id)
        inside = mask_array(mask, self.size_hw)
        self._turn += 1
        self._tracker.add_mask(target, frame, inside, self._correct_as_cond)
        return self._answer(frame, target)

    def result(self, frame_idx: int) -> ClipFrame:
        """What is held of a frame: masks that were prompted or tracked there; see `known`.

        Raises `PromptError` for a frame that does not exist, `ClipError` where nothing is
        prompted.
        """
        self._check_open()
        frame, objects = self._frame(frame_idx), list(self._objects.values())
        if not objects:
            raise ClipError("nothing is prompted yet, expected points, a box or a mask first")
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
        exist, and for an object that was never tracked and of which every prompt lies beyond the
        end of the walk. While it is walked: `SourceError` where a picture cannot be read, after
        those before it (also at the end of a clip whose rest is missing), and `ClipError` once
        the clip is closed, another walk has begun or a prompt has come.
        """
        self._check_open()
        objects = list(self._objects.values())
        for target in objects:
            target.settle()
        walk = plan_walk(objects, self.num_frames, start_frame_idx, max_frame_num_to_track, reverse)
        self._cancelled.clear()
        self._turn += 1
        return iter(()) if walk is None else self._walked(objects, walk, self._turn)

    def remove_object(
        self, obj_id: int, strict: bool = False, need_output: bool = True
    ) -> tuple[list[int], list[tuple[int, Tensor]]]:
        """Forget an object; the others stay as they are, and a walk that is under way ends.

        Returns the ids that are left and, where `need_output`, (frame_idx, masks) of each frame
        on which the object was prompted. `strict`: raise `PromptError` for an unknown id.
        """
        self._check_open()
        target = self._objects.pop(object_id(obj_id), None)
        if target is None and strict:
            raise PromptError(f"obj_id: {obj_id} is unknown, expected one of {self.obj_ids}")
        if target is None:
            return self.obj_ids, []
        self._turn += 1
        if not self._objects:
            self.reset_state()
            return [], []
        frames = sorted(target.prompted) if need_output else []
        return self.obj_ids, [(frame, self.result(frame).masks()) for frame in frames]

    def reset_state(self) -> None:
        """Forget all objects, prompts and results."""
        self._check_open()
        self._turn += 1
        self._objects.clear()
        self._tracker.clear()

    def cancel(self) -> None:
        """From any thread: a walk that is under way ends after the frame that is computed now."""
        self._cancelled.set()

    def close(self) -> None:
        """Release the pictures and all results; may be called more than once."""
        self._objects.clear()
        self._tracker.clear()
        super().close()

    def _walked(self, objects: Sequence[ClipObject], walk: Walk, turn: int) -> Iterator[ClipFrame]:
        self._check_turn(turn)
        rows = self._tracker.begin(objects, walk)
        for frame in walk.frames:
            self._check_turn(turn)
            if self._cancelled.is_set():
                return
            self._tracker.step(objects, frame, walk.direction, rows.get(frame))
            found = [target.settled(frame) for target in objects]
            yield frame_of(frame, objects, found, self._core, self.size_hw)
        if walk.direction == 1 and walk.end == self.num_frames - 1 and self.trouble is not None:
            raise SourceError(self.trouble)

    def _aimed(self, frame_idx: int, obj_id: int) -> tuple[int, ClipObject]:
        self._check_open()
        frame, name = self._frame(frame_idx), object_id(obj_id)
        return frame, self._objects.get(name) or ClipObject(name)

    def _answer(self, frame: int, target: ClipObject) -> Given:
        self._objects[target.obj_id] = target
        return self.result(frame).as_tuple()

    def _check_turn(self, turn: int) -> None:
        self._check_open()
        if turn != self._turn:
            raise ClipError(
                "the walk is over: a prompt came, or another walk began, since it began"
            )
