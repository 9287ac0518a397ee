"""The image segmenter: parity with sam2's own predictor, slots, ids, prompts, residency."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from sam2.sam2_image_predictor import SAM2ImagePredictor
from torch import Tensor, nn

from kpi.events import ObjectRefused
from pipeline.audit import residency_guard
from pipeline.fake_cuda import fake_cuda
from stages.as_numpy import AsNumpy
from stages.errors import ConfigError, ResidencyError
from stages.pack import Pack
from stages.records import Frame, Tracks
from stages.segmenters import sam2_image
from stages.segmenters.prompts import PromptConfig
from stages.segmenters.sam2_checkpoint import build_sam2, build_structure
from stages.segmenters.sam2_image import Sam2ImageConfig, Sam2ImageSegmenter
from stages.segmenters.sam2_network import Sam2Network
from tests.tiny_sam2 import (
    FRAME_HW,
    SIZE,
    detections,
    frame,
    listening,
    tiny_structure,
    write_model,
    write_structure,
)

CPU = torch.device("cpu")
BUILT_ONCE = functools.cache(build_sam2)
FIRST_PROMPT_CLASS = 7
TOLERANCE = 1e-4
BOXES = [[5.0, 6.0, 60.0, 50.0], [20.5, 30.0, 131.0, 90.0], [0.0, 0.0, 131.0, 90.0]]
CLICK = PromptConfig(points=((40.0, 30.0),), labels=(1,))
CLICKS = PromptConfig(points=((40.0, 30.0), (100.0, 80.0), (10.0, 5.0)), labels=(1, 0, 1))
BOX = PromptConfig(name="box", box=(30.0, 10.0, 90.0, 70.0))
PAIR = PromptConfig(points=((70.0, 60.0), (20.0, 20.0)), labels=(1, 0))
OUTSIDE = PromptConfig(box=(140.0, 10.0, 150.0, 20.0))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_model(tmp_path_factory.mktemp("sam2"))


@pytest.fixture(scope="module")
def model(files: tuple[Path, Path]) -> nn.Module:
    return build_sam2(str(files[0]), files[1], None, CPU)


@pytest.fixture(scope="module")
def official(model: nn.Module) -> SAM2ImagePredictor:
    return official_predictor(model)


def official_predictor(model: nn.Module) -> SAM2ImagePredictor:
    """Unmodified but for the feature sizes, which it hard-codes for 1024 pixels."""
    predictor = SAM2ImagePredictor(model)
    predictor._bb_feat_sizes = [(SIZE // stride, SIZE // stride) for stride in (4, 8, 16)]
    return predictor


@pytest.fixture(autouse=True)
def _build_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The segmenter leaves its model as it is, so that all may share one."""
    monkeypatch.setattr(sam2_image, "build_sam2", BUILT_ONCE)


@pytest.fixture
def segmenter(files: tuple[Path, Path]) -> Sam2ImageSegmenter:
    return make(files)


def make(
    files: tuple[Path, Path], *prompts: PromptConfig, max_objects: int = 4, device: str = "cpu"
) -> Sam2ImageSegmenter:
    config = Sam2ImageConfig(
        model=str(files[0]), checkpoint=files[1], max_objects=max_objects, prompts=prompts
    )
    return Sam2ImageSegmenter(config, torch.device(device), FIRST_PROMPT_CLASS)


def reference(predictor: SAM2ImagePredictor, of: Frame, prompt: PromptConfig) -> tuple[Any, float]:
    """Logits (h, w) and predicted IoU as someone who calls the official predictor gets them."""
    predictor.set_image(of.rgb.permute(1, 2, 0).numpy())
    lone = prompt.points is not None and len(prompt.points) == 1
    _, quality, logits = predictor.predict(
        box=None if prompt.box is None else np.array(prompt.box),
        point_coords=None if prompt.points is None else np.array(prompt.points),
        point_labels=None if prompt.labels is None else np.array(prompt.labels),
        multimask_output=lone,
    )
    best = int(quality.argmax())
    return logits[best], float(quality[best])


def clamped(logits: Tensor) -> Any:
    """The official predictor returns logits clamped; masks it makes from unclamped ones."""
    return logits.clamp(-32, 32).numpy()


