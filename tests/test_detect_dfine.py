"""The D-FINE stage: equal to transformers' own, on the device, without the host."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from pipeline.audit import residency_guard
from pipeline.fake_cuda import fake_cuda
from stages.base import SwitchedDetector, Weighted
from stages.detectors.dfine import DfineConfig, DfineDetector, best_rows
from stages.detectors.dfine_network import import_transformers
from stages.detectors.model_input import InputForm, ModelInput
from stages.errors import ConfigError, ResidencyError
from stages.records import Detections, Frame
from tests.cut_off import cut_off
from tests.dfine_files import CLASS_NAMES, INPUT_HW, KINDS, changed, tiny_network, write_folder

CPU = torch.device("cpu")
PIXELS = torch.randint(
    0, 256, (3, 3, 120, 160), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("dfine")
    return {kind: write_folder(base / kind, tiny_network(kind)) for kind in KINDS}


@pytest.fixture(scope="module")
def folder(folders: dict[str, Path]) -> Path:
    return folders["d_fine"]


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """To be spoilt."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def detector(folder: Path, **settings: Any) -> DfineDetector:
    return DfineDetector(DfineConfig(weights=str(folder), **settings), CPU)


def frame(seed: int = 0, *, grey: bool = False) -> Frame:
    """Its pixels are a slice of a tensor made outside of any guard."""
    rgb = PIXELS[seed % 3, : 1 if grey else 3].expand(3, -1, -1)
    return Frame(rgb, "test", 0, seed, 0, 0)


def rows(found: Detections) -> list[torch.Tensor]:
    return [found.boxes_xyxy, found.scores, found.class_ids, found.valid]


# What comes out


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_equal_to_the_processor_and_model_of_transformers(
    folders: dict[str, Path], kind: str
) -> None:
    """Against `AutoImageProcessor`, `from_pretrained`, and `post_process_object_detection`
    with its threshold; boxes are cut off at the frame's edges, which theirs are not."""
    library = import_transformers()
    picture = frame()
    processor = library.AutoImageProcessor.from_pretrained(folders[kind])
    network = getattr(library, KINDS[kind]).from_pretrained(folders[kind]).eval()
    network.to(memory_format=torch.channels_last)  # sums in the same order
    given = processor(images=picture.rgb, return_tensors="pt")["pixel_values"]
    pixels = detector(folders[kind])._input.fit(picture.rgb)
    torch.testing.assert_close(pixels, given, atol=1e-6, rtol=0)
    with torch.no_grad():
        output = network(pixel_values=given)
    min_score = float(output.logits.sigmoid().flatten().topk(20).values[-1]) - 1e-5
    theirs = processor.post_process_object_detection(output, min_score, [picture.size_hw])[0]
    found = detector(folders[kind], min_score=min_score, max_detections=30).detect(picture)
    close = {"atol": 1e-4, "rtol": 0.0}
    assert len(theirs["scores"]) == 20 == int((found.scores >= min_score).sum())
    torch.testing.assert_close(found.scores[:20], theirs["scores"], **close)
    assert torch.equal(found.class_ids[:20], theirs["labels"].int())
    edge = torch.tensor([160.0, 120.0, 160.0, 120.0])
    boxes = theirs["boxes"].clamp(min=0).minimum(edge)
    torch.testing.assert_close(found.boxes_xyxy[:20], boxes, **close)
    assert torch.equal(found.valid[:20], (boxes[:, 2:] > boxes[:, :2]).all(dim=1))
    assert not found.valid[20:].any()


def test_rows_of_query_and_class_are_told_apart() -> None:
    logits = torch.tensor([[0.0, 2.0], [3.0, -1.0]])
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.1, 0.2, 0.1, 0.1]])
    corners, scores, class_ids = best_rows(logits, boxes, 3)
    assert class_ids.tolist() == [0, 1, 0]
    torch.testing.assert_close(scores, torch.tensor([3.0, 2.0, 0.0]).sigmoid())
    expected = torch.tensor([[0.05, 0.15, 0.15, 0.25], [0.4, 0.3, 0.6, 0.7], [0.4, 0.3, 0.6, 0.7]])
    torch.testing.assert_close(corners, expected)


@pytest.mark.parametrize("rescale", [{}, {"do_rescale": False}, {"rescale_factor": 1 / 127.5}])
def test_normalisation_is_that_of_the_processor(folder: Path, rescale: dict[str, Any]) -> None:
    told = {"do_normalize": True, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]}
    height, width = INPUT_HW
    told |= {"size": {"height": height, "width": width}, **rescale}
    processor = import_transformers().RTDetrImageProcessor(**told)
    given = processor(images=frame().rgb, return_tensors="pt")["pixel_values"]
    ours = ModelInput(InputForm.read(told, folder), CPU).fit(frame().rgb)
    torch.testing.assert_close(ours, given, atol=1e-6, rtol=1e-6)


def test_grey_frame_gives_the_same_as_three_equal_channels(folder: Path) -> None:
    stage = detector(folder)
    grey = frame(grey=True)
    colour = replace(grey, rgb=grey.rgb.contiguous())
    for have, want in zip(rows(stage.detect(grey)), rows(stage.detect(colour)), strict=True):
        torch.testing.assert_close(have, want)


