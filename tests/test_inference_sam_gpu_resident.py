"""The vocabulary of old callers: the mask stays on the model's device unless asked for."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sam2.sam2_image_predictor import SAM2ImagePredictor
from torch import Tensor, nn

from kpi.events import SamMaskOutput
from pipeline.audit import residency_guard
from pipeline.inference_inputs import InferenceInputs, prepare_inference_inputs
from stages.errors import ResidencyError
from stages.inference_sam import SamPredictor, run_segmentation
from stages.segmenters.sam2_checkpoint import build_sam2
from tests.tiny_sam2 import SIZE, frame, listening, write_model

DEVICES = ["cpu", pytest.param("cuda:0", marks=pytest.mark.gpu)]
BOX = [5.0, 6.0, 60.0, 50.0]
H, W = 90, 131


class InsideBox(nn.Module):
    """A SAM-like model: probability 0.9 inside the box, 0.25 outside; remembers its inputs."""

    def __init__(self, shape: tuple[int, ...] = (H, W), device: str = "cpu") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.9, device=device))
        self.shape = shape
        self.inputs: list[tuple[Tensor, Tensor]] = []

    def predict(self, image: Tensor, bbox_xyxy: Tensor) -> Tensor:
        self.inputs.append((image, bbox_xyxy))
        ys = torch.arange(H, device=bbox_xyxy.device)[:, None] + 0.5
        xs = torch.arange(W, device=bbox_xyxy.device)[None] + 0.5
        x1, y1, x2, y2 = bbox_xyxy.unbind()
        inside = (xs > x1) & (xs < x2) & (ys > y1) & (ys < y2)
        return torch.where(inside, self.weight, 0.25).expand(self.shape)


class InNumpy:
    """A SAM-like model that answers on the host."""

    def __init__(self, dtype: Any = np.float32, device: str = "cpu") -> None:
        self.device, self.dtype = device, dtype

    def predict(self, image: Tensor, bbox_xyxy: Tensor) -> Any:
        mask = np.zeros((H, W), dtype=self.dtype)
        mask[6:50, 5:60] = 1
        return mask


def expected() -> Any:
    mask = np.zeros((H, W), dtype=np.bool_)
    mask[6:50, 5:60] = True
    return mask


def picture(device: str = "cpu") -> Tensor:
    return frame((H, W), seed=1).rgb.to(device)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_model(tmp_path_factory.mktemp("sam2"))


@pytest.fixture(scope="module")
def predictor(files: tuple[Path, Path]) -> SamPredictor:
    return SamPredictor(build_sam2(str(files[0]), files[1], None, torch.device("cpu")))


class TestResident:
    @pytest.mark.parametrize("device", DEVICES)
    @pytest.mark.parametrize("shape", [(H, W), (1, H, W), (1, 3, H, W)])
    def test_the_models_mask_comes_back_untouched(
        self, device: str, shape: tuple[int, ...]
    ) -> None:
        mask = run_segmentation(InsideBox(shape, device), picture(device), BOX)
        assert isinstance(mask, Tensor)
        assert str(mask.device) == device
        assert mask.is_cuda == device.startswith("cuda")
        assert mask.shape == shape
        assert mask.dtype == torch.float32, "no conversion to bool"
        assert not mask.requires_grad
        assert torch.equal(mask.reshape(-1, H, W)[0] > 0.5, torch.from_numpy(expected()).to(device))

    @pytest.mark.parametrize("device", DEVICES)
    @pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.bool_])
    def test_a_numpy_mask_is_uploaded(self, device: str, dtype: Any) -> None:
        mask = run_segmentation(InNumpy(dtype, device), picture(device), BOX)
        assert isinstance(mask, Tensor)
        assert str(mask.device) == device
        assert mask.dtype == torch.bool
        assert np.array_equal(mask.cpu().numpy(), expected())

    def test_is_the_default(self) -> None:
        for call, toggle in (
            (run_segmentation, "as_numpy"),
            (SamPredictor.predict, "as_numpy"),
            (prepare_inference_inputs, "sam_as_numpy"),
        ):
            assert inspect.signature(call).parameters[toggle].default is False
        assert isinstance(run_segmentation(InsideBox(), picture(), BOX), Tensor)

    @pytest.mark.parametrize("device", DEVICES)
    def test_tensors_stay_where_they_are(self, device: str) -> None:
        model, image = InsideBox(device=device), picture(device)
        box = torch.tensor(BOX, device=device)
        with residency_guard() as report:
            run_segmentation(model, image, box)
        assert not report.violations
        assert not report.exits
        assert model.inputs[0][0] is image
        assert model.inputs[0][1].data_ptr() == box.data_ptr()

    def test_arrays_go_up_by_a_named_exit(self) -> None:
        model, image = InsideBox(), np.zeros((H, W, 3), dtype=np.uint8)[:, ::-1]
        with residency_guard() as report:
            mask = run_segmentation(model, image, np.array(BOX))
        assert isinstance(mask, Tensor)
        assert report.exits == {"prompt": 2}
        assert all(isinstance(value, Tensor) for value in model.inputs[0])

    def test_a_read_only_picture(self) -> None:
        image = np.zeros((H, W, 3), dtype=np.uint8)
        image.flags.writeable = False
        assert run_segmentation(InsideBox(), image, BOX) is not None

    @pytest.mark.parametrize(
        "image",
        [np.zeros((H, W), np.uint8), np.zeros((H, W, 3), np.uint8), np.zeros((3, H, W), np.uint8)],
    )
    def test_no_box_is_the_whole_frame(self, image: Any) -> None:
        model = InsideBox()
        with residency_guard():
            mask = run_segmentation(model, image)
        assert isinstance(mask, Tensor)
        assert model.inputs[0][1].tolist() == [0, 0, W, H]
        assert (mask > 0.5).all()

    def test_a_plain_callable_will_do(self) -> None:
        model = InsideBox()

        def call(image: Tensor, bbox_xyxy: Tensor) -> Tensor:
            return model.predict(image, bbox_xyxy)

        mask = run_segmentation(call, picture(), BOX)
        assert isinstance(mask, Tensor)
        assert np.array_equal(mask.numpy() > 0.5, expected())


class TestLegacy:
    @pytest.mark.parametrize("device", DEVICES)
    @pytest.mark.parametrize("shape", [(H, W), (1, H, W), (1, 3, H, W)])
    def test_a_bool_array(self, device: str, shape: tuple[int, ...]) -> None:
        mask = run_segmentation(InsideBox(shape, device), picture(device), BOX, as_numpy=True)
        assert isinstance(mask, np.ndarray)
        assert mask.dtype == np.bool_
        assert np.array_equal(mask, expected())

    @pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.bool_])
    def test_of_a_model_that_answers_in_numpy(self, dtype: Any) -> None:
        mask = run_segmentation(InNumpy(dtype), picture(), BOX, as_numpy=True)
        assert isinstance(mask, np.ndarray)
        assert mask.dtype == np.bool_
        assert np.array_equal(mask, expected())

    def test_of_a_half_precision_model(self) -> None:
        mask = run_segmentation(InsideBox().to(torch.bfloat16), picture(), BOX, as_numpy=True)
        assert isinstance(mask, np.ndarray)
        assert np.array_equal(mask, expected())

    def test_callers_that_pass_it_by_position_or_name(self, predictor: SamPredictor) -> None:
        box = np.array(BOX)
        for mask in (
            run_segmentation(predictor, picture(), box, True),
            run_segmentation(predictor, picture(), bbox_xyxy=box, as_numpy=True),
            predictor.predict(picture(), bbox_xyxy=box, as_numpy=True),
            prepare_inference_inputs(picture(), box, predictor, sam_as_numpy=True).mask,
        ):
            assert isinstance(mask, np.ndarray)
            assert mask.dtype == np.bool_
            assert mask.shape == (H, W)

    def test_the_audit_catches_it(self) -> None:
        model, image, box = InsideBox(), picture(), torch.tensor(BOX)
        with pytest.raises(ResidencyError), residency_guard():
            run_segmentation(model, image, box, as_numpy=True)

    def test_a_mask_that_is_none(self) -> None:
        with pytest.raises(ValueError, match="expected"):
            run_segmentation(lambda image, box: torch.zeros(3), picture(), BOX)


class TestNone:
    @pytest.mark.parametrize(
        "image",
        [
            None,
            np.zeros((0, W, 3), np.uint8),
            np.zeros((H, 0), np.uint8),
            np.zeros(0, np.uint8),
            torch.zeros(3, 0, 0, dtype=torch.uint8),
            torch.zeros(2, 3, 4, 5, dtype=torch.uint8),
        ],
    )
    def test_no_picture(self, image: Any) -> None:
        self.assert_none(lambda model: run_segmentation(model, image, BOX))

    @pytest.mark.parametrize(
        "box",
        [
            [1, 2, 3],
            [],
            torch.zeros(5),
            torch.zeros(0),
            [1, float("nan"), 3, 4],
            np.array([1, 2, np.inf, 4]),
            [9, 2, 3, 4],
            [1, 4, 3, 4],
            [W, 0, W + 9, 9],
            [0, -9, 9, 0],
        ],
    )
    def test_no_usable_box(self, box: Any) -> None:
        self.assert_none(lambda model: run_segmentation(model, picture(), box))

    def test_the_model_failed(self) -> None:
        with listening() as events:
            assert run_segmentation(lambda image, box: None, picture(), BOX) is None
        assert not events

    def test_a_box_on_the_device_is_not_looked_at(self) -> None:
        """To look would be to wait; what the model makes of it is the model's."""
        assert run_segmentation(InsideBox(), picture(), torch.full((4,), float("nan"))) is not None

    @staticmethod
    def assert_none(call: Callable[[InsideBox], Any]) -> None:
        model = InsideBox()
        with listening() as events:
            assert call(model) is None
        assert not model.inputs
        assert not events