class TestParity:
    @pytest.mark.parametrize("size_hw", [FRAME_HW, (64, 64), (48, 200), (300, 31)])
    @pytest.mark.parametrize("grey", [False, True])
    def test_boxes(
        self,
        segmenter: Sam2ImageSegmenter,
        official: SAM2ImagePredictor,
        size_hw: tuple[int, int],
        grey: bool,
    ) -> None:
        of = frame(size_hw, grey=grey, seed=1)
        scale = [size_hw[1] / 131, size_hw[0] / 90] * 2
        boxes = [[v * s for v, s in zip(box, scale, strict=True)] for box in BOXES]
        result = segmenter.segment(detections(of, boxes))
        for row, box in enumerate(boxes):
            logits, quality = reference(official, of, PromptConfig(box=tuple(box)))
            assert logits.std() > 0.5
            assert np.abs(clamped(result.logits[row]) - logits).max() < TOLERANCE
            assert abs(float(result.quality[row]) - quality) < TOLERANCE

    def test_prompts_of_every_kind_at_once(
        self, files: tuple[Path, Path], official: SAM2ImagePredictor
    ) -> None:
        of, prompts = frame(seed=2), (CLICKS, PAIR, CLICK, BOX, CLICK)
        result = make(files, *prompts, max_objects=8).segment(detections(of, BOXES[:2]))
        wanted = (*prompts, *(PromptConfig(box=tuple(box)) for box in BOXES[:2]))
        for row, prompt in enumerate(wanted):
            logits, quality = reference(official, of, prompt)
            assert np.abs(clamped(result.logits[row]) - logits).max() < TOLERANCE, prompt
            assert abs(float(result.quality[row]) - quality) < TOLERANCE, prompt
        assert result.valid.tolist() == [True] * 7 + [False]

    def test_only_a_lone_click_gives_the_best_of_three_masks(self, tmp_path: Path) -> None:
        """Without the stability fallback, which would often pick that mask anyway."""
        files, of, prompts = write_model(tmp_path, stability=False), frame(seed=2), (CLICK, BOX)
        predictor = official_predictor(build_sam2(str(files[0]), files[1], None, CPU))
        result = make(files, *prompts).segment(detections(of, []))
        for row, prompt in enumerate(prompts):
            logits, _ = reference(predictor, of, prompt)
            assert np.abs(clamped(result.logits[row]) - logits).max() < TOLERANCE
        _, _, single = predictor.predict(np.array(CLICK.points), np.array([1]), None, None, False)
        assert np.abs(clamped(result.logits[0]) - single[0]).max() > 0.1

    def test_masks_at_frame_size(
        self, segmenter: Sam2ImageSegmenter, official: SAM2ImagePredictor
    ) -> None:
        of = frame(seed=3)
        packet = Pack(0.0).pack(segmenter.segment(detections(of, BOXES)))
        official.set_image(of.rgb.permute(1, 2, 0).numpy())
        for row, box in enumerate(BOXES):
            masks, _, _ = official.predict(box=np.array(box), multimask_output=False)
            ours = np.unpackbits(packet.masks[row].numpy(), axis=-1, count=FRAME_HW[1])
            assert 0.02 < masks[0].mean() < 0.98
            assert (ours != masks[0]).sum() <= 1

    def test_the_comparison_notices_another_prompt(self, official: SAM2ImagePredictor) -> None:
        of = frame(seed=4)
        first, _ = reference(official, of, PromptConfig(box=(5.0, 6.0, 60.0, 50.0)))
        moved, _ = reference(official, of, PromptConfig(box=(5.5, 6.0, 60.0, 50.0)))
        assert np.abs(first - moved).max() > 10 * TOLERANCE

    def test_the_model_given_is_left_as_it_was(self, model: nn.Module) -> None:
        encoder = model.get_submodule("image_encoder")
        before = dict(encoder.named_modules())
        Sam2Network(model).encode(frame().rgb)
        assert dict(encoder.named_modules()) == before
        assert "_get_pos_embed" not in vars(encoder.get_submodule("trunk"))


