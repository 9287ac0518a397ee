"""`maskstream video`: what it writes of a clip, interrupted and resumed, and what it refuses."""

from __future__ import annotations

import functools
import json
import re
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import jsonschema
import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, Outcome
from PIL import Image
from pydicom import examples
from typer.testing import CliRunner

import pipeline.offline.video as video_command
from pipeline.cli import app
from pipeline.clip import open_clip
from pipeline.offline.clip_logits import ClipLogits
from pipeline.offline.clip_prompts import ClipPromptsFile, clip_prompts
from pipeline.offline.folder import PROGRESS, OutFolder
from pipeline.offline.journal import Journal
from pipeline.offline.measure import mask_of
from pipeline.offline.records import (
    SCHEMA_PATH,
    ClipRecord,
    ModelRecord,
    PromptRecord,
    VideoResults,
)
from stages.clip.records import ClipFrame
from stages.errors import ConfigError, RecordingError
from stages.recording.log_reader import LogRecording
from stages.recording.reading import open_recording
from stages.segmenters import sam2_checkpoint
from tests.test_clip_frames import UNEVEN_MS, uneven
from tests.test_dicom_folder import folder, single
from tests.test_image_command import small_files
from tests.test_sources_dicom import region
from tests.tiny_sam2 import FRAME_HW, write_model

Call = Callable[..., Outcome]
BUILT_ONCE = functools.cache(sam2_checkpoint.build_sam2)
COUNT = 7
HEIGHT, WIDTH = FRAME_HW
BOTH = (
    "--prompt", "1@0 +40,30 -100,80 name=lumen", "--prompt", "2@3 box=20,20,70,60",
    "--direction", "both", "--start", "1", "--save", "masks,video,logits",
)  # fmt: skip
PROMPTS = ("--prompt", "1@0 +40,30 -100,80 name=lumen", "--prompt", "2@3 box=20,20,70,60")


@pytest.fixture(autouse=True)
def _build_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are left as they are, so that all may share one."""
    monkeypatch.setattr(sam2_checkpoint, "build_sam2", BUILT_ONCE)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_model(tmp_path_factory.mktemp("sam2"))


def picture(number: int) -> Any:
    """A bright disc that moves over noise."""
    y, x = np.ogrid[:HEIGHT, :WIDTH]
    noise = np.random.default_rng(number).integers(0, 90, FRAME_HW, dtype=np.uint8)
    noise[(y - 40) ** 2 + (x - 40 - 3 * number) ** 2 < 20**2] += 120
    return np.repeat(noise[..., None], 3, axis=2)


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures."""
    folder = tmp_path_factory.mktemp("clip")
    for number in range(COUNT):
        Image.fromarray(picture(number)).save(folder / f"p{number}.png")
    return folder