class TestKpi:
    @pytest.mark.parametrize("device", DEVICES)
    @pytest.mark.parametrize("as_numpy", [False, True])
    @pytest.mark.parametrize("kind", [InsideBox, InNumpy])
    def test_one_event_a_call(self, device: str, as_numpy: bool, kind: Any) -> None:
        with listening() as events:
            run_segmentation(kind(device=device), picture(device), BOX, as_numpy=as_numpy)
        assert events == [SamMaskOutput(as_numpy=int(as_numpy), device=device)]
        assert events[0].as_dict() == {
            "event": "sam_mask_output",
            "as_numpy": int(as_numpy),
            "device": device,
        }

    @pytest.mark.parametrize("as_numpy", [False, True])
    def test_one_event_whichever_way_in(self, predictor: SamPredictor, as_numpy: bool) -> None:
        for call in (
            lambda: predictor.predict(picture(), BOX, as_numpy=as_numpy),
            lambda: predictor.predict(
                picture(), points_xy=[[9, 9]], point_labels=[1], as_numpy=as_numpy
            ),
            lambda: run_segmentation(predictor, picture(), BOX, as_numpy),
            lambda: prepare_inference_inputs(picture(), BOX, predictor, as_numpy),
        ):
            with listening() as events:
                call()
            assert events == [SamMaskOutput(as_numpy=int(as_numpy), device="cpu")]

    def test_nobody_needs_to_listen(self) -> None:
        assert run_segmentation(InsideBox(), picture(), BOX) is not None


