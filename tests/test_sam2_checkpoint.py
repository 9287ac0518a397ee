"""Structures and weights that cannot be trusted, and those that can."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from huggingface_hub import constants
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from sam2.build_sam import HF_MODEL_ID_TO_FILENAMES
from torch import Tensor

from stages.errors import ConfigError
from stages.segmenters.model_ids import MODEL_IDS, SAM2_NAMES, weights_file
from stages.segmenters.prompts import PromptConfig
from stages.segmenters.sam2_checkpoint import build_sam2, build_structure
from stages.segmenters.sam2_stream import Sam2StreamConfig, Sam2StreamSegmenter
from tests.tiny_sam2 import detections, frame, tiny_structure, write_model, write_structure

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_model(tmp_path_factory.mktemp("sam2"))


def refusal(structure: Path | str, weights: Path | None, sha256: str | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        build_sam2(str(structure), weights, sha256, CPU)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_safetensors_and_torch_files_give_the_same_frozen_network(
    tiny: tuple[Path, Path], tmp_path: Path
) -> None:
    structure, weights = tiny
    saved = tmp_path / "tiny.pt"
    torch.save({"model": load_file(weights)}, saved)
    digest = hashlib.sha256(saved.read_bytes()).hexdigest()
    first = build_sam2(str(structure), weights, None, CPU)
    second = build_sam2(str(structure), saved, digest, CPU)
    assert not first.training
    assert not any(parameter.requires_grad for parameter in first.parameters())
    for name, value in second.state_dict().items():
        assert torch.equal(value, first.state_dict()[name]), name


def test_the_demo_brings_its_own_weights() -> None:
    network = build_sam2("demo", None, None, CPU)
    assert network.image_size == 128
    assert {value.dtype for value in network.state_dict().values()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sam2.1_hiera_t", "sam2_hiera_b+"])
def test_named_structures_are_what_sam2_itself_builds(name: str) -> None:
    from sam2.build_sam import build_sam2 as official

    theirs = official(f"configs/{name.split('_')[0]}/{name}.yaml", device="cpu")
    ours = build_structure(name)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in theirs.state_dict().items()
    }
    for setting in ("via_stability", "stability_delta", "stability_thresh"):
        key = f"dynamic_multimask_{setting}"
        assert getattr(ours.sam_mask_decoder, key) == getattr(theirs.sam_mask_decoder, key)


@pytest.mark.parametrize("name", SAM2_NAMES)
def test_every_named_structure_is_there_and_allowed(name: str, tmp_path: Path) -> None:
    unread = tmp_path / "none.pt"
    assert refusal(name, unread).startswith(f"{unread}: no such file")


def test_a_structure_may_switch_off_what_sam2_adds(tmp_path: Path) -> None:
    structure = tiny_structure()
    structure.model.sam_mask_decoder_extra_args = {"dynamic_multimask_via_stability": False}
    network = build_structure(str(write_structure(tmp_path, structure)))
    assert network.sam_mask_decoder.dynamic_multimask_via_stability is False
    assert network.sam_mask_decoder.dynamic_multimask_stability_thresh == 0.98


class TestModelId:
    ID, FILE = "facebook/sam2.1-hiera-tiny", "sam2.1_hiera_tiny.pt"

    @pytest.fixture
    def cached(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Where the hub's own tools would have put the file; not there yet."""
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        folder = tmp_path / "models--facebook--sam2.1-hiera-tiny"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs/main").write_text("0123abc")
        (folder / "snapshots/0123abc").mkdir(parents=True)
        return folder / "snapshots/0123abc" / self.FILE

    def test_ids_and_files_are_those_of_sam2(self) -> None:
        theirs = {
            name: (Path(structure).stem, file)
            for name, (structure, file) in HF_MODEL_ID_TO_FILENAMES.items()
        }
        assert {name: (MODEL_IDS[name], weights_file(name)) for name in MODEL_IDS} == theirs

    def test_nothing_is_downloaded(self, cached: Path) -> None:
        assert refusal(self.ID, None) == (
            f"model: {self.ID} is not in the local cache (nothing is downloaded), "
            f"expected `hf download {self.ID} {self.FILE}` to have run"
        )

    def test_a_truncated_download_is_named(self, cached: Path) -> None:
        cached.write_bytes(b"PK")
        assert refusal(self.ID, None).startswith(f"{cached}: truncated")

    def test_the_package_is_asked_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        assert "pip install 'maskstream[hub]'" in refusal(self.ID, None)

    @pytest.mark.slow
    @pytest.mark.timeout(240)
    def test_what_is_in_the_cache_follows_an_object(self, cached: Path) -> None:
        torch.manual_seed(0)
        torch.save({"model": build_structure("sam2.1_hiera_t").state_dict()}, cached)
        digest = hashlib.sha256(cached.read_bytes()).hexdigest()
        config = Sam2StreamConfig(
            model=self.ID, sha256=digest, max_objects=1, conditioning_frames=2,
            prompts=(PromptConfig(box=(20, 20, 70, 60)),),
        )  # fmt: skip
        segmenter = Sam2StreamSegmenter(config, CPU)
        for number in range(2):
            of = frame(frame_id=number)
            tracks = segmenter.segment(detections(of, [[0.0] * 4], [False]))
            assert tracks.logits.shape == (1, 256, 256)
            assert tracks.object_ids.tolist() == [0]
            assert tracks.age_frames.tolist() == [0]
            assert bool(torch.isfinite(tracks.logits).all())


