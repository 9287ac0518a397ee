"""Opening the clip of `maskstream video`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.offline.records import ClipRecord
from pipeline.offline.video_job import VideoJob
from pipeline.source_address import is_dicom

if TYPE_CHECKING:
    from stages.clip.session import Clip


def opened(job: VideoJob) -> Clip:
    """Raises `ConfigError` for the model and the device, `SourceError` for the clip."""
    from pipeline.clip import open_clip

    options = job.model
    return open_clip(
        job.target,
        options.name,
        checkpoint=options.checkpoint,
        sha256=options.sha256,
        device=options.device,
        allow_burned_in=job.allow_burned_in,
    )


def image_size(clip: Clip, prompted: int) -> int:
    """Of the model, pixels: logits are at a quarter of it. `prompted`: a frame that is."""
    return 4 * clip.result(prompted).logits.shape[-1]


def clip_record(job: VideoJob, clip: Clip) -> ClipRecord:
    """What results say of the clip; no name of a DICOM file, which may be that of a person."""
    path = Path(job.target).expanduser()
    named = not job.target.startswith("pydicom:") and not is_dicom(path)
    return ClipRecord(
        name=path.absolute().name if named else "dicom",
        frames=clip.num_frames,
        size_hw=clip.size_hw,
        fps=job.fps or clip.fps,
    )
