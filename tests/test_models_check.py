"""`maskstream models check`: what is loaded and run, and which file is broken."""

from __future__ import annotations

import gzip
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ROOT, Outcome
from fake_sam3 import install_sam3, with_gpus
from test_sam3_session import FRAMES, FakePredictor
from tiny_sam3 import write_sam3
from yolo_files import tiny_model, write_pt

from pipeline.models.flaws import flaw_of
from stages.detectors.yolo_network import import_ultralytics
from stages.sam3_predictor import BPE

Call = Callable[..., Outcome]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sam3(tmp_path_factory.mktemp("sam3"))


def test_a_shipped_model_is_run(call_main: Call) -> None:
    told = call_main("models", "check", "yolo_demo", "--device", "cpu")
    assert (told.code, told.stderr) == (0, "")
    assert "detector, next frame: " in told.stdout
    assert "resident memory +" in told.stdout
    assert told.stdout.endswith("ok\n")


def test_a_folder_is_run(call_main: Call, folder: Path) -> None:
    told = call_main("models", "check", str(folder), "--device", "cpu")
    assert told.code == 0, told.stdout
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert digest in told.stdout
    assert told.stdout.endswith("ok\n")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


BROKEN: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "cut": ("model.safetensors", _cut, "truncated or not a safetensors file"),
    "empty": ("model.safetensors", lambda path: path.write_bytes(b""), "the file is empty"),
    "text": ("tokenizer.json", lambda path: path.write_text("{"), "not JSON"),
    "bpe": ("merges.txt", lambda path: path.write_bytes(b""), "the file is empty"),
    "lacking": (
        "config.json",
        lambda path: path.write_text('{"model_type": "sam3"}'),
        "config.json",
    ),
    "gone": ("processor_config.json", lambda path: path.unlink(), "no such file"),
}


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_a_broken_file_is_named_with_the_reason(
    call_main: Call, folder: Path, tmp_path: Path, name: str
) -> None:
    file, spoil, reason = BROKEN[name]
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    spoil(copy / file)
    told = call_main("models", "check", str(copy), "--device", "cpu")
    assert told.code == 1
    failed = [line for line in told.stdout.splitlines() if line.startswith("FAILED")]
    assert len(failed) == 1
    assert reason in failed[0]
    assert str(copy / file) in failed[0]


WEIGHTS = {
    "yolo_demo.safetensors": "detector, next frame: ",
    "sam2_demo.safetensors": "segmenter, after it, next frame: ",
}


@pytest.mark.parametrize("name", sorted(WEIGHTS))
def test_a_file_of_weights_is_run(call_main: Call, tmp_path: Path, name: str) -> None:
    for path in ROOT.glob(f"stages/*/weights/{Path(name).stem}.*"):
        shutil.copy(path, tmp_path)
    told = call_main("models", "check", str(tmp_path / name), "--device", "cpu")
    assert told.code == 0, told.stdout
    assert WEIGHTS[name] in told.stdout


def test_a_file_of_ultralytics_is_run(call_main: Call, tmp_path: Path) -> None:
    path = write_pt(tmp_path / "best.pt", tiny_model())
    told = call_main("models", "check", str(path), "--device", "cpu")
    assert told.code == 0, told.stdout
    assert "detector, next frame: " in told.stdout


def test_it_is_also_where_ultralytics_declared_its_classes_safe(
    call_main: Call, tmp_path: Path
) -> None:
    path = write_pt(tmp_path / "best.pt", tiny_model())
    import_ultralytics().YOLO(str(path))  # which it does for the life of the process
    assert torch.load(path, weights_only=True)
    told = call_main("models", "check", str(path), "--device", "cpu")
    assert told.code == 0, told.stdout
    assert "detector, next frame: " in told.stdout


def _dfine(folder: Path, config: str | None) -> Path:
    demo = ROOT / "stages" / "detectors" / "weights" / "dfine_demo"
    shutil.copytree(demo, folder)
    text = (folder / "config.json").read_text()
    (folder / "config.json").unlink()
    if config is not None:
        (folder / "config.json").write_text(text.replace('"d_fine"', f'"{config}"'))
    return folder


def _damaged(path: Path) -> Path:
    torch.save({"model": {"a": torch.full((1000,), 1.5)}}, path)
    body = path.read_bytes()
    path.write_bytes(body.replace(torch.full((9,), 1.5).numpy().tobytes(), b"?" * 36, 1))
    return path


def _native(folder: Path, bpe: bytes | None) -> Path:
    folder.mkdir()
    torch.save({"model": {}}, folder / "sam3.pt")
    if bpe is not None:
        (folder / BPE).write_bytes(bpe)
    return folder


