"""YOLO weights files: what loads, what is refused, and that nothing in a file ever runs."""

from __future__ import annotations

import json
import os
import zipfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from stages.checkpoints import WEIGHTS_FORMAT
from stages.detectors.yolo_checkpoint import read_yolo_weights
from stages.detectors.yolo_network import build_network, import_ultralytics
from stages.detectors.yolo_pickle import Shell
from stages.detectors.yolo_structure import check_structure
from stages.errors import ConfigError
from tests.yolo_files import CLASS_NAMES, TINY, tiny_model, with_pickle, write_pt, write_safetensors


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model()


def refused(path: Path) -> str:
    """The message of the refusal, after checking that it is one line that names the file."""
    with pytest.raises(ConfigError) as error:
        build_network(read_yolo_weights(path), 4)
    message = str(error.value)
    assert str(path.parent) in message
    assert "\n" not in message
    return message


# What loads


def test_safetensors_with_everything_in_the_metadata(tmp_path: Path, model: Any) -> None:
    weights = read_yolo_weights(write_safetensors(tmp_path / "own.safetensors", model))
    assert weights.class_names == CLASS_NAMES
    assert weights.input_hw == (64, 96)
    assert weights.structure["head"] == TINY["head"]


def test_safetensors_with_the_structure_in_a_yaml_beside(tmp_path: Path, model: Any) -> None:
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(TINY))
    path = write_safetensors(
        tmp_path / "own.safetensors", model, leave_out=("model_yaml", "input_size")
    )
    weights = read_yolo_weights(path)
    assert weights.structure["backbone"] == TINY["backbone"]
    assert weights.input_hw is None


def test_safetensors_may_not_point_outside_its_folder(tmp_path: Path, model: Any) -> None:
    (tmp_path / "outside.yaml").write_text(yaml.safe_dump(TINY))
    (tmp_path / "in").mkdir()
    path = write_safetensors(
        tmp_path / "in" / "own.safetensors",
        model,
        leave_out=("model_yaml",),
        config="../outside.yaml",
    )
    assert str(tmp_path / "in" / "outside.yaml") in refused(path)


def test_pt_saved_by_ultralytics(tmp_path: Path, model: Any) -> None:
    """`YOLO.save`, the package's own writer, on a model built from a YAML file."""
    import_ultralytics()
    from ultralytics import YOLO

    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    yolo = YOLO(tmp_path / "tiny.yaml", task="detect", verbose=False)
    yolo.save(tmp_path / "saved.pt")
    weights = read_yolo_weights(tmp_path / "saved.pt")
    assert weights.class_names == ("0", "1", "2")
    assert weights.input_hw == (640, 640)
    expected = yolo.model.half().float().state_dict()
    assert set(weights.tensors) == set(expected)
    assert all(torch.equal(weights.tensors[name].float(), expected[name]) for name in expected)


@pytest.mark.parametrize("held_as", ["model", "ema"])
def test_pt_of_the_trainers_layout(tmp_path: Path, model: Any, held_as: str) -> None:
    """Names, image size and half-precision tensors; the EMA wins over the model."""
    path = write_pt(tmp_path / "best.pt", model)
    if held_as == "ema":
        ema = deepcopy(model).half()
        ema.names = {0: "x", 1: "y", 2: "z"}
        write_pt(path, model, ema=ema, train_args={"imgsz": [50, 96]})
    weights = read_yolo_weights(path)
    assert weights.class_names == (CLASS_NAMES if held_as == "model" else ("x", "y", "z"))
    assert weights.input_hw == ((64, 64) if held_as == "model" else (64, 96))
    network = build_network(weights, 4)
    assert tuple(network(torch.zeros(1, 3, 64, 64))[0].shape) == (1, 4, 6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolo26n.yaml", "yolov10n.yaml", "yolo26-p2.yaml"])
def test_structures_of_the_released_models(tmp_path: Path, name: str) -> None:
    import_ultralytics()
    from ultralytics import YOLO

    YOLO(name, task="detect", verbose=False).save(tmp_path / "released.pt")
    network = build_network(read_yolo_weights(tmp_path / "released.pt"), 300)
    assert tuple(network(torch.zeros(1, 3, 160, 160))[0].shape) == (1, 300, 6)


def test_rebuilt_network_computes_what_the_pickled_one_does(tmp_path: Path, model: Any) -> None:
    path = write_pt(tmp_path / "best.pt", model)
    theirs = torch.load(path, weights_only=False)["model"].float()
    theirs.end2end = True
    theirs.model[-1].max_det, theirs.model[-1].agnostic_nms = 9, True
    picture = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        ours = build_network(read_yolo_weights(path), 9)(picture)[0]
        torch.testing.assert_close(ours, theirs.fuse(verbose=False).eval()(picture)[0])


# Damaged and foreign files


def test_sha256_is_checked_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "text.pt"
    path.write_text("no weights")
    with pytest.raises(ConfigError, match=r"sha256 is .*, expected 0000"):
        read_yolo_weights(path, "0" * 64)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"a text, no weights", b"PK\x03\x04 half a zip"])
