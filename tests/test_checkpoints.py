"""Weights files in every bad shape: one clear line each."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stages.checkpoints import (
    check_sha256,
    load_state,
    one_line,
    read_safetensors,
    require_file,
)
from stages.errors import ConfigError


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    save_file(torch.nn.Linear(2, 3).state_dict(), path, metadata={"format": "x"})
    return path


def refusal(error: pytest.ExceptionInfo[ConfigError], path: Path) -> str:
    """The message, after checking that it is one line that names the file."""
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_a_good_file_is_read_whole(weights: Path) -> None:
    file = read_safetensors(weights)
    assert file.metadata == {"format": "x"}
    assert {name: tuple(t.shape) for name, t in file.tensors.items()} == {
        "weight": (3, 2),
        "bias": (3,),
    }


def test_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "absent.pt"
    with pytest.raises(ConfigError) as error:
        require_file(path, "YOLO weights")
    assert "no such file, expected YOLO weights" in refusal(error, path)


def test_folder_instead_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        require_file(tmp_path, "YOLO weights")
    assert "not a file" in refusal(error, tmp_path)


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.pt"
    path.touch()
    with pytest.raises(ConfigError) as error:
        require_file(path, "YOLO weights")
    assert "empty" in refusal(error, path)


@pytest.mark.parametrize("change", [str.lower, str.upper])
def test_sha256_match(weights: Path, change: object) -> None:
    assert callable(change)
    check_sha256(weights, change(hashlib.sha256(weights.read_bytes()).hexdigest()))
    check_sha256(weights, None)


def test_sha256_mismatch_names_both(weights: Path) -> None:
    actual = hashlib.sha256(weights.read_bytes()).hexdigest()
    with pytest.raises(ConfigError) as error:
        check_sha256(weights, "0" * 64)
    assert f"sha256 is {actual}, expected {'0' * 64}" in refusal(error, weights)


@pytest.mark.parametrize(
    "content",
    [
        b"a text, no weights",
        b"\x00",
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 40) + b'{"a":{"dtype":"F32","shape":[9],"data_of',
        struct.pack("<Q", 2) + b"[]",
    ],
)
def test_not_a_safetensors_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        read_safetensors(path)
    assert "truncated or not a safetensors file" in refusal(error, path)


def test_a_file_cut_anywhere_is_refused(weights: Path, tmp_path: Path) -> None:
    whole = weights.read_bytes()
    path = tmp_path / "cut.safetensors"
    for length in range(1, len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ConfigError, match="truncated"):
            read_safetensors(path)


def changed(**tensors: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"weight": torch.zeros(3, 2), "bias": torch.zeros(3), **tensors}


@pytest.mark.parametrize(
    ("tensors", "problem"),
    [
        ({"bias": torch.zeros(3)}, "lacks weight"),
        (changed(other=torch.zeros(1)), "has an unknown other"),
        (changed(weight=torch.zeros(2, 3)), "weight is (2, 3) where (3, 2) belongs"),
        (changed(bias=torch.zeros(3, dtype=torch.int64)), "bias is torch.int64 where"),
        (changed(bias=torch.tensor([0, torch.nan, 0])), "bias holds values that are not finite"),
        (changed(bias=torch.tensor([0, torch.inf, 0])), "bias holds values that are not finite"),
        ({"a": torch.zeros(1)}, "lacks weight (and 2 more), expected the 2 tensors of a Linear"),
    ],
)
def test_state_that_does_not_fit(tensors: dict[str, torch.Tensor], problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_state(torch.nn.Linear(2, 3), tensors, Path("some.safetensors"), "a Linear")
    assert problem in refusal(error, Path("some.safetensors"))


def test_half_precision_state_is_widened() -> None:
    module = torch.nn.Linear(2, 3)
    load_state(module, {k: v.half() for k, v in changed().items()}, Path("x"), "a Linear")
    assert module.weight.dtype == torch.float32
    assert not module.weight.any()


def test_one_line_takes_the_first_and_cuts_it() -> None:
    assert one_line(ValueError("first\nsecond")) == "first"
    assert one_line(ValueError("x" * 500), 10) == "x" * 10
    assert one_line(KeyError()) == "KeyError"
