"""SAM3's text prompts: equal to transformers' own results, resident, and every bad folder told."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_sam2 import frame, write_model
from tiny_sam3 import write_sam3
from tiny_stream import Stream

from benchmarks.soak import tensor_bytes
from pipeline.audit import residency_guard
from pipeline.fake_cuda import fake_cuda
from stages.base import PhraseDetector, SwitchedDetector, Weighted
from stages.detectors.sam3 import Sam3TextConfig, Sam3TextDetector
from stages.errors import ConfigError, ResidencyError
from stages.file_digest import sha256_of

pytest.importorskip("transformers")
CPU = torch.device("cpu")
PHRASES = ("needle", "the grey sky")
LEAST = 0.2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sam3(tmp_path_factory.mktemp("sam3"))


@pytest.fixture(scope="module")
def detector(folder: Path) -> Sam3TextDetector:
    return made(folder, phrases=PHRASES, min_score=LEAST, max_overlap=1.0, every=1)


def made(folder: Path, **settings: Any) -> Sam3TextDetector:
    return Sam3TextDetector(Sam3TextConfig(model=str(folder), **settings), CPU)


def official(folder: Path, picture: torch.Tensor, phrase: str) -> dict[str, torch.Tensor]:
    """What transformers' own processor and model make of it, surest first."""
    from transformers import Sam3Model, Sam3Processor

    processor = Sam3Processor.from_pretrained(folder, local_files_only=True)
    model = Sam3Model.from_pretrained(folder, local_files_only=True).eval()
    inputs = processor(images=picture, text=phrase, return_tensors="pt")
    with torch.no_grad():
        out = model(
            pixel_values=inputs["pixel_values"],
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
        )
    size = tuple(picture.shape[1:])
    found = processor.post_process_instance_segmentation(out, threshold=LEAST, target_sizes=[size])
    order = found[0]["scores"].argsort(descending=True)
    return {name: found[0][name][order] for name in ("scores", "boxes", "masks")}


# --- equal to transformers -----------------------------------------------------------------


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("size_hw", [(90, 131), (112, 112), (240, 60)])
def test_finds_are_those_of_transformers(
    detector: Sam3TextDetector, folder: Path, size_hw: tuple[int, int], grey: bool
) -> None:
    seen = frame(size_hw, seed=5, grey=grey)
    chosen, class_ids = detector.find(seen)
    detected = detector.detect(seen)
    boxes = detected.boxes_xyxy
    for class_id, phrase in enumerate(PHRASES, 1):
        expected = official(folder, seen.rgb, phrase)
        ours = chosen.valid & (class_ids == class_id)
        count = int(ours.sum())
        assert count >= 4
        torch.testing.assert_close(
            chosen.scores[ours], expected["scores"][:count], rtol=0, atol=1e-4
        )
        high = torch.tensor([size_hw[1], size_hw[0]] * 2)
        clipped = torch.minimum(expected["boxes"][:count].clamp(min=0), high)
        torch.testing.assert_close(boxes[ours], clipped, rtol=0, atol=1e-4 * max(size_hw))
        masks = torch.nn.functional.interpolate(
            chosen.masks[ours][None].sigmoid(), size_hw, mode="bilinear", align_corners=False
        )
        differ = (masks[0] > 0.5) != expected["masks"][:count].bool()
        assert not (differ & ((masks[0] - 0.5).abs() > 1e-5)).any()  # not by more than rounding
        assert 0.02 < float(expected["masks"].float().mean()) < 0.98


def test_the_phrases_tell_different_things(detector: Sam3TextDetector) -> None:
    detected = detector.detect(frame(seed=5))
    of = [detected.scores[(detected.class_ids == place) & detected.valid] for place in (1, 2)]
    assert all(len(scores) for scores in of)
    assert of[0][0] != of[1][0]


def test_its_weights_are_told_apart(
    detector: Sam3TextDetector, folder: Path, tmp_path: Path
) -> None:
    """As a recorder tells them, for who runs a recording again."""
    from safetensors.torch import load_file, save_file

    assert isinstance(detector, Weighted)
    copy = Path(shutil.copytree(folder, tmp_path / "model"))
    tensors = load_file(copy / "model.safetensors")
    next(iter(tensors.values())).view(-1)[0] += 1
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    assert made(folder).weights_sha256() == detector.weights_sha256()
    assert made(copy).weights_sha256() != detector.weights_sha256()


def test_suppression_drops_what_shows_the_same(folder: Path, detector: Sam3TextDetector) -> None:
    few = made(folder, phrases=PHRASES, min_score=LEAST, max_overlap=0.3, every=1)
    seen = frame(seed=5)
    assert 2 <= int(few.detect(seen).valid.sum()) < int(detector.detect(seen).valid.sum())


# --- resident ------------------------------------------------------------------------------