def _written(path: Path, body: bytes) -> Path:
    path.write_bytes(body)
    return path


def _tensors(path: Path) -> Path:
    torch.save({"model": {"a": torch.zeros(3)}}, path)
    return path


NOISE = bytes(range(7, 256)) * 20
UNUSABLE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "noise": (lambda f: _written(f / "best.pt", NOISE), "best.pt: truncated or not a torch file"),
    "damaged": (lambda f: _damaged(f / "best.pt"), "/data/0 does not match its check sum"),
    "tensors": (lambda f: _tensors(f / "best.pt"), "best.pt: no stage loads this by itself"),
    "alone": (
        lambda f: _dfine(f / "m", "d_fine") / "model.safetensors",
        "model.safetensors: no stage loads this by itself",
    ),
    "no_config": (lambda f: _dfine(f / "m", None), "m/config.json: no such file, expected a model"),
    "another": (lambda f: _dfine(f / "m", "dfine"), "m/config.json: model_type is 'dfine', exp"),
    "text": (
        lambda f: _written(f / "config.json", b'{"model_type": "bert"}').parent,
        "config.json: model_type is 'bert', expected",
    ),
    "vocabulary": (lambda f: _native(f / "m", NOISE), f"{BPE}: truncated or not a gzip file"),
    "vocabulary_cut": (
        lambda f: _native(f / "m", gzip.compress(NOISE)[:-9]),
        f"{BPE}: truncated or not a gzip file",
    ),
    "vocabulary_gone": (lambda f: _native(f / "m", None), f"{BPE}: no such file, expected the BPE"),
    "native_file": (
        lambda f: _native(f / "m", gzip.compress(NOISE)) / "sam3.pt",
        "sam3 clip sessions need a CUDA GPU",
    ),
}


@pytest.mark.parametrize("name", sorted(UNUSABLE))
def test_what_cannot_be_loaded_is_never_well(
    call_main: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with_gpus(monkeypatch, 0)
    make, reason = UNUSABLE[name]
    told = call_main("models", "check", str(make(tmp_path)), "--device", "cpu")
    assert told.code == 1, told.stdout
    failed = [line for line in told.stdout.splitlines() if line.startswith("FAILED")]
    assert len(failed) == 1
    assert reason in failed[0]


def test_a_torch_file_of_before_zip_has_no_check_sums(tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    torch.save({"model": {}}, path, _use_new_zipfile_serialization=False)
    assert flaw_of(path) is None
    path.write_bytes(path.read_bytes()[1:])
    assert flaw_of(path) == "truncated or not a torch file (File is not a zip file)"


def test_weights_that_nothing_reads_are_named(
    call_main: Call, tmp_path: Path, folder: Path
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "model"))
    torch.save({}, copy / "pytorch_model.bin")
    told = call_main("models", "check", str(copy), "--device", "cpu")
    assert told.code == 0, told.stdout
    assert [line for line in told.stdout.splitlines() if "not loaded" in line] == [
        "  not loaded: pytorch_model.bin"
    ]


def test_files_of_the_native_package_are_opened_by_it(
    call_main: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = FakePredictor(empty=frozenset(range(FRAMES)))
    install_sam3(monkeypatch, lambda **told: predictor)
    asked = ("models", "check", str(_native(tmp_path / "m", gzip.compress(NOISE))), "--device")
    told = call_main(*asked, "cpu")
    assert told.code == 0, told.stdout
    assert "licence SAM License" in told.stdout
    assert "  sam3 0.1.4, torch 2.15.0+cu130, checkpoint sha256 " in told.stdout
    assert "clip, words on its first frame: " in told.stdout
    assert predictor.shutdowns == 1
    assert [each["type"] for each in predictor.requests] == [
        "start_session", "add_prompt", "propagate_in_video", "close_session"
    ]  # fmt: skip
    broken = FakePredictor(breaks_at=-1)
    install_sam3(monkeypatch, lambda **told: broken)
    told = call_main(*asked, "cpu")
    assert told.code == 1
    assert "FAILED  sam3: frame 0: CUDA out of memory; the session is closed" in told.stdout
    assert broken.shutdowns == 1


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("nothing", "nothing"),
        ("none.safetensors", "no such file, expected one, a folder, or one of"),
    ],
)
def test_what_is_nothing_is_told(call_main: Call, target: str, said: str) -> None:
    told = call_main("models", "check", target)
    assert told.code == 78
    assert said in told.stderr
    assert told.stderr.count("\n") == 1


def test_an_empty_folder(call_main: Call, tmp_path: Path) -> None:
    assert "holds no model files" in call_main("models", "check", str(tmp_path)).stderr