class TestSlots:
    def test_prompts_come_first_then_detections_then_nothing(
        self, files: tuple[Path, Path]
    ) -> None:
        segmenter = make(files, BOX, CLICK, max_objects=6)
        result = segmenter.segment(detections(frame(), BOXES, [True, False, True]))
        assert result.valid.tolist() == [True, True, True, False, True, False]
        assert result.class_ids.tolist() == [7, 8, 0, 1, 2, -1]
        np.testing.assert_allclose(result.scores, [1, 1, 0.9, 0.7, 0.5, 0], atol=1e-6)
        assert result.age_frames.tolist() == [0] * 6
        assert result.logits.shape == (6, SIZE // 4, SIZE // 4)
        assert (result.logits[[3, 5]] == -1024).all()
        assert (result.logits[[0, 1, 2, 4]] > -1024).all()
        assert result.object_ids.tolist() == [0, 1, 2, -1, 3, -1]

    def test_a_row_does_not_depend_on_the_others(self, segmenter: Sam2ImageSegmenter) -> None:
        of = frame()
        together = segmenter.segment(detections(of, BOXES))
        alone = segmenter.segment(detections(of, BOXES[1:2]))
        assert (together.logits[1] - alone.logits[0]).abs().max() < TOLERANCE

    def test_the_best_valid_detections_get_the_slots(self, files: tuple[Path, Path]) -> None:
        segmenter = make(files, BOX, max_objects=3)
        rows = [[float(i), 0.0, 50.0 + i, 60.0] for i in range(6)]
        of = frame()
        result = segmenter.segment(detections(of, rows, [False, True, False, True, True, True]))
        assert result.valid.tolist() == [True] * 3
        assert result.class_ids.tolist() == [7, 1, 3]
        assert int(segmenter.unplaced) == 2
        alone = make(files).segment(detections(of, rows[3:4]))
        assert (result.logits[2] - alone.logits[0]).abs().max() < TOLERANCE
        few = segmenter.segment(detections(of, rows, [False] * 5 + [True]))
        assert few.valid.tolist() == [True, True, False]
        assert int(segmenter.unplaced) == 2

    def test_prompts_may_take_every_slot(self, files: tuple[Path, Path]) -> None:
        segmenter = make(files, BOX, CLICK, max_objects=2)
        result = segmenter.segment(detections(frame(), BOXES))
        assert result.class_ids.tolist() == [7, 8]
        assert int(segmenter.unplaced) == 3

    def test_no_prompt_and_no_detection(self, segmenter: Sam2ImageSegmenter) -> None:
        for computed in (True, False):
            result = segmenter.segment(detections(frame(), [], computed=computed))
            assert not result.valid.any()
            assert (result.logits == -1024).all()

    def test_detections_that_are_padding_may_hold_anything(
        self, segmenter: Sam2ImageSegmenter
    ) -> None:
        broken = [[float("nan")] * 4, BOXES[0]]
        result = segmenter.segment(detections(frame(), broken, [False, True]))
        assert result.logits.isfinite().all()
        assert result.object_ids.tolist() == [-1, 0, -1, -1]


class TestTime:
    def test_ids_never_repeat_in_an_epoch(self, segmenter: Sam2ImageSegmenter) -> None:
        seen: list[int] = []
        for frame_id, valid in enumerate(([True, True], [False, True], [False, False], [True] * 2)):
            of = frame(frame_id=frame_id)
            result = segmenter.segment(detections(of, BOXES[:2], list(valid)))
            ids = result.object_ids.tolist()
            assert [i >= 0 for i in ids] == result.valid.tolist()
            seen += [i for i in ids if i >= 0]
        assert seen == [0, 1, 2, 3, 4]
        again = segmenter.segment(detections(frame(epoch=1), BOXES[:2]))
        assert again.object_ids.tolist() == [0, 1, -1, -1]

    def test_ids_of_an_earlier_result_stay(self, segmenter: Sam2ImageSegmenter) -> None:
        first = segmenter.segment(detections(frame(), BOXES[:1]))
        segmenter.segment(detections(frame(frame_id=1), BOXES[:1]))
        assert first.object_ids.tolist() == [0, -1, -1, -1]

    def test_between_key_frames_the_last_boxes_are_segmented_anew(
        self, segmenter: Sam2ImageSegmenter
    ) -> None:
        segmenter.segment(detections(frame(seed=1), BOXES[:2]))
        later = frame(seed=2, frame_id=1)
        result = segmenter.segment(detections(later, [[0.0] * 4], [False], computed=False))
        assert result.valid.tolist() == [True, True, False, False]
        assert result.object_ids.tolist() == [2, 3, -1, -1]
        fresh = segmenter.segment(detections(later, BOXES[:2]))
        assert torch.equal(result.logits, fresh.logits)

    def test_boxes_are_not_carried_into_another_epoch(self, segmenter: Sam2ImageSegmenter) -> None:
        segmenter.segment(detections(frame(), BOXES))
        result = segmenter.segment(detections(frame(epoch=1), [], computed=False))
        assert not result.valid.any()

    def test_no_detections_is_not_the_same_as_none_looked_for(
        self, segmenter: Sam2ImageSegmenter
    ) -> None:
        segmenter.segment(detections(frame(), BOXES))
        assert not segmenter.segment(detections(frame(), BOXES, [False] * 3)).valid.any()
        assert not segmenter.segment(detections(frame(), [], computed=False)).valid.any()

    def test_warm_up_changes_nothing(self, files: tuple[Path, Path]) -> None:
        segmenter = make(files, OUTSIDE, CLICK)
        with listening() as events:
            segmenter.warm_up(FRAME_HW)
            assert not events
            result = segmenter.segment(detections(frame(), BOXES[:1]))
        assert result.object_ids.tolist() == [-1, 0, 1, -1]
        assert len(events) == 1


class TestPrompts:
    def test_outside_the_frame_is_refused_once_an_epoch(self, files: tuple[Path, Path]) -> None:
        half_outside = PromptConfig(points=((10.0, 10.0), (131.5, 10.0)), labels=(1, 0))
        reaches_in = PromptConfig(box=(-20.0, -5.0, 30.0, 40.0))
        segmenter = make(files, BOX, OUTSIDE, half_outside, reaches_in)
        with listening() as events:
            for epoch, frame_id in ((0, 4), (0, 5), (1, 6)):
                result = segmenter.segment(detections(frame(epoch=epoch, frame_id=frame_id), []))
                assert result.valid.tolist() == [True, False, False, True]
        refused = [event for event in events if isinstance(event, ObjectRefused)]
        assert events == refused
        assert [(e.epoch, e.frame_id) for e in refused] == [(0, 4)] * 2 + [(1, 6)] * 2
        assert {(e.source_id, e.reason) for e in refused} == {("camera", "bad_prompt")}

    def test_a_larger_frame_may_show_it(self, files: tuple[Path, Path]) -> None:
        segmenter = make(files, OUTSIDE)
        assert not segmenter.segment(detections(frame(), [])).valid.any()
        assert segmenter.segment(detections(frame((90, 200), epoch=1), [])).valid[0]

    @pytest.mark.parametrize(
        ("prompt", "said"),
        [
            ({}, "either a box or points"),
            ({"box": [0, 0, 1, 1], "points": [[1, 1]], "labels": [1]}, "either a box or points"),
            ({"box": [5, 0, 5, 9]}, "x1 < x2"),
            ({"box": [0, 9, 5, 2]}, "y1 < y2"),
            ({"box": [0, float("nan"), 5, 9]}, "finite"),
            ({"box": [0, 0, float("inf"), 9]}, "finite"),
            ({"box": [0, 0, 9]}, "box"),
            ({"points": [], "labels": []}, "at least 1"),
            ({"points": [[1, 2]]}, "got 0, expected one for each of 1"),
            ({"points": [[1, 2]], "labels": [1, 0]}, "got 2, expected one for each of 1"),
            ({"points": [[1, 2]], "labels": [2]}, "labels"),
            ({"points": [[1, float("nan")]], "labels": [1]}, "finite"),
            ({"box": [0, 0, 1, 1], "labels": [1]}, "labels"),
            ({"mask": 1}, "Extra"),
        ],
    )
    def test_nonsense_is_refused_with_the_configuration(
        self, prompt: dict[str, Any], said: str
    ) -> None:
        with pytest.raises(ValidationError, match=said):
            Sam2ImageConfig.model_validate({"prompts": [prompt]})

    def test_a_structure_that_cannot_run_is_found_at_the_start(self, tmp_path: Path) -> None:
        structure = tiny_structure()
        structure.model.image_encoder.trunk.global_att_blocks = [2]  # where queries are pooled
        path = write_structure(tmp_path, structure)
        weights = tmp_path / "weights.safetensors"
        save_file(build_structure(str(path)).state_dict(), weights)
        config = Sam2ImageConfig(model=str(path), checkpoint=weights)
        with pytest.raises(ConfigError, match="cannot run") as caught:
            Sam2ImageSegmenter(config, CPU)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("section", "said"),
        [
            ({"model": "sam2.1_hiera_t"}, "checkpoint"),
            ({"max_objects": 0}, "max_objects"),
            ({"max_objects": 65}, "max_objects"),
            ({"max_objects": 1, "prompts": [{"box": [0, 0, 1, 1]}] * 2}, "at most max_objects"),
            ({"sha256": "abc"}, "sha256"),
        ],
    )
    def test_the_rest_of_the_section(self, section: dict[str, Any], said: str) -> None:
        with pytest.raises(ValidationError, match=said):
            Sam2ImageConfig.model_validate(section)