def test_100_frames_with_the_tracker_stay_on_the_device(folder: Path, tmp_path: Path) -> None:
    detector = made(folder, phrases=PHRASES, min_score=LEAST, every=20, max_detections=3)
    stream = Stream(write_model(tmp_path), every=4)
    objects = 0
    for number in range(100):
        seen = frame(frame_id=number, seed=number)
        with residency_guard() as report:
            if number == 50:
                told = detector.phrases.add("a probe")
            found = detector.detect(seen)
            tracks = stream.segmenter.segment(found)
        assert not report.violations
        assert report.exits["prompt"] == (1 if number == 50 else 0)
        objects = max(objects, int(tracks.valid.sum()))
    assert told.result().frame_id == 50
    assert objects >= 1


def test_what_transformers_does_itself_would_be_caught(detector: Sam3TextDetector) -> None:
    """The two constants that it makes anew on each call; and the guard sees them."""
    network: Any = detector._network
    kept = network._model.detr_decoder.__dict__.pop("_get_coords")
    try:
        seen = frame()
        with pytest.raises(ResidencyError, match=r"modeling_sam3.py"), residency_guard():
            detector.detect(seen)
    finally:
        network._model.detr_decoder._get_coords = kept


@pytest.mark.timeout(240)  # fake tensors import torch's compiler
def test_it_runs_on_a_fake_gpu(detector: Sam3TextDetector) -> None:
    network: Any = detector._network
    with torch.inference_mode():
        pixels, words = network._input.fit(frame().rgb), network.words("needle")
        with fake_cuda(network._model, pixels, words) as (model, picture, text):
            sight = model.get_vision_features(pixel_values=picture)
            found = model(vision_embeds=sight, text_embeds=text)
    assert found.pred_masks.device.type == "cuda"


@pytest.mark.gpu
def test_nothing_waits_on_a_gpu(folder: Path) -> None:
    """Not yet run on one."""
    settings = {"phrases": PHRASES, "min_score": LEAST, "every": 1}
    config = Sam3TextConfig(model=str(folder), **settings)
    stage = Sam3TextDetector(config, torch.device("cuda:0"))
    there = frame(device="cuda:0")
    stage.detect(there)
    with residency_guard(cuda_sync_debug="error"):
        found = stage.detect(there)
    here = made(folder, **settings).detect(frame())
    torch.testing.assert_close(found.scores.cpu(), here.scores, atol=1e-3, rtol=0)


# --- what it does between key frames -------------------------------------------------------


def test_nothing_is_looked_for_between_key_frames_while_off_and_without_phrases(
    folder: Path,
) -> None:
    detector = made(folder, phrases=("needle",), every=3)
    assert isinstance(detector, PhraseDetector)
    assert isinstance(detector, SwitchedDetector)
    computed = [detector.detect(frame(frame_id=number)).computed for number in range(4)]
    assert computed == [True, False, False, True]
    detector.switch.set(False)
    assert not detector.detect(frame(frame_id=4)).computed
    detector.switch.set(True)
    assert detector.detect(frame(frame_id=5)).computed
    detector.phrases.remove("needle")
    gone = detector.detect(frame(frame_id=6))
    assert gone.classes is not None
    assert gone.classes.nonzero()[:, 0].tolist() == [0]
    assert not any(detector.detect(frame(frame_id=7 + number)).computed for number in range(3))


def test_a_phrase_that_finds_nothing_for_1000_frames_harms_nothing(folder: Path) -> None:
    detector = made(folder, phrases=("needle",), min_score=1.0, every=50)
    for number in range(1000):
        found = detector.detect(frame(frame_id=number))
    assert not found.valid.any()


def test_memory_stays_as_it_is_while_phrases_change(folder: Path) -> None:
    detector = made(folder, phrases=("needle",), every=1)

    def frames(first: int, count: int, *, looking: bool = True) -> int:
        for number in range(first, first + count):
            detector.phrases.add(f"p{number:03}")
            detector.phrases.turn(number)
            if looking:
                detector.detect(frame(frame_id=number))
            detector.phrases.remove(f"p{number:03}")
            detector.phrases.turn(number)
        return tensor_bytes()

    frames(0, 70, looking=False)  # more phrases than are remembered
    before = frames(70, 2)
    assert frames(72, 6) == before
    assert detector.phrases.now == ("needle",)


