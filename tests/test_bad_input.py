"""Bad input, end to end: one clear line, the right exit code, nothing half-written.

Every case goes through the command's entry point in this process; one of each class also through
the real command in a process of its own.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import pytest
import torch
from conftest import Outcome, RunCli
from pydicom import dcmread, examples
from safetensors.numpy import save_file
from tiny_sam2 import write_model

CONFIG = """\
name: t
device: cpu
source: {kind: phantom, size_hw: [96, 128], fps: null, frames: 8}
grab: {mailbox: every}
detector: {kind: none}
segmenter: {kind: sam2_image, max_objects: 1}
results: null
control: null
http: null
"""
CANNOT_START, FAILED = 78, 1


class Bad(NamedTuple):
    """One bad input: how it is given, and what must come of it."""

    args: list[str]
    """After `run`; `c.yaml` in the working folder holds `CONFIG` unless a case wrote it."""
    said: list[str]
    """What the one line names."""
    code: int = CANNOT_START


Make = Callable[[Path, ExitStack], Bad]
CASES: dict[str, Make] = {}
REPRESENTATIVE: list[str] = []


def bad_input(make: Make) -> Make:
    CASES[make.__name__] = make
    return make


def representative(make: Make) -> Make:
    """Also through the real command."""
    REPRESENTATIVE.append(make.__name__)
    return bad_input(make)


def config(folder: Path, old: str = "", new: str = "") -> str:
    assert old in CONFIG
    path = folder / "c.yaml"
    path.write_text(CONFIG.replace(old, new) if old else CONFIG + new)
    return "c.yaml"


def override(*settings: str) -> list[str]:
    return ["c.yaml", *(part for setting in settings for part in ("--set", setting))]


# The configuration


@representative
def unknown_key(folder: Path, _: ExitStack) -> Bad:
    return Bad([config(folder, new="devise: cpu\n")], ["c.yaml", "devise", "unknown", "device"])


@bad_input
def unknown_key_in_a_section(folder: Path, _: ExitStack) -> Bad:
    return Bad([config(folder, "frames: 8", "frame: 8")], ["c.yaml", "source.frame", "unknown key"])


@bad_input
def missing_key(folder: Path, _: ExitStack) -> Bad:
    return Bad([config(folder, "name: t\n")], ["c.yaml", "name", "missing key", "expected"])


@bad_input
def missing_section(folder: Path, _: ExitStack) -> Bad:
    return Bad([config(folder, "detector: {kind: none}\n")], ["detector", "missing key"])


@bad_input
def duplicate_key(folder: Path, _: ExitStack) -> Bad:
    return Bad([config(folder, new="name: u\n")], ["c.yaml", "line 10", "duplicate key 'name'"])


@bad_input
def mistyped_value(folder: Path, _: ExitStack) -> Bad:
    said = ["segmenter.max_objects", "'many'", "expected", "integer"]
    return Bad([config(folder, "max_objects: 1", "max_objects: many")], said)


@bad_input
def value_out_of_range(folder: Path, _: ExitStack) -> Bad:
    said = ["source.size_hw.0", "12", "expected", "96"]
    return Bad([config(folder, "[96, 128]", "[12, 128]")], said)


@bad_input
def name_with_a_slash(folder: Path, _: ExitStack) -> Bad:
    return Bad([config(folder, "name: t", "name: ../t")], ["name", "'../t'", "expected"])


@bad_input
def unknown_kind(folder: Path, _: ExitStack) -> Bad:
    return Bad(
        [config(folder, "kind: phantom", "kind: telescope")], ["source", "telescope", "phantom"]
    )


@representative
def not_yaml(folder: Path, _: ExitStack) -> Bad:
    (folder / "c.yaml").write_text("name: [t\nsource: }")
    return Bad(["c.yaml"], ["c.yaml", "line 2", "expected plain YAML"])


@bad_input
def a_picture_as_configuration(folder: Path, _: ExitStack) -> Bad:
    (folder / "c.yaml").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    return Bad(["c.yaml"], ["c.yaml", "not UTF-8", "expected YAML"])


@bad_input
def a_date_that_is_none(folder: Path, _: ExitStack) -> Bad:
    return Bad([config(folder, "name: t", "name: 2024-13-41")], ["c.yaml", "month", "expected"])


@bad_input
def a_number_too_long(folder: Path, _: ExitStack) -> Bad:
    return Bad([config(folder, new=f"x: {'9' * 5000}\n")], ["c.yaml", "4300 digits", "expected"])


@bad_input
def a_list_as_key(folder: Path, _: ExitStack) -> Bad:
    return Bad([config(folder, new="? [a]\n: 1\n")], ["c.yaml", "line 10", "key", "expected"])


@bad_input
def a_key_with_a_line_break(folder: Path, _: ExitStack) -> Bad:
    return Bad([config(folder, new='"a\\nb\\e[31m": 1\n')], ["c.yaml", "a b", "unknown key"])


@bad_input
def no_such_configuration(folder: Path, _: ExitStack) -> Bad:
    return Bad(["nowhere.yaml"], ["nowhere.yaml", "no such file", "expected", "demo"])


@bad_input
def a_configuration_name_too_long(folder: Path, _: ExitStack) -> Bad:
    return Bad(["x" * 300], ["x" * 300, "no such file", "expected", "demo"])


@bad_input
def set_of_a_wrong_path(folder: Path, _: ExitStack) -> Bad:
    return Bad(override("source.no.such=1"), ["source.no", "unknown key"])


@bad_input
def set_below_a_value(folder: Path, _: ExitStack) -> Bad:
    said = ["--set name.first=x", "name is a value", "expected a section"]
    return Bad(override("name.first=x"), said)


@bad_input
def set_without_a_value(folder: Path, _: ExitStack) -> Bad:
    return Bad(override("name"), ["--set name", "expected KEY.KEY=VALUE"])


@bad_input
def set_nested_too_deeply(folder: Path, _: ExitStack) -> Bad:
    return Bad(override("name=" + "[" * 500), ["--set name=", "nested too deeply"])


@bad_input
def prompts_beyond_the_slots(folder: Path, _: ExitStack) -> Bad:
    prompts = "segmenter.prompts=[{name: a, box: [0, 0, 9, 9]}, {name: b, box: [0, 0, 9, 9]}]"
    return Bad(override(prompts), ["prompts", "got 2", "at most max_objects (1)"])


@bad_input
def a_gpu_that_is_not_there(folder: Path, _: ExitStack) -> Bad:
    return Bad(override("device=cuda:99"), ["device", "cuda:99", "this machine has", "expected"])


# Weights


class Code:
    """Unpickled, it touches a file."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self._marker}",)