class TestStructure:
    @pytest.mark.parametrize(
        "target", ["pathlib.Path.touch", "sam2.build_sam.os.mkdir", "os.mkdir", None, 3]
    )
    @pytest.mark.parametrize("place", ["model", "model.image_encoder.trunk", "model.extras.0"])
    def test_calls_nothing_but_sam2(self, target: Any, place: str, tmp_path: Path) -> None:
        structure, trace = tiny_structure(), tmp_path / "trace"
        structure.model.extras = [{}]
        call = {"_target_": target, "_args_": [str(trace)]}
        OmegaConf.update(structure, place, call, merge=False)
        message = refusal(write_structure(tmp_path, structure), Path("unread.pt"))
        assert f"_target_ {target!r}" in message
        assert not trace.exists()

    def test_the_refused_call_would_have_run(self, tmp_path: Path) -> None:
        """The control: hydra reaches `os` through a name that begins with `sam2.`."""
        trace = tmp_path / "trace"
        hydra.utils.instantiate({"_target_": "sam2.build_sam.os.mkdir", "_args_": [str(trace)]})
        assert trace.exists()

    def test_reads_no_weights_of_its_own(self, tmp_path: Path) -> None:
        structure = tiny_structure()
        structure.model.image_encoder.trunk.weights_path = "/somewhere/hiera.pt"
        message = refusal(write_structure(tmp_path, structure), Path("unread.pt"))
        assert "weights_path" in message

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("model: [", "not a YAML structure"),
            ("a: 1", "has no `model`"),
            ("- 1", "has no `model`"),
            ("model: {image_size: 3}", "has no `model`"),
            ("model: {_target_: '${nothing}'}", "not a YAML structure"),
            ("model: {_target_: sam2.modeling.sam2_base.SAM2Base}", "cannot build"),
            ("", "empty"),
        ],
    )
    def test_nonsense_is_one_line(self, text: str, said: str, tmp_path: Path) -> None:
        path = tmp_path / "bad.yaml"
        path.write_text(text)
        with pytest.raises(ConfigError, match=said) as caught:
            build_structure(str(path))
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)

    def test_a_part_is_no_model(self, tiny: tuple[Path, Path], tmp_path: Path) -> None:
        path = tmp_path / "part.yaml"
        path.write_text("model: {_target_: sam2.modeling.memory_encoder.MaskDownSampler}")
        assert "sam2" in refusal(path, tiny[1])

    def test_unknown_name_lists_the_known_ones(self) -> None:
        message = refusal("sam2.1_hiera_xl", Path("unread.pt"))
        assert all(name in message for name in SAM2_NAMES)

    def test_missing_file(self, tmp_path: Path) -> None:
        assert "no such file" in refusal(tmp_path / "none.yaml", Path("unread.pt"))