# --- bad input -----------------------------------------------------------------------------


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def edited(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        value = json.loads((folder / name).read_text())
        change(value)
        (folder / name).write_text(json.dumps(value))

    return edit


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def no_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (folder / name).unlink()


def no_bpe(folder: Path) -> None:
    for name in ("tokenizer.json", "merges.txt"):
        (folder / name).unlink()


def fewer_tensors(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    save_file(dict(list(load_file(path).items())[5:]), path, metadata={"format": "pt"})


def not_finite(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values())).view(-1)[0] = torch.nan
    save_file(tensors, path, metadata={"format": "pt"})


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "architecture": (edited("config.json", lambda c: c.update(model_type="x")), "is 'x', exp"),
    "backbone": (
        edited("config.json", lambda c: c["vision_config"]["backbone_config"].update(
            model_type="timm_backbone")),
        "vision_config.backbone_config is not of type sam3_vit_model",
    ),
    "config": (without("config.json"), "config.json: no such file"),
    "config_text": (lambda f: (f / "config.json").write_text("{"), "config.json: not JSON"),
    "pickle": (pickled, "holds pytorch_model.bin, a pickle, which could run code"),
    "weights": (without("model.safetensors"), "model.safetensors: no such file"),
    "truncated": (cut, "model.safetensors: truncated or not a safetensors file"),
    "empty": (lambda f: (f / "model.safetensors").write_bytes(b""), "the file is empty"),
    "not_finite": (not_finite, "holds values that are not finite"),
    "fewer": (fewer_tensors, "lacks "),
    "tokenizer": (no_tokenizer, "lacks tokenizer.json, or vocab.json in its place"),
    "bpe": (no_bpe, "lacks tokenizer.json, or merges.txt in its place"),
    "tokenizer_text": (lambda f: (f / "tokenizer.json").write_text("x"), "tokenizer.json: not JS"),
    "tokenizer_empty": (
        lambda f: (f / "tokenizer.json").write_text("{}"),
        "the tokenizer cannot be read",
    ),
    "pixels": (without("processor_config.json"), "processor_config.json: no such file"),
    "side": (
        edited("processor_config.json", lambda c: c["image_processor"].update(
            size={"height": 64, "width": 64})),
        "pictures of (64, 64) pixels for a model of (112, 112)",
    ),
    "resample": (
        edited("processor_config.json", lambda c: c["image_processor"].update(resample=3)),
        "resample is 3, expected 2 (bilinear)",
    ),
    "mean": (
        edited("processor_config.json", lambda c: c["image_processor"].pop("image_mean")),
        "expected size, image_mean, image_std",
    ),
}  # fmt: skip


BAD_FILE = {
    "fewer": "model.safetensors",
    "not_finite": "model.safetensors",
    "side": "processor_config.json",
    "tokenizer_empty": "tokenizer.json",
}
"""What is found when everything is loaded names the file, too."""


@pytest.mark.parametrize("name", sorted(BAD))
def test_a_bad_folder_is_one_line(folder: Path, tmp_path: Path, name: str) -> None:
    spoil, expected = BAD[name]
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    spoil(copy)
    with pytest.raises(ConfigError) as caught:
        made(copy)
    assert expected in str(caught.value)
    assert str(copy / BAD_FILE.get(name, "")) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_of_another_digest_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="sha256 is"):
        made(folder, sha256="0" * 64)


def test_one_digest_does_not_stand_for_several_files(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "model"))
    whole = copy / "model.safetensors"
    names = ["model-1.safetensors", "model-2.safetensors"]
    for name in names:
        shutil.copy(whole, copy / name)
    whole.unlink()
    index = {"weight_map": dict(enumerate(names))}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError, match="its weights are 2 files"):
        made(copy, sha256=sha256_of(copy / names[0]))


@pytest.mark.parametrize(
    ("model", "revision", "expected"),
    [
        ("/nowhere/sam3", None, "no such folder, expected one with a SAM3 model"),
        ("facebook/sam3", None, "no such folder, and as a model id it needs `revision`"),
        ("models/sam3", None, "no such folder"),
        ("face..book/sam3", "0" * 40, "neither a folder nor a model id"),
        ("facebook/sam3", "0" * 40, "is not in the local cache .nothing is downloaded"),
    ],
)
def test_a_model_that_is_not_here_is_not_fetched(
    model: str, revision: str | None, expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected):
        Sam3TextDetector(Sam3TextConfig(model=model, revision=revision), CPU)


def test_without_transformers_one_line_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"needs the transformers package.*\[concepts\]"):
        made(folder)


@pytest.mark.parametrize(
    "phrases", [("",), ("  ",), ("a", "a"), tuple(f"p{number}" for number in range(100))]
)
def test_phrases_that_cannot_be_configured(phrases: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="phrases"):
        Sam3TextConfig(model="m", phrases=phrases)


def test_a_phrase_that_is_longer_than_the_model_reads(detector: Sam3TextDetector) -> None:
    told = detector.phrases.add("incomprehensibilities and more of the same")
    assert told.result(timeout=0).reason == "long_phrase"


def test_the_pictures_are_those_of_the_processor(detector: Sam3TextDetector, folder: Path) -> None:
    from transformers import Sam3ImageProcessor

    processor = Sam3ImageProcessor.from_pretrained(folder, local_files_only=True)
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (77, 201, 3), dtype=np.uint8)
    network: Any = detector._network
    ours = network._input.fit(torch.from_numpy(picture).permute(2, 0, 1))
    theirs = processor(picture, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