def detector(weights: str) -> list[str]:
    return override(f"detector={{kind: yolo, weights: {weights}}}")


def checkpoint(path: str) -> list[str]:
    return override(f"segmenter.checkpoint={path}")


def foreign_safetensors(folder: Path) -> Path:
    save_file({"layer.weight": np.zeros((64, 64), np.float32)}, folder / "w.safetensors")
    return folder / "w.safetensors"


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@representative
def missing_detector_weights(folder: Path, _: ExitStack) -> Bad:
    return Bad(detector("w.safetensors"), ["w.safetensors", "no such file", "expected YOLO"])


@bad_input
def detector_weights_in_the_home_of_nobody(folder: Path, _: ExitStack) -> Bad:
    said = ["~nobody-here/w.pt", "no such file", "expected YOLO"]
    return Bad(detector("~nobody-here/w.pt"), said)


@bad_input
def detector_weights_with_a_name_too_long(folder: Path, _: ExitStack) -> Bad:
    return Bad(detector("x" * 300 + ".pt"), ["xxx.pt", "no such file", "expected YOLO"])


@bad_input
def empty_detector_weights(folder: Path, _: ExitStack) -> Bad:
    (folder / "w.safetensors").touch()
    return Bad(detector("w.safetensors"), ["w.safetensors", "empty", "expected YOLO"])