@pytest.fixture
def track(
    call_main: Call, files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Outcome]:
    """`track(clip, --option, ...)` with the tiny model, into `out` of a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def call(*args: str, out: str = "out") -> Outcome:
        return call_main("video", *args, *model(files), "--out", out)

    return call


def model(files: tuple[Path, Path]) -> tuple[str, ...]:
    return ("--model", str(files[0]), "--checkpoint", str(files[1]), "--device", "cpu")


def results(out: str = "out") -> VideoResults:
    text = Path(out, "results.json").read_text()
    jsonschema.validate(json.loads(text), json.loads(SCHEMA_PATH.read_text()))
    return VideoResults.model_validate_json(text)


def film(path: str = "out/overlay.mp4") -> list[Any]:
    with av.open(path) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def content(out: str = "out") -> dict[str, bytes]:
    """What the results are, but for times, and for the film: under load x264, with several threads,
    does not always give the same bytes."""
    found = {str(p.relative_to(out)): p.read_bytes() for p in Path(out).rglob("*") if p.is_file()}
    text = found.pop("results.json").decode()
    assert found.pop("overlay.mp4")
    for name in [name for name in found if name.endswith(("/index.jsonl", "/manifest.json"))]:
        del found[name]
    found["results"] = re.sub(r'"(created|seconds)": [^,]+,', "", text).encode()
    return found


def direct(
    files: tuple[Path, Path], clip_path: Path, start: int, directions: Sequence[bool]
) -> dict[int, Any]:
    """Masks by frame, as the Python API gives them for `PROMPTS`."""
    found = {}
    with open_clip(clip_path, str(files[0]), checkpoint=files[1], device="cpu") as clip:
        clip.add_new_points_or_box(0, 1, [[40, 30], [100, 80]], [1, 0])
        clip.add_new_points_or_box(3, 2, box=[20, 20, 70, 60])
        for reverse in directions:
            for frame, _, logits in clip.propagate_in_video(start, reverse=reverse):
                found[frame] = (logits[:, 0] > 0).numpy()
    return found


def test_both_directions_give_the_masks_of_the_clip(
    track: Callable[..., Outcome], files: tuple[Path, Path], frames: Path
) -> None:
    saved = "frames,masks,overlays,video"
    outcome = track(
        str(frames), *PROMPTS, "--direction", "both", "--start", "2", "--save", saved,
        "--spacing", "0.5,0.2", "--fps", "10",
    )  # fmt: skip
    assert outcome.code == 0, outcome.stderr
    wanted = direct(files, frames, 2, (False, True))
    found = results()
    assert found.complete
    assert [frame.frame for frame in found.frames] == list(range(COUNT)) == sorted(wanted)
    # The start is in both walks: the later one counts.
    assert [frame.direction for frame in found.frames] == ["backward"] * 3 + ["forward"] * 4
    shown = 0
    for frame in found.frames:
        labels = Image.open(f"out/masks/frame_{frame.frame:05d}.png")
        assert labels.mode == "P"
        inside = [mask_of(mask, FRAME_HW) for mask in frame.masks]
        assert np.array_equal(np.array(inside), wanted[frame.frame])
        assert np.array_equal(np.asarray(labels) > 0, inside[0] | inside[1])
        shown += sum(mask.area_px > 0 for mask in frame.masks)
        for mask in frame.masks:
            assert mask.area_mm2 == pytest.approx(mask.area_px * 0.1)
        stored = np.asarray(Image.open(f"out/frames/frame_{frame.frame:05d}.png"))
        assert np.array_equal(stored, picture(frame.frame))
        drawn = np.asarray(Image.open(f"out/overlays/frame_{frame.frame:05d}.png"))
        assert drawn.shape == (*FRAME_HW, 3)
    assert shown >= COUNT
    shots = film()
    assert len(shots) == COUNT
    assert shots[0].shape == (HEIGHT, 2 * WIDTH, 3)
    assert np.abs(shots[0][:, : WIDTH - 1].astype(int) - picture(0)[:, : WIDTH - 1]).mean() < 12
    assert not list(Path("out").rglob(".*"))
    assert {p.stat().st_mode & 0o777 for p in Path("out").rglob("*.*")} == {0o600}


def test_scores_are_those_of_the_clip(
    track: Callable[..., Outcome], files: tuple[Path, Path], frames: Path
) -> None:
    assert track(str(frames), *PROMPTS, "--save", "masks").code == 0
    masks = [mask for frame in results().frames for mask in frame.masks]
    with open_clip(frames, str(files[0]), checkpoint=files[1], device="cpu") as clip:
        clip.add_new_points_or_box(0, 1, [[40, 30], [100, 80]], [1, 0])
        clip.add_new_points_or_box(3, 2, box=[20, 20, 70, 60])
        walked = list(clip.propagate())
    presence = torch.cat([found.presence for found in walked]).tolist()
    quality = torch.cat([found.quality for found in walked]).tolist()
    assert [mask.presence for mask in masks] == pytest.approx(presence)
    assert [mask.quality for mask in masks] == pytest.approx(quality)
    assert presence != pytest.approx(quality)
    assert len(set(presence)) > 2


def test_what_is_not_asked_for_is_not_written(track: Callable[..., Outcome], frames: Path) -> None:
    outcome = track(str(frames), *PROMPTS, "--save", "masks", "--max-frames", "3")
    assert outcome.code == 2, "object 2 is prompted on frame 3 alone"
    assert "object 2" in outcome.stderr
    assert not Path("out").exists()
    assert track(str(frames), *PROMPTS, "--save", "masks", "--max-frames", "4").code == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["masks", "results.json"]
    assert [frame.frame for frame in results().frames] == [0, 1, 2, 3]
    assert results().labels == {"1": 1, "2": 2}
    assert results().prompts[0].name == "lumen"


def test_backward_begins_at_the_last_prompt(track: Callable[..., Outcome], frames: Path) -> None:
    assert track(str(frames), *PROMPTS, "--save", "masks", "--direction", "backward").code == 0
    assert (results().start, len(results().frames)) == (3, 4)
    refused = track(str(frames), "--prompt", "1@0 +4,4", "--direction", "backward", out="o2")
    assert refused.code == 2
    assert "before frame 0" in refused.stderr


YAML = """\
prompts:
  - {frame: 0, object: 1, name: lumen, points: [[40, 30], [100, 80]], labels: [1, 0]}
  - {frame: 3, object: 2, box: [20, 20, 70, 60]}