def test_score_class_and_overlap_only_clear_valid(folder: Path) -> None:
    everything = detector(folder, min_score=0, max_detections=90).detect(frame())
    kept, middle = int(everything.class_ids[0]), float(everything.scores.median())
    wanted = {"classes": (CLASS_NAMES[kept],), "max_detections": 90}
    some = detector(folder, min_score=middle, **wanted).detect(frame())
    fewer = detector(folder, min_score=middle, max_overlap=0.01, **wanted).detect(frame())
    for found in (some, fewer):
        for have, want in zip(rows(found)[:3], rows(everything)[:3], strict=True):
            assert torch.equal(have, want)
        assert found.valid[0]
    right = (everything.class_ids == kept) & (everything.scores >= middle)
    assert torch.equal(some.valid, everything.valid & right)
    assert 0 < int(fewer.valid.sum()) < int(some.valid.sum()) < int(everything.valid.sum())


def test_its_weights_are_told_apart(folder: Path, tmp_path: Path) -> None:
    """As a recorder tells them, for who runs a recording again."""
    stage = detector(folder)
    assert isinstance(stage, Weighted)
    assert detector(folder).weights_sha256() == stage.weights_sha256()
    other = detector(write_folder(tmp_path / "other", tiny_network(seed=1)))
    assert other.weights_sha256() != stage.weights_sha256()


def test_key_frames_and_the_switch(folder: Path) -> None:
    stage = detector(folder, every=3)
    assert isinstance(stage, SwitchedDetector)

    def looks(*ids: int) -> list[bool]:
        return [stage.detect(replace(frame(), frame_id=number)).computed for number in ids]

    assert looks(0, 1, 2, 3) == [True, False, False, True]
    stage.switch.set(False)
    assert looks(4, 5, 6) == [False] * 3
    stage.switch.set(True)
    assert looks(7, 8) == [True, False]


# Residency


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_hundred_frames_stay_on_the_device(folders: dict[str, Path], kind: str) -> None:
    stage = detector(folders[kind], classes=("vessel", "rib"), max_overlap=0.7)
    stage.warm_up((120, 160))
    with residency_guard() as report:
        for seed in range(100 if kind == "d_fine" else 3):
            assert stage.detect(frame(seed, grey=seed % 2 == 0)).computed
    assert not report.violations