@bad_input
def truncated_detector_weights(folder: Path, _: ExitStack) -> Bad:
    cut(foreign_safetensors(folder))
    return Bad(detector("w.safetensors"), ["w.safetensors", "truncated"])


@bad_input
def foreign_detector_weights(folder: Path, _: ExitStack) -> Bad:
    foreign_safetensors(folder)
    return Bad(detector("w.safetensors"), ["w.safetensors", "None", "expected 'maskstream-weights"])


@bad_input
def detector_weights_of_another_kind(folder: Path, _: ExitStack) -> Bad:
    (folder / "w.onnx").write_bytes(b"onnx")
    return Bad(detector("w.onnx"), ["w.onnx", "expected .safetensors or .pt"])


@bad_input
def detector_weights_with_another_sha256(folder: Path, _: ExitStack) -> Bad:
    foreign_safetensors(folder)
    section = f"detector={{kind: yolo, weights: w.safetensors, sha256: {'a' * 64}}}"
    return Bad(override(section), ["w.safetensors", "sha256", f"expected {'a' * 64}"])


@representative
def code_in_detector_weights(folder: Path, _: ExitStack) -> Bad:
    torch.save({"model": Code(folder / "ran")}, folder / "w.pt")
    return Bad(detector("w.pt"), ["w.pt", "system", "expected an ultralytics"])


@bad_input
def a_bare_pickle_as_detector_weights(folder: Path, _: ExitStack) -> Bad:
    (folder / "w.pt").write_bytes(pickle.dumps({"model": Code(folder / "ran")}))
    return Bad(detector("w.pt"), ["w.pt", "not a torch archive", "expected an ultralytics"])


@bad_input
def missing_checkpoint(folder: Path, _: ExitStack) -> Bad:
    return Bad(checkpoint("w.safetensors"), ["w.safetensors", "no such file", "expected SAM2"])


@bad_input
def a_checkpoint_in_the_home_of_nobody(folder: Path, _: ExitStack) -> Bad:
    said = ["~nobody-here/w.pt", "no such file", "expected SAM2"]
    return Bad(checkpoint("~nobody-here/w.pt"), said)


@bad_input
def a_checkpoint_with_a_name_too_long(folder: Path, _: ExitStack) -> Bad:
    return Bad(checkpoint("x" * 300 + ".pt"), ["xxx.pt", "no such file", "expected SAM2"])


@representative
def truncated_checkpoint(folder: Path, _: ExitStack) -> Bad:
    cut(foreign_safetensors(folder))
    return Bad(checkpoint("w.safetensors"), ["w.safetensors", "truncated"])


@bad_input
def truncated_torch_checkpoint(folder: Path, _: ExitStack) -> Bad:
    torch.save({"model": {"a": torch.zeros(1000)}}, folder / "w.pt")
    cut(folder / "w.pt")
    return Bad(checkpoint("w.pt"), ["w.pt", "truncated", "expected a torch file"])


@bad_input
def foreign_checkpoint(folder: Path, _: ExitStack) -> Bad:
    foreign_safetensors(folder)
    return Bad(checkpoint("w.safetensors"), ["w.safetensors", "lacks", "expected the"])


@bad_input
def a_text_file_as_checkpoint(folder: Path, _: ExitStack) -> Bad:
    (folder / "w.pt").write_text("weights")
    return Bad(checkpoint("w.pt"), ["w.pt", "expected a torch file"])


@bad_input
def code_in_a_checkpoint(folder: Path, _: ExitStack) -> Bad:
    torch.save({"model": Code(folder / "ran")}, folder / "w.pt")
    return Bad(checkpoint("w.pt"), ["w.pt", "code in it", "expected a torch file"])


