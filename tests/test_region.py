"""A region of interest: only its pixels are taken in, and nothing else can be told from outside."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from pipeline.audit import residency_guard
from pipeline.film import Film
from pipeline.preview import Preview
from pipeline.quality import QualityCheck
from stages.as_numpy import AsNumpy
from stages.base import Picture, Source
from stages.errors import SourceError
from stages.grab import Grab
from stages.pack import Pack
from stages.pack_numpy import PackNumpy
from stages.packets import HostPacket
from stages.records import Frame
from stages.segmenters.live_prompts import Prompt, PromptQueue
from stages.segmenters.prompts import PromptConfig, group_prompts
from stages.segmenters.sam2_image import Sam2ImageConfig, Sam2ImageSegmenter
from stages.sources.dicom import DicomConfig, DicomSource
from stages.sources.phantom import PhantomConfig, PhantomSource
from stages.sources.region import Region, window_in
from stages.sources.video import VideoConfig, VideoSource
from stages.to_host import ToHost
from stages.window import Window, whole
from stages.wire import ResultMessage, decode, encode_result
from tests import tiny_stream
from tests.tiny_sam2 import blobs, detections, frame, tracks, write_model

CPU = torch.device("cpu")
FULL = (120, 160)
WINDOW = Window((90, 131), (13, 21), FULL)
REGION = Region(y=13, x=21, height=90, width=131)


def fresh(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.full(shape, 77, np.uint8)


class TestWindow:
    def test_cut_and_place_are_each_others_inverse(self) -> None:
        picture = np.random.default_rng(0).integers(1, 255, (*FULL, 3), np.uint8)
        inside = WINDOW.cut(picture)
        assert inside.shape == (90, 131, 3)
        assert np.array_equal(inside[0, 0], picture[13, 21])
        placed = WINDOW.place(inside)
        assert np.array_equal(WINDOW.cut(placed), inside)
        assert np.count_nonzero(placed) == inside.size
        assert whole(FULL).place(picture) is picture

    @pytest.mark.parametrize(
        ("size", "origin"), [((0, 5), (0, 0)), ((5, 5), (-1, 0)), ((120, 160), (1, 0))]
    )
    def test_one_beyond_the_picture_is_none(self, size: Any, origin: Any) -> None:
        with pytest.raises(ValueError, match="does not lie in the picture"):
            Window(size, origin, FULL)


@pytest.mark.parametrize("key", ["y", "x", "height", "width"])
@pytest.mark.parametrize("value", [-1, 1 << 16, 1.5, "5", True, None])
def test_what_is_no_region(key: str, value: object) -> None:
    with pytest.raises(ValidationError, match=key):
        Region(**{**REGION.model_dump(), key: value})
    with pytest.raises(ValidationError, match="height"):
        Region(y=0, x=0, height=0, width=4)


def video(folder: Path) -> Callable[..., Source]:
    path = folder / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width = FULL
        stream.pix_fmt = "bgr0"
        picture = np.random.default_rng(1).integers(0, 255, (*FULL, 3), np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return lambda **c: VideoSource(VideoConfig(path=str(path), realtime=False, **c))


def dicom(folder: Path) -> Callable[..., Source]:
    example = "pydicom:ybr_color"
    return lambda **c: DicomSource(DicomConfig(path=example, realtime=False, **c))


def phantom(folder: Path) -> Callable[..., Source]:
    return lambda **c: PhantomSource(PhantomConfig(size_hw=FULL, fps=None, seed=3, **c))


def phantom_ahead(folder: Path) -> Callable[..., Source]:
    return lambda **c: PhantomSource(PhantomConfig(size_hw=FULL, fps=None, seed=3, ahead=2, **c))


@pytest.mark.parametrize("kind", [video, dicom, phantom, phantom_ahead])
class TestEverySource:
    def test_only_the_region_is_written(
        self, kind: Callable[[Path], Callable[..., Source]], tmp_path: Path
    ) -> None:
        make = kind(tmp_path)
        whole_picture, part = make().read(fresh), make(roi=REGION)
        assert whole_picture is not None
        assert part.size_hw == (90, 131)
        asked: list[NDArray[np.uint8]] = []

        def buffer(shape: tuple[int, ...]) -> NDArray[np.uint8]:
            asked.append(fresh(shape))
            return asked[-1]

        picture = part.read(buffer)
        assert picture is not None
        assert picture.pixels is asked[0]
        assert picture.pixels.shape[:2] == (90, 131)
        assert (picture.origin_yx, picture.full_hw) == ((13, 21), whole_picture.pixels.shape[:2])
        assert np.array_equal(picture.pixels, whole_picture.pixels[13:103, 21:152])

    def test_a_region_that_does_not_fit_is_one_line(
        self, kind: Callable[[Path], Callable[..., Source]], tmp_path: Path
    ) -> None:
        with pytest.raises(SourceError, match=r"roi reaches to row 9013 .* expected a region of"):
            kind(tmp_path)(roi=REGION.model_copy(update={"height": 9000}))

    def test_spacing_can_be_configured(
        self, kind: Callable[[Path], Callable[..., Source]], tmp_path: Path
    ) -> None:
        picture = kind(tmp_path)(spacing_mm=(0.25, 0.5)).read(fresh)
        assert picture is not None
        assert picture.spacing_mm == (0.25, 0.5)


def test_a_video_that_shrinks_below_its_region_ends_there(tmp_path: Path) -> None:
    path = tmp_path / "clip.mjpeg.avi"
    first = tmp_path / "a.avi"
    sizes = {first: (120, 160), path: (64, 64)}
    for file, size in sizes.items():
        with av.open(str(file), "w", format="avi") as container:
            stream = container.add_stream("mjpeg", rate=25)
            stream.height, stream.width = size
            stream.pix_fmt = "yuvj420p"
            grey = av.VideoFrame.from_ndarray(np.zeros((*size, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(grey))
            container.mux(stream.encode())
    source = VideoSource(VideoConfig(path=str(first), realtime=False, loop=True, roi=REGION))
    assert source.read(fresh) is not None
    first.write_bytes(path.read_bytes())
    with pytest.raises(SourceError, match="roi reaches to row 103 and column 152"):
        source.read(fresh)


class Still:
    """The same picture for ever."""

    source_id, size_hw = "still", WINDOW.size_hw

    def read(self, buffer: Any) -> Picture:
        pixels = buffer((*self.size_hw, 3))
        return Picture(pixels, 0, 1, origin_yx=WINDOW.origin_yx, full_hw=FULL)

    def close(self) -> None:
        pass


def test_grab_uploads_the_region_and_says_where_it_lies() -> None:
    grab = Grab(Still(), CPU, frames=1)
    grab.start()
    try:
        got = grab.get(5.0)
        assert got is not None
        assert (got.size_hw, got.window) == ((90, 131), WINDOW)
        assert grab.copies[0].copied_bytes == 90 * 131 * 3
    finally:
        grab.stop()


def both_chains(of: Frame) -> list[HostPacket]:
    made_from = tracks(of, blobs(4, 16), [True, False, True, True])
    resident = ToHost(CPU).submit(Pack(0.0).pack(made_from), masks=True).host_packet()
    return [resident, PackNumpy().pack(AsNumpy(0.0).exit(made_from))]


def in_region(of: Frame) -> Frame:
    return replace(of, origin_yx=WINDOW.origin_yx, full_hw=FULL)


def test_results_are_those_of_the_region_moved_to_its_place() -> None:
    for plain, moved in zip(both_chains(frame()), both_chains(in_region(frame())), strict=True):
        assert (plain.info.size_hw, moved.info.size_hw) == ((90, 131), FULL)
        assert plain.masks is not None
        assert moved.masks is not None
        assert moved.masks.shape == plain.masks.shape  # in memory, as large as the region
        assert np.array_equal(moved.area_px, plain.area_px)
        shift = np.array([21, 13, 21, 13])
        assert np.array_equal(moved.mask_boxes_xyxy, plain.mask_boxes_xyxy + shift)
        assert np.allclose(moved.centroids_xy, plain.centroids_xy + shift[:2])
        message = decode(encode_result(moved, 0))
        assert isinstance(message, ResultMessage)
        assert message.size_hw == FULL
        for row, item in enumerate(message.objects):
            expected = WINDOW.place(plain.mask(row))
            assert expected.any()
            assert np.array_equal(moved.mask(row), expected)
            assert np.array_equal(message.mask(row), expected)
            x1, y1, x2, y2 = item.box
            assert expected[y1:y2, x1:x2].sum() == item.area_px


def test_an_empty_mask_has_no_place() -> None:
    made_from = tracks(in_region(frame()), torch.full((2, 16, 16), -5.0))
    packet = ToHost(CPU).submit(Pack(0.0).pack(made_from), masks=True).host_packet()
    assert packet.mask_boxes_xyxy.tolist() == [[0] * 4] * 2
    assert packet.centroids_xy.tolist() == [[0, 0]] * 2
    message = decode(encode_result(packet, 0))
    assert isinstance(message, ResultMessage)
    assert not message.masks().any()


def test_a_region_costs_no_copy_and_no_wait() -> None:
    made_from = tracks(in_region(frame()), blobs(4, 16))
    pack = Pack(0.0)
    with torch.inference_mode(), residency_guard():
        pack.pack(made_from)


def on_region(**shape: Any) -> Prompt | None:
    """What the tracker is given of a prompt, which must be usable."""
    queue = PromptQueue()
    queue.enter(0, WINDOW)
    ticket = queue.put(Prompt("add", **shape))
    taken = queue.take(0)
    assert ticket.outcome.done() is (not taken)
    return taken[0].prompt if taken else None


class TestPrompts:
    def test_they_are_moved_into_the_region(self) -> None:
        box, points = on_region(box=(30, 20, 60, 50)), on_region(points=((30, 20),), labels=(1,))
        mask = np.zeros(FULL, np.bool_)
        mask[20:50, 30:60] = True
        drawn = on_region(mask=mask)
        assert box is not None
        assert points is not None
        assert drawn is not None
        assert box.box == (9, 7, 39, 37)
        assert points.points == ((9, 7),)
        assert np.array_equal(drawn.mask, mask[13:103, 21:152])  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("shape", "reason"),
        [
            ({"box": (0, 0, 21, 13)}, "outside"),
            ({"box": (152, 0, 160, 120)}, "outside"),
            ({"points": ((20, 50),), "labels": (1,)}, "outside"),
            ({"points": ((30, 50), (30, 104)), "labels": (1, 0)}, "outside"),
            ({"mask": np.eye(*FULL, k=150, dtype=np.bool_)}, "outside"),
            ({"mask": np.ones(WINDOW.size_hw, np.bool_)}, "bad_mask"),
            ({"mask": np.zeros(FULL, np.bool_)}, "bad_mask"),
        ],
    )
    def test_one_beside_the_region_is_refused(self, shape: dict[str, Any], reason: str) -> None:
        queue = PromptQueue()
        queue.enter(0, WINDOW)
        assert queue.put(Prompt("add", **shape)).outcome.result(0).reason == reason
        if "mask" in shape or reason != "outside":
            return
        queue.enter(1, whole(FULL))
        assert not queue.put(Prompt("add", **shape)).outcome.done()

    def test_configured_ones_too(self) -> None:
        box, clicks = (30.0, 20.0, 60.0, 50.0), ((25.0, 15.0), (90.0, 60.0))
        prompts = (PromptConfig(box=box), PromptConfig(points=clicks, labels=(1, 0)))
        group = group_prompts(prompts, CPU)[0]
        assert group.coords_in(WINDOW)[0].tolist() == [[9, 7], [39, 37]]
        assert group.coords_in(whole(FULL)).tolist() == group.coords.tolist()
        assert all(prompt.inside(WINDOW) for prompt in prompts)
        assert not PromptConfig(points=((20, 50),), labels=(1,)).inside(WINDOW)
        assert not PromptConfig(box=(0, 0, 21, 13)).inside(WINDOW)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_model(tmp_path_factory.mktemp("model"))


class TestSegmenters:
    """The same pixels as a whole picture, and as a region with prompts in the full one."""

    BOX = (20.0, 20.0, 70.0, 60.0)
    MOVED = (41.0, 33.0, 91.0, 73.0)

    def test_a_tracker_prompted_in_full_frame_coordinates(
        self, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = []
        for place, box, click in (
            (lambda of: of, self.BOX, (40.0, 40.0)),
            (in_region, self.MOVED, (61.0, 53.0)),
        ):
            monkeypatch.setattr(
                tiny_stream, "frame", lambda place=place, **more: place(frame(**more))
            )
            stream = tiny_stream.Stream(files, prompts=(PromptConfig(box=box),))
            stream.step()
            stream.answered(Prompt("correct", object_id=0, points=(click,), labels=(1,)))
            stream.answered(Prompt("add", box=box))
            found.append(stream.step())
        plain, moved = found
        assert plain.object_ids.tolist() == moved.object_ids.tolist() == [0, 1]
        assert np.array_equal(plain.masks, moved.masks)  # type: ignore[arg-type]
        for row in range(2):
            assert np.array_equal(WINDOW.place(plain.mask(row)), moved.mask(row))
            assert plain.mask(row).any()

    def test_pictures_afresh(self, files: tuple[Path, Path]) -> None:
        def segmented(of: Frame, box: tuple[float, ...]) -> torch.Tensor:
            config = Sam2ImageConfig(
                model=str(files[0]), checkpoint=files[1], max_objects=2,
                prompts=(PromptConfig(box=box),),
            )  # fmt: skip
            segmenter = Sam2ImageSegmenter(config, CPU)
            looked = detections(of, [])
            with residency_guard():
                found = segmenter.segment(looked)
            assert bool(found.valid[0])
            return found.logits

        plain = segmented(frame(), self.BOX)
        assert torch.equal(plain, segmented(in_region(frame()), self.MOVED))
        assert not torch.equal(plain, segmented(in_region(frame()), self.BOX)), "the control"


def test_the_truth_of_a_region_is_what_can_be_seen_in_it() -> None:
    size = (240, 320)
    region = Region(y=40, x=60, height=150, width=170)
    every, part = (
        PhantomSource(PhantomConfig(size_hw=size, fps=None, seed=5, ahead=2, roi=roi))
        for roi in (None, region)
    )
    cut = changed = 0
    for index in range(0, 90, 30):
        full, seen = every.truth(index), part.truth(index)
        inside = np.zeros(size, np.bool_)
        inside[40:190, 60:230] = True
        for row, object_id in enumerate(full.object_ids):
            visible = full.masks[row] & inside
            rows = np.flatnonzero(seen.object_ids == object_id)
            assert len(rows) == int(visible.any())
            if len(rows):
                assert np.array_equal(seen.masks[rows[0]], visible)
                changed += bool(full.counted[row] and not seen.counted[rows[0]])
            cut += int((visible != full.masks[row]).any())
    assert cut
    assert changed


def test_the_truth_check_compares_in_one_frame_of_reference() -> None:
    """The truth itself, as a result of the region; and the same with its place forgotten."""
    size, region = (240, 320), Region(y=40, x=60, height=150, width=170)
    source = PhantomSource(PhantomConfig(size_hw=size, fps=None, seed=5, roi=region))
    window = window_in(region, size, "s")
    truth = source.truth(30)
    inside = np.array([window.cut(mask) for mask in truth.masks])
    some = np.arange(len(inside))
    whole_packet = both_chains(in_region(frame()))[0]
    fields = {
        field.name: np.zeros(len(inside), getattr(whole_packet, field.name).dtype)
        for field in dataclasses.fields(HostPacket)
        if field.name not in ("info", "masks", "logits", "feedback", "ring", "names")
    }
    packet = HostPacket(
        **{
            **fields,
            "info": replace(whole_packet.info, frame_id=30, size_hw=size, region=window),
            "object_ids": some,
            "class_ids": truth.class_ids,
            "masks": np.packbits(inside, axis=-1),
        }
    )
    elsewhere = replace(window, origin_yx=(0, 0))
    forgotten = replace(packet, info=replace(packet.info, region=elsewhere))
    found = []
    for result in (packet, forgotten):
        check = QualityCheck(source, source.class_names)
        check.write(result)
        found.append(check.summary()["mean_iou"])
    assert found[0] == 1.0
    assert isinstance(found[1], float)
    assert found[1] < 0.5


def test_preview_and_film_show_the_region_with_its_masks(tmp_path: Path) -> None:
    black = torch.zeros(3, *WINDOW.size_hw, dtype=torch.uint8)
    of = Frame(black, "s", 0, 0, 0, 0, origin_yx=WINDOW.origin_yx, full_hw=FULL)
    packet = both_chains(of)[0]
    packet = replace(packet, class_ids=np.zeros_like(packet.class_ids))
    preview, film = Preview(tmp_path / "p.png", 1, ("a",)), Film(tmp_path / "p.mp4", 4, ("a",))
    for tap in (preview, film):
        for frame_id in range(2):
            tap.offer(replace(of, frame_id=frame_id))
            tap.write(replace(packet, info=replace(packet.info, frame_id=frame_id)))
        tap.close()
    drawn = np.asarray(Image.open(tmp_path / "p.png"))
    assert drawn.shape == (90, 131, 3)
    anyone = np.any([WINDOW.cut(packet.mask(row)) for row in range(3)], axis=0)
    assert drawn[anyone].any(axis=-1).mean() > 0.99
    with av.open(str(tmp_path / "p.mp4")) as container:
        assert (container.streams.video[0].height, container.streams.video[0].width) == (44, 64)