class Loud:
    """What a hostile checkpoint holds: unpickling it makes a folder."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        import os

        return os.mkdir, (str(self.trace),)


class TestWeights:
    def test_missing(self, tiny: tuple[Path, Path], tmp_path: Path) -> None:
        assert "no such file" in refusal(tiny[0], tmp_path / "none.pt")
        assert "checkpoint: got none" in refusal(tiny[0], None)

    @pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
    @pytest.mark.parametrize("part", [0.0, 0.001, 0.9])
    def test_truncated(
        self, tiny: tuple[Path, Path], tmp_path: Path, suffix: str, part: float
    ) -> None:
        whole = tiny[1]
        if suffix == ".pt":
            whole = tmp_path / "whole.pt"
            torch.save({"model": load_file(tiny[1])}, whole)
        content = whole.read_bytes()
        cut = tmp_path / f"cut{suffix}"
        cut.write_bytes(content[: int(len(content) * part)])
        assert str(cut) in refusal(tiny[0], cut)

    def test_code_is_never_run(self, tiny: tuple[Path, Path], tmp_path: Path) -> None:
        trace, path = tmp_path / "trace", tmp_path / "hostile.pt"
        torch.save({"model": Loud(trace)}, path)
        assert "tensors only" in refusal(tiny[0], path)
        assert not trace.exists()
        torch.load(path, weights_only=False)  # the control: it would have run
        assert trace.exists()

    @pytest.mark.parametrize(
        "content", [{"a": torch.zeros(1)}, {"model": 3}, {"model": {"a": 1}}, [1]]
    )
    def test_foreign_content(
        self, tiny: tuple[Path, Path], tmp_path: Path, content: object
    ) -> None:
        path = tmp_path / "foreign.pt"
        torch.save(content, path)
        assert "expected sam2 weights" in refusal(tiny[0], path)

    def test_not_torch_at_all(self, tiny: tuple[Path, Path], tmp_path: Path) -> None:
        path = tmp_path / "text.pt"
        path.write_text("hello")
        assert "tensors only" in refusal(tiny[0], path)

    @pytest.mark.parametrize("change", ["lacks", "unknown", "shape", "nan"])
    def test_must_fit_exactly(self, tiny: tuple[Path, Path], tmp_path: Path, change: str) -> None:
        state: dict[str, Tensor] = load_file(tiny[1])
        if change == "lacks":
            del state["no_mem_embed"]
        elif change == "unknown":
            state["surplus"] = torch.zeros(1)
        elif change == "shape":
            state["no_mem_embed"] = torch.zeros(1, 1, 31)
        else:
            state["no_mem_embed"][0, 0, 0] = float("nan")
        path = tmp_path / "other.safetensors"
        save_file(state, path)
        assert ("surplus" if change == "unknown" else "no_mem_embed") in refusal(tiny[0], path)

    def test_sha256(self, tiny: tuple[Path, Path]) -> None:
        assert "sha256" in refusal(tiny[0], tiny[1], "0" * 64)


@pytest.mark.gpu
def test_a_model_on_the_cpu_leaves_nothing_on_the_gpu(tiny: tuple[Path, Path]) -> None:
    network = build_sam2(str(tiny[0]), tiny[1], None, CPU)
    for module in network.modules():
        held = [*vars(module).values(), *getattr(module, "cache", {}).values()]
        assert not any(isinstance(value, Tensor) and value.is_cuda for value in held)