@bad_input
def an_unknown_model(folder: Path, _: ExitStack) -> Bad:
    args = override("segmenter.model=sam3", "segmenter.checkpoint=w.pt")
    return Bad(args, ["model", "sam3", "expected", "sam2.1_hiera_t"])


@bad_input
def a_model_that_was_never_fetched(folder: Path, _: ExitStack) -> Bad:
    said = ["facebook/sam2-hiera-large", "not in the local cache", "expected `hf download"]
    return Bad(override("segmenter.model=facebook/sam2-hiera-large"), said)


@bad_input
def a_model_without_its_weights(folder: Path, _: ExitStack) -> Bad:
    said = ["checkpoint: got none", "expected the weights of sam2.1_hiera_t"]
    return Bad(override("segmenter.model=sam2.1_hiera_t"), said)


# The source


def video(path: str) -> list[str]:
    return override(f"source={{kind: video, path: '{path}'}}")


def dicom(path: str) -> list[str]:
    return override(f"source={{kind: dicom, path: '{path}'}}")


@bad_input
def no_such_video(folder: Path, _: ExitStack) -> Bad:
    return Bad(video("gone.mp4"), ["source video", "'gone.mp4'", "not there", "expected a video"])


@bad_input
def a_video_in_the_home_of_nobody(folder: Path, _: ExitStack) -> Bad:
    return Bad(video("~nobody-here/a.mp4"), ["source video", "~nobody-here/a.mp4", "expected"])


@bad_input
def a_video_name_too_long(folder: Path, _: ExitStack) -> Bad:
    return Bad(video("x" * 300), ["source video", "not there", "expected a video"])


@bad_input
def an_address_as_video(folder: Path, _: ExitStack) -> Bad:
    said = ["source video", "http://127.0.0.1/a.mp4", "expected a video file on this machine"]
    return Bad(video("http://127.0.0.1/a.mp4"), said)


@bad_input
def a_folder_as_video(folder: Path, _: ExitStack) -> Bad:
    (folder / "a.mp4").mkdir()
    return Bad(video("a.mp4"), ["source video", "not a regular file", "expected a video"])


@bad_input
def an_empty_video(folder: Path, _: ExitStack) -> Bad:
    (folder / "a.mp4").touch()
    return Bad(video("a.mp4"), ["source video", "no readable video", "expected"], FAILED)


@bad_input
def a_text_file_as_video(folder: Path, _: ExitStack) -> Bad:
    (folder / "a.mp4").write_text("This is no video.\n" * 100)
    return Bad(video("a.mp4"), ["source video", "no readable video", "expected"], FAILED)