def test_missing_empty_and_foreign_files(
    tmp_path: Path, suffix: str, content: bytes | None
) -> None:
    path = tmp_path / f"weights{suffix}"
    if content is not None:
        path.write_bytes(content)
    assert "expected" in refused(path) or "not a safetensors file" in refused(path)


def test_unknown_suffix(tmp_path: Path) -> None:
    path = tmp_path / "weights.onnx"
    path.write_bytes(b"x")
    assert "'.onnx', expected .safetensors or .pt" in refused(path)


@pytest.mark.parametrize("part", [0.3, 0.7, 0.99])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_truncated_file(tmp_path: Path, model: Any, suffix: str, part: float) -> None:
    path = tmp_path / f"cut{suffix}"
    (write_pt if suffix == ".pt" else write_safetensors)(path, model)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    assert "truncated" in refused(path)


def test_compressed_archive(tmp_path: Path, model: Any) -> None:
    """A zip bomb would have to be compressed."""
    path = write_pt(tmp_path / "packed.pt", model)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    assert "is compressed" in refused(path)


@pytest.mark.parametrize(
    ("content", "held"),
    [
        ([1, 2], "a list"),
        ({"weight": torch.zeros(2)}, "no model"),
        ({"model": {"a": torch.zeros(2)}}, "a dict"),
        ({"model": torch.nn.Linear(2, 2)}, "a Linear"),
    ],
)
def test_pt_without_a_detection_model(tmp_path: Path, content: object, held: str) -> None:
    torch.save(content, tmp_path / "other.pt")
    assert f"holds {held}" in refused(tmp_path / "other.pt")


def test_pt_of_modules_linked_in_a_ring(tmp_path: Path, model: Any) -> None:
    ring = deepcopy(model)
    ring._modules["again"] = ring
    torch.save({"model": ring}, tmp_path / "ring.pt")
    assert "more than 5000 modules" in refused(tmp_path / "ring.pt")


def test_weights_of_another_structure(tmp_path: Path, model: Any) -> None:
    wider = deepcopy(TINY)
    wider["backbone"][1][3] = [16, 3, 2]
    path = write_safetensors(tmp_path / "other.safetensors", model, model_yaml=json.dumps(wider))
    assert "model.1.conv.weight is (8, 8, 3, 3) where (16, 8, 3, 3) belongs" in refused(path)


def test_weights_that_are_not_finite(tmp_path: Path, model: Any) -> None:
    broken = deepcopy(model)
    broken.state_dict()["model.0.conv.weight"][0, 0, 0, 0] = torch.nan
    path = write_safetensors(tmp_path / "nan.safetensors", broken)
    assert "model.0.conv.weight holds values that are not finite" in refused(path)


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        ({"format": "other"}, f"format 'other', expected '{WEIGHTS_FORMAT}'"),
        ({"class_names": "{]"}, "class_names is not JSON"),
        ({"class_names": '["a", "b"]'}, "expected nc = 3"),
        ({"class_names": '["a", "a", "b"]'}, "2 different class names in a list of 3"),
        ({"class_names": "[1, 2, 3]"}, "class names are not a list of texts"),
        ({"input_size": "[64]"}, "input size is [64]"),
        ({"input_size": "[64, -1]"}, "input size is [64, -1]"),
        ({"model_yaml": "[]"}, "not a mapping, expected a model YAML"),
        ({"model_yaml": "[" * 100_000}, "is not JSON"),
    ],
)
def test_safetensors_with_wrong_metadata(
    tmp_path: Path, model: Any, metadata: dict[str, str], problem: str
) -> None:
    path = write_safetensors(tmp_path / "own.safetensors", model, **metadata)
    assert problem in refused(path)