class TestSamPredictor:
    @pytest.mark.parametrize(
        "prompt",
        [
            {"bbox_xyxy": BOX},
            {"points_xy": [[40, 30]], "point_labels": [1]},
            {"points_xy": [[40, 30], [9, 9]], "point_labels": [1, 0]},
            {"bbox_xyxy": BOX, "points_xy": [[40, 30]], "point_labels": [0]},
        ],
    )
    def test_masks_are_those_of_the_official_predictor(
        self, predictor: SamPredictor, files: tuple[Path, Path], prompt: dict[str, Any]
    ) -> None:
        official = SAM2ImagePredictor(build_sam2(str(files[0]), files[1], None, predictor.device))
        official._bb_feat_sizes = [(SIZE // stride, SIZE // stride) for stride in (4, 8, 16)]
        official.set_image(picture().permute(1, 2, 0).numpy())
        names = {"bbox_xyxy": "box", "points_xy": "point_coords", "point_labels": "point_labels"}
        lone = "bbox_xyxy" not in prompt and len(prompt["points_xy"]) == 1
        masks, quality, _ = official.predict(
            **{names[key]: np.array(value) for key, value in prompt.items()}, multimask_output=lone
        )
        wanted = masks[quality.argmax()] > 0
        mask = predictor.predict(picture(), **prompt)
        assert isinstance(mask, Tensor)
        assert mask.dtype == torch.bool
        assert 0.01 < wanted.mean() < 0.99
        assert (mask.numpy() != wanted).sum() <= 1
        legacy = predictor.predict(picture(), **prompt, as_numpy=True)
        assert np.array_equal(legacy, mask.numpy())

    @pytest.mark.parametrize("layout", ["hwc", "chw", "batch"])
    def test_every_layout_is_the_same_picture(self, predictor: SamPredictor, layout: str) -> None:
        image = {
            "hwc": picture().permute(1, 2, 0).numpy(),
            "chw": picture().numpy(),
            "batch": picture()[None],
        }[layout]
        mask = predictor.predict(image, BOX)
        assert torch.equal(mask, predictor.predict(picture(), BOX))

    def test_grey_is_three_equal_channels(self, predictor: SamPredictor) -> None:
        grey = picture()[0]
        mask = predictor.predict(grey, BOX)
        assert torch.equal(mask, predictor.predict(grey.expand(3, -1, -1).contiguous(), BOX))

    def test_the_whole_frame(self, predictor: SamPredictor) -> None:
        assert torch.equal(predictor.predict(picture()), predictor.predict(picture(), [0, 0, W, H]))

    def test_is_resident(self, predictor: SamPredictor) -> None:
        image, box = picture(), torch.tensor(BOX)
        predictor.predict(image, box)
        with residency_guard() as report:
            mask = predictor.predict(image, box)
        assert not report.violations
        assert not report.exits
        mask.logical_not_()  # a plain tensor, not one of inference mode
        with pytest.raises(ResidencyError), residency_guard():
            predictor.predict(image, box, as_numpy=True)

    @pytest.mark.parametrize("box", [[1, 2, 3], [9, 2, 3, 4], [1, float("nan"), 3, 4]])
    def test_a_bad_box_beside_points(self, predictor: SamPredictor, box: Any) -> None:
        points = {"points_xy": [[9, 9]], "point_labels": [1]}
        assert predictor.predict(picture(), box, **points) is None
        assert predictor.predict(None, **points) is None

    def test_mistakes_are_named(self, predictor: SamPredictor) -> None:
        with pytest.raises(ValueError, match="expected uint8"):
            predictor.predict(picture().float(), BOX)
        with pytest.raises(ValueError, match="got 1, expected one for each of 2"):
            predictor.predict(picture(), points_xy=[[1, 1], [2, 2]], point_labels=[1])
        with pytest.raises(ValueError, match="1 or 3 channels"):
            predictor.predict(np.zeros((H, W, 4), np.uint8), BOX)

    @pytest.mark.gpu
    def test_on_a_gpu(self, files: tuple[Path, Path]) -> None:
        device = torch.device("cuda:0")
        predictor = SamPredictor(build_sam2(str(files[0]), files[1], None, device))
        image, box = picture("cuda:0"), torch.tensor(BOX, device=device)
        predictor.predict(image, box)
        with residency_guard(cuda_sync_debug="error"):
            mask = predictor.predict(image, box)
        assert mask.is_cuda


class TestInferenceInputs:
    @pytest.mark.parametrize("device", DEVICES)
    def test_resident_by_default(self, device: str) -> None:
        image = np.zeros((H, W, 3), np.uint8)
        inputs = prepare_inference_inputs(image, np.array(BOX), InsideBox(device=device))
        for value in (inputs.image, inputs.bbox_xyxy, inputs.mask):
            assert isinstance(value, Tensor)
            assert str(value.device) == device
        assert inputs.image.shape == image.shape
        assert inputs.bbox_xyxy.tolist() == BOX

    def test_legacy_moves_the_mask_only(self) -> None:
        inputs = prepare_inference_inputs(picture(), BOX, InsideBox(), sam_as_numpy=True)
        assert isinstance(inputs.image, Tensor)
        assert isinstance(inputs.mask, np.ndarray)
        assert np.array_equal(inputs.mask, expected())

    def test_each_input_goes_up_once(self) -> None:
        model = InsideBox()
        with residency_guard() as report:
            prepare_inference_inputs(np.zeros((H, W), np.uint8), BOX, model)
        assert report.exits == {"prompt": 2}

    def test_without_a_box(self) -> None:
        inputs = prepare_inference_inputs(picture(), None, InsideBox())
        assert inputs.bbox_xyxy.tolist() == [0, 0, W, H]
        assert (inputs.mask > 0.5).all()

    def test_failures(self) -> None:
        nothing = prepare_inference_inputs(None, BOX, InsideBox())
        assert (nothing.image, nothing.bbox_xyxy, nothing.mask) == (None, None, None)
        bad_box = prepare_inference_inputs(picture(), [3, 2, 1, 0], InsideBox())
        assert bad_box.image is not None
        assert (bad_box.bbox_xyxy, bad_box.mask) == (None, None)

    def test_is_frozen(self) -> None:
        with pytest.raises(AttributeError):
            InferenceInputs(None, None, None).mask = picture()  # type: ignore[misc]