@representative
def a_file_with_sound_alone(folder: Path, _: ExitStack) -> Bad:
    with av.open(str(folder / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
        silence.sample_rate = 16000
        container.mux([*stream.encode(silence), *stream.encode(None)])
    return Bad(video("a.mp4"), ["source video", "no video stream"], FAILED)


@bad_input
def a_video_without_its_index(folder: Path, _: ExitStack) -> Bad:
    write_video(folder / "a.mp4", 20)
    cut(folder / "a.mp4")
    return Bad(video("a.mp4"), ["source video", "no readable video", "expected"], FAILED)


def write_video(path: Path, pictures: int) -> None:
    noise = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for _ in range(pictures):
            pixels = noise.integers(0, 256, (96, 128, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode(None))


@bad_input
def no_such_dicom(folder: Path, _: ExitStack) -> Bad:
    return Bad(dicom("gone.dcm"), ["source dicom", "path names no file", "expected a DICOM file"])


@bad_input
def no_such_dicom_example(folder: Path, _: ExitStack) -> Bad:
    return Bad(dicom("pydicom:heart"), ["source dicom", "pydicom:heart", "expected one"])


@bad_input
def a_dicom_in_the_home_of_nobody(folder: Path, _: ExitStack) -> Bad:
    return Bad(dicom("~nobody-here/a.dcm"), ["source dicom", "expected a DICOM file"])


@bad_input
def a_dicom_name_too_long(folder: Path, _: ExitStack) -> Bad:
    return Bad(dicom("x" * 300), ["source dicom", "path names no file", "expected a DICOM file"])


@bad_input
def a_text_file_as_dicom(folder: Path, _: ExitStack) -> Bad:
    (folder / "a.dcm").write_text("This is no picture.\n" * 100)
    return Bad(dicom("a.dcm"), ["source dicom", "no DICOM file"], FAILED)


@bad_input
def a_dicom_with_one_frame(folder: Path, _: ExitStack) -> Bad:
    cine = dcmread(example())
    cine.NumberOfFrames = 1
    cine.save_as(folder / "a.dcm")
    return Bad(dicom("a.dcm"), ["source dicom", "one frame", "expected a cine"], FAILED)


@bad_input
def a_dicom_without_pixels(folder: Path, _: ExitStack) -> Bad:
    cine = dcmread(example())
    del cine.PixelData
    cine.save_as(folder / "a.dcm")
    return Bad(dicom("a.dcm"), ["source dicom", "no pixel data"], FAILED)


@representative
def a_dicom_cut_off_in_its_first_frame(folder: Path, _: ExitStack) -> Bad:
    truncated_cine(folder / "a.dcm", 0.17)
    said = ["source dicom", "frame 1", "does not decode", "cut off"]
    return Bad(dicom("a.dcm"), said, FAILED)


@bad_input
def a_dicom_cut_off_in_its_header(folder: Path, _: ExitStack) -> Bad:
    truncated_cine(folder / "a.dcm", 0.001)
    return Bad(dicom("a.dcm"), ["source dicom", "no picture size"], FAILED)


def example() -> str:
    return str(examples.get_path("ybr_color"))


def truncated_cine(path: Path, part: float) -> None:
    shutil.copyfile(example(), path)
    os.truncate(path, int(path.stat().st_size * part))


# Ports and folders


def taken_port(stack: ExitStack) -> int:
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    return int(listener.getsockname()[1])


@representative
def results_port_in_use(folder: Path, stack: ExitStack) -> Bad:
    port = taken_port(stack)
    args = override(f"results={{endpoint: 'tcp://127.0.0.1:{port}'}}")
    return Bad(args, ["results", str(port), "in use", "expected a free port"], FAILED)


@bad_input
def http_port_in_use(folder: Path, stack: ExitStack) -> Bad:
    port = taken_port(stack)
    return Bad(override(f"http={{port: {port}}}"), ["http port", str(port), "in use"], FAILED)


@representative
def http_for_the_whole_network(folder: Path, _: ExitStack) -> Bad:
    args = override("http={host: '0.0.0.0', port: 0}")
    return Bad(args, ["http", "host: got 0.0.0.0", "expected 127.0.0.1", "token_file"])


@bad_input
def http_token_that_is_none(folder: Path, _: ExitStack) -> Bad:
    (folder / "token").write_text("hunter2\n")
    args = override("http={host: '0.0.0.0', port: 0, token_file: token}")
    return Bad(args, ["http.token_file: token holds no token", "expected 16 to 512"])


@bad_input
def results_for_the_whole_network(folder: Path, _: ExitStack) -> Bad:
    args = override("results={endpoint: 'tcp://0.0.0.0:0'}")
    return Bad(args, ["results", "tcp://0.0.0.0:0", "expected an address of this host"])


@bad_input
def waiting_for_subscribers_of_nothing(folder: Path, _: ExitStack) -> Bad:
    args = ["c.yaml", "--wait-subscribers", "1"]
    return Bad(args, ["--wait-subscribers", "results is null", "expected an endpoint"])


@representative
def a_file_where_the_folder_should_be(folder: Path, _: ExitStack) -> Bad:
    (folder / "out").write_text("mine")
    return Bad(["c.yaml", "--out", "out"], ["out", "not a folder", "expected a new or empty"])


@bad_input
def a_folder_below_a_file(folder: Path, _: ExitStack) -> Bad:
    (folder / "out").write_text("mine")
    return Bad(["c.yaml", "--out", "out/run"], ["out/run", "not a folder", "expected a new or"])


@bad_input
def a_folder_that_is_not_empty(folder: Path, _: ExitStack) -> Bad:
    (folder / "out").mkdir()
    (folder / "out" / "summary.json").write_text("mine")
    return Bad(["c.yaml", "--out", "out"], ["out", "not empty", "expected a new or empty"])


@bad_input
def a_folder_that_takes_no_files(folder: Path, _: ExitStack) -> Bad:
    return Bad(["c.yaml", "--out", "/proc/run"], ["/proc/run", "expected a new or empty"])


@bad_input
def a_folder_name_too_long(folder: Path, _: ExitStack) -> Bad:
    return Bad(["c.yaml", "--out", "x" * 300], ["too long", "expected a new or empty"])


@bad_input
def a_link_to_nowhere_as_folder(folder: Path, _: ExitStack) -> Bad:
    (folder / "out").symlink_to(folder / "nowhere")
    return Bad(["c.yaml", "--out", "out"], ["out", "not a folder", "expected a new or empty"])


# The checks


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    config(tmp_path)
    return tmp_path


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def content(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def check(bad: Bad, outcome: Outcome) -> None:
    line = outcome.stderr
    assert line.startswith("maskstream: "), line
    assert line.endswith("\n"), line
    assert line.count("\n") == 1, line
    for part in bad.said:
        assert part in line
    assert outcome.code == bad.code
    assert outcome.stdout == ""


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_line(
    folder: Path, stack: ExitStack, call_main: Callable[..., Outcome], name: str
) -> None:
    bad = CASES[name](folder, stack)
    before = content(folder)
    check(bad, call_main("run", *bad.args))
    assert content(folder) == before  # no run folder, nor what code in a file would have written


@pytest.mark.timeout(150)
@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_bad_input_to_the_real_command(
    folder: Path, stack: ExitStack, run_cli: RunCli, name: str
) -> None:
    bad = CASES[name](folder, stack)
    before = content(folder)
    outcome = run_cli("run", *bad.args, cwd=folder)
    check(bad, outcome)
    assert content(folder) == before


def test_a_source_that_breaks_on_the_way_fails_the_run_and_accounts_for_it(
    folder: Path, call_main: Callable[..., Outcome]
) -> None:
    truncated_cine(folder / "a.dcm", 0.5)
    structure, weights = write_model(folder)
    source = "source={kind: dicom, path: a.dcm, realtime: false}"
    segmenter = f"segmenter={{kind: sam2_image, model: {structure}, checkpoint: {weights}}}"
    outcome = call_main("run", *override(source, segmenter), "--out", "out")
    assert outcome.code == FAILED
    told = [line for line in outcome.stderr.splitlines() if line.startswith("maskstream: ")]
    assert len(told) == 1
    assert "source dicom: frame" in told[0]
    assert "does not decode" in told[0]
    summary = json.loads((folder / "out" / "summary.json").read_text())
    assert told[0] == f"maskstream: {summary['error']}"
    assert summary["exit_code"] == FAILED
    frames = summary["frames"]
    assert frames["grabbed"] > 0
    assert frames["grabbed"] == frames["published"] + sum(frames["dropped"].values())


def test_the_code_in_these_pickles_does_run_where_it_is_let(folder: Path) -> None:
    """Negative control: else "nothing was written" would prove nothing."""
    torch.save({"model": Code(folder / "ran")}, folder / "w.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.load(folder / "w.pt", weights_only=False)
    assert (folder / "ran").exists()