def test_safetensors_without_class_names(tmp_path: Path, model: Any) -> None:
    path = write_safetensors(tmp_path / "own.safetensors", model, leave_out=("class_names",))
    assert "metadata lacks class_names" in refused(path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("nc: [", "not a model YAML"),
        ("!!python/object/apply:os.system ['true']", "not a model YAML"),
        ("# " + "x" * 70_000, "larger than"),
        ("a: &a [1]\nb: &b [*a, *a]\nbackbone: [*b, *b]", "expected [from, repeats"),
    ],
)
def test_structure_file_beside_that_cannot_be_used(
    tmp_path: Path, model: Any, text: str, problem: str
) -> None:
    (tmp_path / "own.yaml").write_text(text)
    path = write_safetensors(tmp_path / "own.safetensors", model, leave_out=("model_yaml",))
    assert problem in refused(path)


def test_structure_file_beside_is_the_one_trained_with(tmp_path: Path, model: Any) -> None:
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(TINY))
    path = write_safetensors(
        tmp_path / "own.safetensors", model, leave_out=("model_yaml",), config_sha256="0" * 64
    )
    assert "own.yaml: sha256 is" in refused(path)


# Structures


def changed(**changes: object) -> dict[str, object]:
    return {**deepcopy(TINY), **changes}


@pytest.mark.parametrize(
    "settings",
    [
        {"activation": "nn.ReLU()"},
        {"activation": "torch.nn.LeakyReLU(0.1)"},
        {"activation": "nn.SiLU(inplace=True)"},
        {"scales": {"n": [0.5, 0.25, 1024]}, "scale": "n"},
        {"scales": {"n": [0.5, 0.25, 1024]}, "scale": ""},
        {"channels": 3, "yaml_file": "/somewhere/else.yaml", "kpt_shape": None},
    ],
)
def test_structures_that_pass(settings: dict[str, object]) -> None:
    checked = check_structure(changed(**settings), "x.yaml")
    assert "yaml_file" not in checked
    tasks = import_ultralytics().nn.tasks
    assert tasks.DetectionModel(checked, ch=3, verbose=False).model[-1].nc == 3


EVIL = "__import__('os').system('true')"
HEAD = [[2, 3], 1, "Detect", ["nc"]]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"activation": EVIL}, "activation is"),
        ({"activation": f"nn.SiLU({EVIL})"}, "activation is"),
        ({"activation": "nn.ReLU() or 1"}, "activation is"),
        ({"activation": ["nn.ReLU()"]}, "activation is list"),
        ({"nc": 2.5}, "nc is 2.5"),
        ({"nc": "80"}, "nc is '80'"),
        ({"width_multiple": 1e9}, "width_multiple is"),
        ({"reg_max": float("nan")}, "reg_max is nan"),
        ({"end2end": "yes"}, "end2end is 'yes'"),
        ({"channels": 1}, "channels is 1, expected 3"),
        ({"scales": {"n": [1, 2]}}, "scales is not a table"),
        ({"scales": {"n": [1, 2, 3]}, "scale": "q"}, "scale 'q' unknown"),
        ({"backbone": []}, "backbone: expected a list"),
        ({"backbone": [TINY["backbone"][0]] * 500}, "backbone: expected a list"),
        ({"backbone": [[-1, 1, "torch_safe_load", ["x.pt"]]]}, "layer 'torch_safe_load'"),
        ({"backbone": [[-1, 1, "DetectionModel", [{"activation": EVIL}]]]}, "'DetectionModel'"),
        ({"backbone": [[-1, 1, "TorchVision", [8, "resnet18"]]]}, "layer 'TorchVision'"),
        ({"backbone": [[-1, 1, "nn.Module", []]]}, "layer 'nn.Module'"),
        ({"backbone": [[-1, 1, ["Conv"], []]]}, "layer list"),
        ({"backbone": [[-1, 10**6, "Conv", [8]]]}, "repeats is 1000000"),
        ({"backbone": [[-1, True, "Conv", [8]]]}, "repeats is True"),
        ({"backbone": [["x", 1, "Conv", [8]]]}, "from is 'x'"),
        ({"backbone": [[-1, 1, "Conv", [10**6]]]}, "argument 1000000"),
        ({"backbone": [[-1, 1, "Conv", ["__class__"]]]}, "argument '__class__'"),
        ({"backbone": [[-1, 1, "Conv", {"a": 1}]]}, "arguments are dict"),
        ({"backbone": [[-1, 1, "Conv", [[[1]]]]]}, "argument list"),
        ({"backbone": [[-1, 1, "Conv"]]}, "expected [from, repeats, layer, arguments]"),
        ({"head": [[[2, 3], 1, "Segment", ["nc"]]]}, "layer 'Segment'"),
        ({"head": [HEAD, [-1, 1, "Conv", [8]]]}, "the last layer is Conv"),
        ({"head": [HEAD, HEAD]}, "the last layer is Detect, expected the only"),
    ],
)
def test_structures_that_are_refused(changes: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_structure(changed(**changes), "x.yaml")
    assert problem in str(error.value)
    assert str(error.value).startswith("x.yaml: ")


def test_structure_that_passes_and_cannot_be_built(tmp_path: Path, model: Any) -> None:
    broken = changed(head=[[[99], 1, "Detect", ["nc"]]])
    path = write_safetensors(tmp_path / "own.safetensors", model, model_yaml=json.dumps(broken))
    assert "its model structure cannot be built" in refused(path)


# Files that would run code


class Calls:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[object, ...]]:
        return self.function, self.arguments