class TestResidency:
    PROMPTS = (CLICKS, OUTSIDE, CLICK, BOX)

    def chain(self, files: tuple[Path, Path], device: str = "cpu") -> Any:
        segmenter, pack = make(files, *self.PROMPTS, max_objects=7, device=device), Pack(0.0)

        def run(frame_id: int, computed: bool = True) -> Tracks:
            of = frame(frame_id=frame_id, device=device)
            found = detections(of, [*BOXES, *BOXES], computed=computed)

            def hot() -> Tracks:
                tracks = segmenter.segment(found)
                pack.pack(tracks)
                return tracks

            return hot

        return run

    def test_segment_and_pack_stay_on_the_device(self, files: tuple[Path, Path]) -> None:
        run = self.chain(files)
        run(0)()
        for step in (run(1), run(2, computed=False)):
            with residency_guard() as report:
                tracks = step()
            assert not report.violations
            assert not report.exits
            assert tracks.valid.sum() == 6

    def test_an_epoch_may_begin_under_audit(self, files: tuple[Path, Path]) -> None:
        segmenter = make(files, *self.PROMPTS)
        segmenter.warm_up(FRAME_HW)
        found = detections(frame(epoch=7), BOXES)
        with residency_guard() as report:
            segmenter.segment(found)
        assert not report.violations

    @pytest.mark.slow
    @pytest.mark.timeout(240)
    def test_nothing_is_left_on_the_host(self, files: tuple[Path, Path]) -> None:
        segmenter = make(files, *self.PROMPTS, max_objects=7)
        segmenter.segment(detections(frame(), BOXES))
        found, host = detections(frame(frame_id=1), [*BOXES, *BOXES]), torch.zeros(7).int()
        with fake_cuda(segmenter, found) as (on_cuda, found_on_cuda), torch.inference_mode():
            tracks = on_cuda.segment(found_on_cuda)
            on_cuda._age = host  # the control: a constant made on the wrong device
            with pytest.raises(ValueError, match="age_frames"):
                on_cuda.segment(found_on_cuda)
        assert tracks.logits.device == torch.device("cuda:0")
        assert tracks.logits.shape == (7, SIZE // 4, SIZE // 4)

    def test_the_legacy_exit_is_caught(self, files: tuple[Path, Path]) -> None:
        tracks = self.chain(files)(0)()
        with pytest.raises(ResidencyError), residency_guard():
            AsNumpy(0.0).exit(tracks)

    @pytest.mark.gpu
    def test_on_a_gpu(self, files: tuple[Path, Path]) -> None:
        run = self.chain(files, "cuda")
        run(0)()
        step = run(1)
        with residency_guard(cuda_sync_debug="error"):
            tracks = step()
        on_cpu = self.chain(files)(1)()
        assert tracks.valid.tolist() == on_cpu.valid.tolist()
        assert (tracks.logits.cpu() - on_cpu.logits).abs().max() < 1e-2
