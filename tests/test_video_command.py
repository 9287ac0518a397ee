"""`maskstream video`: what it writes of a clip, interrupted and resumed, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import jsonschema
import numpy as np
import pytest
from conftest import Outcome, StartCli
from PIL import Image

from pipeline.clip import open_clip
from pipeline.offline.folder import PROGRESS
from pipeline.offline.journal import Journal
from pipeline.offline.measure import mask_of
from pipeline.offline.records import SCHEMA_PATH, VideoResults
from tests.tiny_sam2 import FRAME_HW, write_model

Call = Callable[..., Outcome]
COUNT = 7
HEIGHT, WIDTH = FRAME_HW
PROMPTS = ("--prompt", "1@0 +40,30 -100,80 name=lumen", "--prompt", "2@3 box=20,20,70,60")


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
    """What the results are, but for times."""
    found = {str(p.relative_to(out)): p.read_bytes() for p in Path(out).rglob("*") if p.is_file()}
    text = found.pop("results.json").decode()
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


class _Stop(Exception):  # noqa: N818 (stands for a process that is gone)
    pass


@pytest.mark.parametrize("finished", [0, 2, 5, 7, COUNT + 1])
def test_resumed_results_are_those_of_one_go(
    track: Callable[..., Outcome],
    frames: Path,
    monkeypatch: pytest.MonkeyPatch,
    finished: int,
) -> None:
    """As after a kill: the line that was being written is torn."""
    args = (str(frames), *PROMPTS, "--direction", "both", "--start", "1")
    assert track(*args).code == 0
    add = Journal.add

    def dies(self: Journal, number: int, *more: Any) -> None:
        if len(lines := (self._path.read_bytes()).splitlines()) > finished:
            raise _Stop(len(lines))
        add(self, number, *more)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", dies)
        with pytest.raises(_Stop):
            track(*args, out="o2")
    assert not Path("o2/results.json").exists()
    with Path("o2", PROGRESS).open("ab") as progress:
        progress.write(b'{"number": 6, "turn": 1, "fra')
    written: list[int] = []

    def counted(self: Journal, number: int, *more: Any) -> None:
        written.append(number)
        add(self, number, *more)

    monkeypatch.setattr(Journal, "add", counted)
    outcome = track(*args, "--resume", out="o2")
    assert outcome.code == 0, outcome.stderr
    assert content("o2") == content("out")
    assert len(written) == COUNT + 1 - finished  # the start is tracked twice
    again = track(*args, "--resume", out="o2")
    assert again.code == 78
    assert "is finished" in again.stderr


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (("--start", "2"), "another start"),
        (("--mask-threshold", "1"), "another mask_threshold"),
        (("--save", "masks"), "another save"),
        (("--prompt", "3@1 +4,4"), "another prompts"),
    ],
)
def test_a_resume_asks_for_the_same(
    track: Callable[..., Outcome], frames: Path, changed: tuple[str, str], said: str
) -> None:
    args = (str(frames), *PROMPTS, "--max-frames", "4")
    assert track(*args, "--start", "1").code == 0
    head = {"asked": {"start": 1}}
    Path("out", PROGRESS).write_text(json.dumps(head) + "\n")
    Path("out/results.json").unlink()
    refused = track(
        *args, *(() if "--start" in changed else ("--start", "1")), *changed, "--resume"
    )
    assert (refused.code, len(refused.stderr.splitlines())) == (78, 1)
    assert "--resume with another" in refused.stderr


@pytest.mark.timeout(150)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_what_was_finished(
    start_cli: StartCli, files: tuple[Path, Path], tmp_path: Path, number: signal.Signals
) -> None:
    clip = tmp_path / "clip"
    clip.mkdir()
    for place in range(60):
        Image.fromarray(picture(place % COUNT)).save(clip / f"p{place}.png")
    args = ("clip", "--prompt", "1@0 +40,30", "--save", "masks,video", *model(files))
    process = start_cli("video", *args, "--out", "out", cwd=tmp_path)
    masks = tmp_path / "out" / "masks"
    deadline = time.monotonic() + 100
    while not (masks.is_dir() and len(list(masks.glob("frame_*.png"))) > 3):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=100)
    assert process.returncode == 0, stderr
    assert "interrupted" in stdout
    os.chdir(tmp_path)
    found = results()
    assert 3 < len(found.frames) < 60
    assert not found.complete
    assert len(film()) == len(found.frames)
    assert Path("out", PROGRESS).is_file()