def touch(marker: Path) -> str:
    """A Python expression that makes the marker file."""
    return f"__import__('os').system('touch {marker}')"


@pytest.mark.parametrize("place", ["whole", "model", "beside"])
@pytest.mark.parametrize("function", ["os.system", "eval"])
def test_pickled_call_is_refused_unexecuted(
    tmp_path: Path, model: Any, function: str, place: str
) -> None:
    marker, path = tmp_path / "ran", tmp_path / "evil.pt"
    calls = {"eval": Calls(eval, touch(marker)), "os.system": Calls(os.system, f"touch {marker}")}
    call = calls[function]
    content: Any = call
    if place == "model":
        content = {"model": call}
    elif place == "beside":
        content = {"model": deepcopy(model).half(), "date": call}
    torch.save(content, path)
    named = "builtins.eval" if function == "eval" else "posix.system"
    assert f"refused, it names {named}" in refused(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)  # the control: the file does what it says
    assert marker.exists()


def test_pickled_call_of_an_allowed_class_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ultralytics evaluates a structure's activation as Python when its class is called."""
    tasks = import_ultralytics().nn.tasks
    marker, path = tmp_path / "ran", tmp_path / "evil.pt"
    evil = changed(activation=f"{touch(marker)} or torch.nn.ReLU()")
    torch.save({"model": Calls(tasks.DetectionModel, evil)}, path)
    assert "not a mapping, expected a model YAML" in refused(path)
    assert not marker.exists()
    # The control: with the real class on the allow-list, `weights_only` runs it.
    monkeypatch.setattr(tasks, "SAFE_LOAD", False)
    with torch.serialization.safe_globals([tasks.DetectionModel]):
        torch.load(path, weights_only=True)
    assert marker.exists()


def test_evaluated_activation_in_a_pickled_model_is_refused(tmp_path: Path, model: Any) -> None:
    evil = deepcopy(model)
    evil.yaml["activation"] = touch(tmp_path / "ran")
    assert "activation is" in refused(write_pt(tmp_path / "evil.pt", evil))
    assert not (tmp_path / "ran").exists()


def test_attribute_path_through_an_allowed_package_does_nothing(tmp_path: Path) -> None:
    """`ultralytics.utils` imports `os`; a pickle may name what it reaches through it."""
    marker = tmp_path / "ran"
    name, command = b"ultralytics.utils\nos.system\n", f"touch {marker}".encode()
    text = b"X" + len(command).to_bytes(4, "little") + command
    path = with_pickle(tmp_path / "evil.pt", b"\x80\x02c" + name + text + b"\x85R.")
    assert "holds a system" in refused(path)
    assert not marker.exists()


def test_replaced_forward_of_a_pickled_layer_is_not_taken_over(tmp_path: Path, model: Any) -> None:
    changed_model = deepcopy(model)
    changed_model.model[0].forward = torch.nn.Identity()
    changed_model.model[1].f = 0
    network: Any = build_network(read_yolo_weights(write_pt(tmp_path / "a.pt", changed_model)), 4)
    assert not isinstance(network.model[0].forward, torch.nn.Module | Shell)
    assert network.model[1].f == -1


def test_what_others_declared_safe_neither_helps_a_file_nor_is_lost(
    tmp_path: Path, model: Any
) -> None:
    tasks = import_ultralytics().nn.tasks
    path = write_pt(tmp_path / "best.pt", model)
    evil = tmp_path / "evil.pt"
    torch.save({"model": Calls(os.getpid)}, evil)
    with torch.serialization.safe_globals([tasks.DetectionModel, os.getpid]):
        declared = set(torch.serialization.get_safe_globals())
        assert read_yolo_weights(path).class_names == CLASS_NAMES
        assert "refused" in refused(evil)
        assert set(torch.serialization.get_safe_globals()) == declared