def test_the_guard_sees_the_check_that_must_be_off(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left on, transformers' own check waits for the device in every decoder layer."""
    stage = detector(folder)
    monkeypatch.setenv("TRANSFORMERS_DISABLE_TORCH_CHECK", "0")
    with pytest.raises(ResidencyError, match="transformers/utils/import_utils"), residency_guard():
        stage.detect(frame())


@pytest.mark.timeout(240)  # fake tensors import torch's compiler: slow under load
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_detect_runs_on_a_fake_gpu(folders: dict[str, Path], kind: str) -> None:
    """No constant is left on the host, and no shape depends on data."""
    stage = detector(folders[kind], max_overlap=0.7)
    stage.warm_up((120, 160))
    with fake_cuda(stage.detect, frame(grey=True)) as (detect, picture):
        found = detect(picture)
    assert {row.device.type for row in rows(found)} == {"cuda"}


@pytest.mark.timeout(240)
def test_the_fake_gpu_sees_anchors_left_on_the_host(folder: Path) -> None:
    stage = detector(folder)
    core: Any = stage._network.model
    anchors = core._cached_generate_anchors._made

    def leave_behind() -> None:
        with fake_cuda(stage, frame()) as (fake_stage, picture):
            fake_stage._network.model._cached_generate_anchors._made = anchors
            fake_stage.detect(picture)

    with pytest.raises(ResidencyError, match="modeling_d_fine"):
        leave_behind()


@pytest.mark.gpu
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_nothing_waits_on_a_gpu(folders: dict[str, Path], kind: str) -> None:
    """Not yet run on one."""
    stage = DfineDetector(DfineConfig(weights=str(folders[kind])), torch.device("cuda:0"))
    stage.warm_up((120, 160))
    there = replace(frame(), rgb=PIXELS[0].cuda())
    with residency_guard(cuda_sync_debug="error"):
        found = stage.detect(there)
    here = detector(folders[kind]).detect(frame())
    torch.testing.assert_close(found.scores.cpu(), here.scores, atol=1e-3, rtol=0)


# What is refused


@pytest.mark.parametrize(
    "settings",
    [
        {"max_detections": 0},
        {"min_score": 1.5},
        {"max_overlap": 0},
        {"classes": []},
        {"revision": "main"},
        {"sha256": "abc"},
        {"weights": ""},
    ],
)
def test_config_that_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DfineConfig.model_validate(settings)


def refused(folder: Path | str, **settings: Any) -> str:
    """The message of the refusal: one line that names the folder."""
    with pytest.raises(ConfigError) as error:
        DfineDetector(DfineConfig(weights=str(folder), **settings), CPU)
    message = str(error.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


@pytest.mark.parametrize(
    ("file", "values", "expected"),
    [
        ("config.json", {"model_type": "bert"}, "'bert', expected one of d_fine, rt_detr,"),
        ("config.json", {"model_type": "rf_detr"}, "model_type is 'rf_detr', expected one of"),
        ("config.json", {"model_type": None}, "model_type is None"),
        ("config.json", {"backbone_config": {"model_type": "timm_backbone"}}, "'timm_backbone'"),
        ("config.json", {"backbone_config": None}, "backbone_config is of model_type None"),
        ("config.json", {"decoder_method": "discrete"}, "decoder_method is 'discrete', expected"),
        ("config.json", {"id2label": {"0": "a", "1": "a"}}, "id2label is not a table"),
        ("config.json", {"id2label": {"1": "a"}}, "id2label is not a table"),
        ("config.json", {"id2label": {"0": "a", "1": "b"}}, "class_embed"),
        ("config.json", {"decoder_ffn_dim": 48}, "expected the weights of the d_fine beside it"),
        ("config.json", {"d_model": "wide"}, "its network cannot be built"),
        ("config.json", {"decoder_layers": 3}, "lacks "),
        ("preprocessor_config.json", {"size": {"shortest_edge": 800}}, "expected height and width"),
        ("preprocessor_config.json", {"size": {"height": True, "width": 64}}, "expected height"),
        ("preprocessor_config.json", {"do_resize": False}, "do_resize is False"),
        ("preprocessor_config.json", {"resample": 0}, "resample is 0, expected 2 (bilinear)"),
        ("preprocessor_config.json", {"rescale_factor": "x"}, "rescale_factor, image_mean or"),
        ("preprocessor_config.json", {"rescale_factor": 0}, "the first and the last ones above 0"),
        (
            "preprocessor_config.json",
            {"do_normalize": True, "image_std": [0, 1, 1]},
            "the last ones above 0",
        ),
    ],
)
def test_folder_that_does_not_fit(
    copy: Path, file: str, values: dict[str, object], expected: str
) -> None:
    assert expected in refused(changed(copy, file, **values))


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_missing_and_broken_files(copy: Path, file: str) -> None:
    whole = (copy / file).read_bytes()
    (copy / file).write_bytes(whole[: len(whole) // 2])
    assert file in (message := refused(copy))
    assert "truncated" in message or "not JSON" in message
    (copy / file).unlink()
    assert f"{file}: no such file" in refused(copy)


def test_a_pickle_in_place_of_safetensors(copy: Path) -> None:
    torch.save({}, copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    assert "holds pytorch_model.bin, a pickle" in refused(copy)


def test_weights_that_are_not_finite(copy: Path) -> None:
    network = tiny_network()
    with torch.no_grad():
        network.model.enc_output[0].weight[0, 0] = torch.nan
    assert "not finite" in refused(write_folder(copy, network))


def test_another_sha256(folder: Path) -> None:
    assert "sha256 is" in refused(folder, sha256="0" * 64)


def test_unknown_class_and_too_many_detections(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"'liver' is not a class of d_fine.*vessel, tumor, rib"):
        detector(folder, classes=("liver",))
    with pytest.raises(ConfigError, match="gives only 30 queries of 3 classes"):
        detector(folder, max_detections=91)
    assert detector(folder, max_detections=90).detect(frame()).computed


def test_transformers_is_not_installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"needs transformers.*pip install 'maskstream\[dfine\]'"):
        detector(folder)


def test_nothing_is_fetched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_off(monkeypatch)
    assert detector(folder).detect(frame()).computed


# A model id


def test_a_model_id_is_read_from_the_cache_at_its_commit(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    commit, model_id = "a" * 40, "someone/dfine-tiny"
    snapshot = tmp_path / "models--someone--dfine-tiny" / "snapshots" / commit
    shutil.copytree(folder, snapshot)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    stage = DfineDetector(DfineConfig(weights=model_id, revision=commit), CPU)
    assert stage.class_names == CLASS_NAMES
    assert tuple(stage._input.form.input_hw) == INPUT_HW
    assert "revision " + "b" * 40 + " is not in the local cache" in refused(
        model_id, revision="b" * 40
    )
    assert "it needs `revision`" in refused(model_id)
    assert "no such folder" in refused("no/such/folder")
    assert "neither a folder nor a model id" in refused("some..one/dfine", revision=commit)
    assert "which has no `revision`" in refused(str(folder), revision=commit)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_folder_as_published_ones_are(
    folders: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    """Keys of older versions and of other programs; nothing that a file names is imported."""
    path = Path(shutil.copytree(folders[kind], tmp_path / kind))
    older = {
        "anchor_image_size": list(INPUT_HW), "disable_custom_kernels": True,
        "use_timm_backbone": False, "use_pretrained_backbone": False, "torch_dtype": "float32",
        "auto_map": {"AutoModel": "no_such_module.Model"}, "_commit_hash": "abc",
    }  # fmt: skip
    found = detector(changed(path, "config.json", **older)).detect(frame())
    torch.testing.assert_close(found.scores, detector(folders[kind]).detect(frame()).scores)