"""


def test_a_file_of_prompts_is_as_good_as_words(track: Callable[..., Outcome], frames: Path) -> None:
    Path("p.yaml").write_text(YAML)
    assert track(str(frames), *PROMPTS).code == 0
    assert track(str(frames), "--prompts", "p.yaml", out="o2").code == 0
    assert content("out") == content("o2")


def test_a_mask_is_a_prompt(track: Callable[..., Outcome], frames: Path) -> None:
    mask = np.zeros(FRAME_HW, np.uint8)
    mask[20:60, 20:60] = 255
    Image.fromarray(mask).save("m.png")
    assert track(str(frames), "--prompt", "7@2 mask=m.png", "--save", "masks").code == 0
    first = results().frames[0]
    assert first.frame == 2
    inside = mask_of(first.masks[0], FRAME_HW)
    overlap = (inside & (mask > 0)).sum() / (inside | (mask > 0)).sum()
    assert overlap > 0.8
    assert np.unique(np.asarray(Image.open("out/masks/frame_00002.png"))).tolist() == [0, 7]


class _Died(Exception):  # noqa: N818 (stands for a process that is gone)
    pass


@pytest.fixture(scope="module")
def in_one_go(
    files: tuple[Path, Path], frames: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """What `BOTH` gives."""
    out = tmp_path_factory.mktemp("whole") / "out"
    words = [str(frames), *BOTH, *model(files), "--out", str(out)]
    CliRunner().invoke(app, ["video", *words], catch_exceptions=False)
    return content(str(out))


@pytest.mark.parametrize("finished", [2, 6, COUNT + 1])
def test_resumed_results_are_those_of_one_go(
    track: Callable[..., Outcome],
    frames: Path,
    in_one_go: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    finished: int,
) -> None:
    """As after a kill: amid the first walk, before the second, and before the film is made."""
    add = Journal.add

    def dies(self: Journal, *more: Any) -> None:
        if len(self._path.read_bytes().splitlines()) > finished:
            raise _Died
        add(self, *more)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", dies)
        patch.setattr(Journal, "fold", dies)
        with pytest.raises(_Died):
            track(str(frames), *BOTH)
    assert not Path("out/results.json").exists()
    with Path("out", PROGRESS).open("ab") as progress:
        progress.write(b'{"number": 6, "turn": 1, "fra')
    Path("out/.results.part.json").touch()
    written: list[int] = []

    def counted(self: Journal, number: int, *more: Any) -> None:
        written.append(number)
        add(self, number, *more)

    told: list[tuple[int, list[str]]] = []

    @contextmanager
    def noted(total: int, unit: str) -> Iterator[Callable[[str], None]]:
        told.append((total, []))
        yield told[-1][1].append

    monkeypatch.setattr(Journal, "add", counted)
    monkeypatch.setattr(video_command, "progress", noted)
    outcome = track(str(frames), *BOTH, "--resume")
    assert outcome.code == 0, outcome.stderr
    ((total, done),) = told
    assert total == len(done), "what is not walked again is not waited for"
    assert content() == in_one_go  # nothing half-written is left
    assert len(film()) == COUNT
    assert len(written) == COUNT + 1 - finished  # the start is tracked twice
    again = track(str(frames), *BOTH, "--resume")
    assert again.code == 78
    assert "is finished" in again.stderr


def test_a_resume_asks_for_the_same(track: Callable[..., Outcome], frames: Path) -> None:
    args = (str(frames), "--prompt", "1@0 +40,30", "--max-frames", "1", "--save", "masks")
    assert track(*args).code == 0
    Path("out/results.json").unlink()
    Path("out", PROGRESS).write_text(json.dumps({"asked": {"clip": {}, "start": 0}}) + "\n")
    refused = track(*args, "--resume")
    assert (refused.code, len(refused.stderr.splitlines())) == (78, 1)
    assert "--resume with another clip" in refused.stderr
    Path("out", PROGRESS).write_text("no such thing\n")
    assert track(*args, "--resume").code == 0  # as good as an empty one
    assert results().complete


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_what_was_finished(
    track: Callable[..., Outcome],
    frames: Path,
    in_one_go: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    add = Journal.add

    def interrupted(self: Journal, *more: Any) -> None:
        add(self, *more)
        if len(self) == 4:
            signal.raise_signal(number)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", interrupted)
        outcome = track(str(frames), *BOTH)
    assert outcome.code == 0, outcome.stderr
    assert "interrupted" in outcome.stdout
    found = results()
    assert [frame.frame for frame in found.frames] == [1, 2, 3, 4]
    assert not found.complete
    assert len(film()) == 4
    assert track(str(frames), *BOTH, "--resume").code == 0
    assert content() == in_one_go
    assert len(film()) == COUNT


def test_logits_begin_anew_where_only_their_folder_was_made(tmp_path: Path) -> None:
    results = VideoResults.model_construct(
        clip=ClipRecord(name="a b.mp4", frames=1, size_hw=FRAME_HW, fps=None),
        mask_threshold=0.0,
        model=ModelRecord(name="m", sha256="", image_size=64),
        versions={},
    )
    session = tmp_path / "out" / "predictions" / "a_b"
    session.mkdir(parents=True)
    (session / ".lock").touch()
    (tmp_path / "out" / PROGRESS).touch()
    found = ClipFrame(
        0, (1,), torch.zeros(1, 4, 4), torch.zeros(1), torch.zeros(1), (True,), (True,), FRAME_HW
    )
    with OutFolder(tmp_path / "out", "video", "resume") as folder:
        with ClipLogits(folder, results, frozenset({"logits"})) as recording:
            recording.write(found, torch.zeros(1, 1, *FRAME_HW), 0)
        (session / "manifest.json").unlink()
        with pytest.raises(RecordingError, match="exists"):  # with frames in it, it stays
            ClipLogits(folder, results, frozenset({"logits"}))
    assert (session / "frame_00000.npy").is_file()


def test_logits_lie_where_tools_look_for_them(
    track: Callable[..., Outcome], files: tuple[Path, Path], frames: Path
) -> None:
    args = (str(frames), *BOTH)
    assert track(*args).code == 0
    wanted = direct(files, frames, 1, (False, True))
    (session,) = Path("out/predictions").iterdir()
    assert re.fullmatch(r"clip\d+", session.name)
    for frame in range(COUNT):
        logits = np.load(session / f"frame_{frame:05d}.npy")
        ids = np.load(session / f"frame_{frame:05d}_obj_ids.npy")
        assert (logits.shape, logits.dtype) == ((2, 1, *FRAME_HW), np.float32)
        assert (ids.tolist(), ids.dtype) == ([1, 2], np.int64)
        assert np.array_equal(logits[:, 0] > 0, wanted[frame])
    assert track(*args).code == 78
    first = session / "frame_00000.npy"
    before = first.read_bytes()
    assert track(*args, "--overwrite").code == 0
    assert first.read_bytes() == before


def test_a_recording_is_gone_on_with_and_read_as_any_other(
    track: Callable[..., Outcome], call_main: Call, frames: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = (str(frames), *PROMPTS, "--direction", "both", "--start", "1", "--save")
    add = Journal.add

    def dies(self: Journal, *more: Any) -> None:
        if len(self) == 3:
            raise _Died  # what is recorded and not finished is recorded again
        add(self, *more)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", dies)
        with pytest.raises(_Died):
            track(*args, "logits,recording")
    assert track(*args, "logits,recording", "--resume").code == 0
    assert not Path("out/masks").exists()
    assert call_main("record", "verify", "out", "--closed").code == 0
    exported = call_main("record", "export", "out", "--out", "x")
    assert exported.code == 0, exported.stderr
    (session,) = Path("out/predictions").iterdir()
    for frame in range(COUNT):
        name = f"frame_{frame:05d}"
        assert np.load(f"x/predictions/recording/{name}_obj_ids.npy").tolist() == [1, 2]
        wanted = np.load(session / f"{name}.npy")
        assert np.allclose(np.load(f"x/predictions/recording/{name}.npy"), wanted, atol=1e-4)
        assert wanted.std() > 0.1
    assert track(*args, "recording", "--overwrite").code == 0
    names = sorted(path.name for path in Path("out").iterdir())
    assert names == ["recording", "results.json"]
    with open_recording(Path("out/recording")) as recording:
        assert isinstance(recording, LogRecording)
        assert recording.frames().frame_ids.tolist() == list(range(COUNT))


def test_nothing_tells_the_name_of_a_dicom_file(track: Callable[..., Outcome]) -> None:
    canary = "CANARY_JANE_DOE"
    Path(canary).mkdir()
    shutil.copy(examples.get_path("ybr_color"), f"{canary}/{canary}.dcm")
    args = ("--prompt", "1@0 +170,176", "--max-frames", "2", "--save", "frames,masks,video,logits")
    for target in (f"{canary}/{canary}.dcm", "clip.mp4"):
        if target == "clip.mp4":  # a control: the name of a video is told
            movie(Path(target), 3, (200, 200))
        outcome = track(target, *args, "--overwrite")
        assert outcome.code == 0, outcome.stderr
        written = b"".join(path.read_bytes() for path in Path("out").rglob("*") if path.is_file())
        names = " ".join(map(str, Path("out").rglob("*")))
        told = written + (outcome.stdout + outcome.stderr + names).encode()
        assert canary.encode() not in told
        assert (b"clip.mp4" in told) is (target == "clip.mp4")


def test_millimetres_are_those_of_each_frame(track: Callable[..., Outcome]) -> None:
    """Of a folder of DICOM files amid which the depth is changed."""
    pictures = [single(n, InstanceNumber=n) for n in range(4)]
    for ds, delta in zip(pictures, (0.02, 0.02, 0.04, 0.04), strict=True):
        ds.SequenceOfUltrasoundRegions = [region(PhysicalDeltaX=delta, PhysicalDeltaY=delta)]
    folder(Path("study"), *pictures)
    Image.fromarray(np.pad(np.full((8, 8), 255, np.uint8), 4)).save("m.png")
    prompts = [f"--prompt=1@{frame} mask=m.png" for frame in range(4)]
    args = ("study", *prompts, "--direction", "both", "--start", "2", "--save", "masks")
    assert track(*args).code == 0
    found = results()
    assert found.spacing_mm == (0.2, 0.2)
    assert [frame.spacing_mm for frame in found.frames] == [(0.2, 0.2)] * 2 + [(0.4, 0.4)] * 2
    masks = [frame.masks[0] for frame in found.frames]
    assert all(mask.area_px > 0 for mask in masks)
    told = [mask.area_mm2 for mask in masks]
    assert told == pytest.approx([masks[0].area_px * 0.04, masks[1].area_px * 0.04,
                                  masks[2].area_px * 0.16, masks[3].area_px * 0.16])  # fmt: skip
    assert track(*args, "--spacing", "0.5,0.5", out="o2").code == 0
    assert {frame.spacing_mm for frame in results("o2").frames} == {(0.5, 0.5)}


def test_times_are_those_of_each_frame(track: Callable[..., Outcome]) -> None:
    args = (str(uneven(Path("uneven.mp4"))), "--prompt", "1@0 +20,20", "--save", "masks")
    assert track(*args).code == 0
    assert [frame.time_s for frame in results().frames] == [ms / 1000 for ms in UNEVEN_MS]
    assert track(*args, "--fps", "10", out="o2").code == 0
    assert [frame.time_s for frame in results("o2").frames] == [0, 0.1, 0.2, 0.3, 0.4]


def test_a_second_writer_is_refused(track: Callable[..., Outcome], frames: Path) -> None:
    Path("out").mkdir()
    with OutFolder(Path("out"), "video", "new"):
        refused = track(str(frames), *PROMPTS)
    assert refused.code == 78
    assert "another process writes there" in refused.stderr
    assert not list(Path("out").iterdir())


# Bad input

BAD: list[tuple[Sequence[str], int, Sequence[str]]] = [
    (["frames"], 2, ["expected what to track", "--prompts FILE", "1@0 +120,80"]),
    (["frames", "--prompt", "1 +4,4"], 2, ["1 +4,4", "OBJECT@FRAME"]),
    (["frames", "--prompt", ""], 2, ["--prompt ''", "OBJECT@FRAME"]),
    (["frames", "--prompt", "1@0 'x"], 2, ["OBJECT@FRAME"]),
    (["frames", "--prompt", "1@0"], 2, ["1@0", "expected points, a box or a mask"]),
    (["frames", "--prompt", "1@0 +4"], 2, ["1@0 +4", "2 numbers"]),
    (["frames", "--prompt", "1@0 colour=red"], 2, ["colour=red", "OBJECT@FRAME"]),
    (["frames", "--prompt", "1@0 box=9,1,4,4"], 2, ["box: got [9.0", "x1 < x2"]),
    (["frames", "--prompt", "1@0 mask=none.png"], 2, ["none.png", "expected a PNG"]),
    (["frames", "--prompt", "1@0 mask=small.png"], 2, ["the mask is 20x10", "131x90"]),
    (["frames", "--prompt", "1@0 +4,4 mask=small.png"], 2, ["expected a mask alone"]),
    (["frames", "--prompt", "1@0 +4,95"], 2, ["4,95 is outside", "131x90"]),
    (["frames", "--prompt", "1@0 box=140,1,150,9"], 2, ["outside", "131x90"]),
    (["frames", "--prompt", "1@9 +4,4"], 2, ["there is no frame 9", "0 to 6"]),
    (["frames", "--prompt", "1@0 +4,4", "--prompt", "1@0 +5,5"], 2, ["twice on frame 0"]),
    (["frames", *(f"--prompt={n}@0 +4,4" for n in range(256))], 2, ["256 objects", "255"]),
    (["frames", *PROMPTS, "--start", "9"], 2, ["--start 9", "0 to 6"]),
    (["frames", *PROMPTS, "--direction", "up"], 2, ["--direction up", "forward, backward, both"]),
    (["frames", *PROMPTS, "--save", "masks,gif"], 2, ["'gif'", "frames, masks, overlays"]),
    (["frames", *PROMPTS, "--resume", "--overwrite"], 2, ["--overwrite and --resume"]),
    (["frames", *PROMPTS, "--resume"], 78, ["holds nothing to resume"]),
    (["none.mp4", *PROMPTS], 1, ["'none.mp4' is not there"]),
    (["empty", *PROMPTS], 1, ["holds no pictures"]),
    (["text.mp4", *PROMPTS], 1, ["no readable video"]),
    (["single", *PROMPTS], 1, ["expected"]),
    (["frames", "--prompts", "none.yaml"], 78, ["none.yaml", "No such file"]),
]


@pytest.mark.parametrize(
    ("args", "code", "said"), BAD, ids=[" ".join(case[0])[:80] for case in BAD]
)
def test_bad_input(
    track: Callable[..., Outcome],
    frames: Path,
    args: Sequence[str],
    code: int,
    said: Sequence[str],
) -> None:
    Path("frames").symlink_to(frames)
    Path("empty").mkdir()
    Path("single").mkdir()
    Image.fromarray(picture(0)).save("single/p.png")
    Path("text.mp4").write_text("no clip")
    Image.new("L", (20, 10), 255).save("small.png")
    outcome = track(*args)
    (line,) = outcome.stderr.splitlines()
    assert line.startswith("maskstream: ")
    assert outcome.code == code, line
    for part in said:
        assert part in line
    assert not Path("out").exists()


def test_the_file_of_prompts_in_the_docs_is_one() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/results.md").read_text(), re.DOTALL)
    assert len(ClipPromptsFile.model_validate(yaml.safe_load(block)).prompts) == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ["holds nothing"]),
        ("prompts: []\n", ["prompts", "at least 1"]),
        ("prompts: [{frame: 0}]\n", ["prompts.0.object", "missing"]),
        ("prompts: [{frame: 0, object: 1, point: [1, 2]}]\n", ["prompts.0.point", "unknown key"]),
        ("prompts: [{frame: 0, object: one, box: [1, 2, 3, 4]}]\n", ["'one'", "integer"]),
        ("prompts: [{frame: 0, frame: 1, object: 1}]\n", ["line 1", "duplicate key 'frame'"]),
        ("prompts: [{frame: 0, object: 1, points: [[1, 2]]}]\n", ["labels: got 0", "1 points"]),
        ("prompts: [{frame: -1, object: 1, box: [1, 2, 3, 4]}]\n", ["-1", "greater than"]),
        ("prompts: [{frame: 0, object: 1, box: [.nan, 2, 3, 4]}]\n", ["box", "finite"]),
        ("- {frame: 0}\n", ["holds a list", "keys and values"]),
    ],
)
def test_a_bad_file_of_prompts(tmp_path: Path, text: str, said: Sequence[str]) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        clip_prompts((), path)
    assert str(path) in str(refused.value)
    for part in said:
        assert part in str(refused.value)


def movie(path: Path, count: int = 12, size_hw: tuple[int, int] = FRAME_HW) -> None:
    """A short H.264 file with a key frame each; an mp4 whose index comes first."""
    height, width = size_hw
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "1"})
        stream.height, stream.width, stream.pix_fmt = height // 2 * 2, width // 2 * 2, "yuv420p"
        for number in range(count):
            shown = picture(number)[: stream.height, : stream.width]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(shown), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_a_broken_tail_keeps_what_comes_before_it(track: Callable[..., Outcome]) -> None:
    movie(Path("whole.mp4"))
    data = Path("whole.mp4").read_bytes()
    Path("cut.mp4").write_bytes(data[: len(data) * 3 // 5])
    outcome = track("cut.mp4", "--prompt", "1@0 +40,30")
    (line,) = outcome.stderr.splitlines()
    assert outcome.code == 1, line
    found = results()
    assert found.error is not None
    assert found.error in line
    assert not found.complete
    assert 3 < len(found.frames) < 12
    assert len(film()) == len(found.frames)
    assert found.clip.fps == 25
    again = track("cut.mp4", "--prompt", "1@0 +40,30", "--resume")
    assert (again.code, again.stderr) == (1, outcome.stderr), "the rest is missing still"
    assert not results().complete


def test_a_broken_tail_does_not_keep_from_walking_back(track: Callable[..., Outcome]) -> None:
    movie(Path("whole.mp4"))
    data = Path("whole.mp4").read_bytes()
    Path("cut.mp4").write_bytes(data[: len(data) * 3 // 5])
    args = ("cut.mp4", "--prompt", "1@3 +40,30", "--direction", "both", "--save", "masks")
    outcome = track(*args)
    found = results()
    assert (outcome.code, found.complete) == (1, False)
    assert 4 < found.clip.frames < 12
    ways = [(frame.frame, frame.direction) for frame in found.frames]
    assert ways == [
        (number, "forward" if number > 3 else "backward") for number in range(found.clip.frames)
    ]


def test_a_change_of_size_keeps_what_comes_before_it(
    track: Callable[..., Outcome], frames: Path
) -> None:
    shutil.copytree(frames, "clip")
    Image.fromarray(picture(4)[:50]).save("clip/p4.png")
    outcome = track("clip", "--prompt", "1@0 +40,30")
    (line,) = outcome.stderr.splitlines()
    assert outcome.code == 1
    assert "131x50" in line
    assert "131x90" in line
    found = results()
    assert [frame.frame for frame in found.frames] == [0, 1, 2, 3]
    assert len(film()) == 4


def test_a_full_disk_keeps_what_was_finished(track: Callable[..., Outcome], frames: Path) -> None:
    """The frames of the clip do not compress, its masks do."""
    with small_files(4096):
        outcome = track(str(frames), *PROMPTS, "--save", "masks,video")
    (line,) = outcome.stderr.splitlines()
    assert outcome.code == 1
    assert "File too large" in line
    assert "what was finished is kept" in line
    assert not Path("out/overlay.mp4").exists()
    assert not list(Path("out").rglob(".*.part*"))
    assert len(list(Path("out/masks").iterdir())) >= 1
    assert track(str(frames), *PROMPTS, "--save", "masks,video", "--resume").code == 0
    assert results().complete
    assert len(film()) == COUNT


def test_a_recording_that_finds_no_room_keeps_what_was_finished(
    track: Callable[..., Outcome], frames: Path
) -> None:
    args = (str(frames), *PROMPTS, "--save", "recording")
    with small_files(10_000):
        outcome = track(*args)
    (line,) = outcome.stderr.splitlines()
    assert outcome.code == 1
    assert "out/recording: " in line
    assert "what was finished is kept" in line
    finished = [frame.frame for frame in results().frames]
    assert 0 < len(finished) < COUNT
    with open_recording(Path("out/recording")) as recording:
        assert recording.frames().frame_ids.tolist() == finished
    assert track(*args, "--resume").code == 0
    with open_recording(Path("out/recording")) as recording:
        assert recording.frames().frame_ids.tolist() == list(range(COUNT))


def test_a_folder_that_vanishes_does_not_come_back(
    track: Callable[..., Outcome], frames: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def gone(total: int, unit: str) -> Iterator[Callable[[str], None]]:
        yield lambda text: shutil.rmtree("out", ignore_errors=True)

    monkeypatch.setattr(video_command, "progress", gone)
    outcome = track(str(frames), *PROMPTS)
    assert outcome.code == 1
    (line,) = outcome.stderr.splitlines()
    assert "No such file" in line
    assert not Path("out").exists()


def backward_after(
    files: tuple[Path, Path], clip_path: Path, prompts: Sequence[PromptRecord], forward: int | None
) -> list[Any]:
    """Logits of a walk backward from frame 4 that follows one forward over so many frames."""
    with open_clip(clip_path, str(files[0]), checkpoint=files[1], device="cpu") as clip:
        for one in prompts:
            clip.add_new_points_or_box(one.frame, one.object, one.points, one.labels)
        for _ in clip.propagate_in_video(4, None if forward is None else forward - 1):
            pass
        return [logits.numpy() for *_, logits in clip.propagate_in_video(4, reverse=True)]


@pytest.mark.parametrize(("second", "needed"), [(12, 16), (22, 19)])
def test_of_a_walk_forward_the_one_backward_needs_no_more_than_a_resume_repeats(
    files: tuple[Path, Path], tmp_path: Path, second: int, needed: int
) -> None:
    for number in range(25):
        Image.fromarray(picture(number)).save(tmp_path / f"p{number}.png")
    told = [
        PromptRecord(object=1, frame=4, points=((40, 30), (100, 80)), labels=(1, 0)),
        PromptRecord(object=2, frame=second, points=((60, 50),), labels=(1,)),
        PromptRecord(object=2, frame=24, points=((60, 50),), labels=(1,)),
    ]
    assert video_command.needed_again(4, told) == needed
    whole = backward_after(files, tmp_path, told, None)
    assert len(whole) == 5
    repeated = backward_after(files, tmp_path, told, needed)
    assert all(np.array_equal(a, b) for a, b in zip(whole, repeated, strict=True))
    less = backward_after(files, tmp_path, told[:1], 3)
    enough = backward_after(files, tmp_path, told[:1], None)
    assert not all(np.array_equal(a, b) for a, b in zip(less, enough, strict=True))
