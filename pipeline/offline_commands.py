"""`maskstream image` and `maskstream video`: the same models on files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        help="demo, a name such as sam2.1_hiera_t, a YAML, or an id in the Hugging Face cache.",
    ),
]
CheckpointOption = Annotated[
    Path | None, typer.Option("--checkpoint", help="Weights of a model that brings none.")
]
Sha256Option = Annotated[str | None, typer.Option("--sha256", help="Of the weights; checked.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu or cuda:N.")]
ThresholdOption = Annotated[
    float, typer.Option("--mask-threshold", help="Logit above which a pixel is foreground.")
]
SpacingOption = Annotated[
    str | None, typer.Option("--spacing", metavar="Y,X", help="Millimetres of a pixel.")
]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="Folder of the results (default: under runs/).")
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Former results in the folder go away.")
]


def image(
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="Files, folders, patterns.")
    ],
    point: Annotated[
        list[str] | None, typer.Option("--point", metavar="X,Y", help="On it; repeatable.")
    ] = None,
    beside: Annotated[
        list[str] | None, typer.Option("--not", metavar="X,Y", help="Beside it; repeatable.")
    ] = None,
    box: Annotated[
        list[str] | None,
        typer.Option("--box", metavar="X1,Y1,X2,Y2", help="Around it; several: an object each."),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option("--mask", help="Roughly it: a PNG as large as the picture, black around it."),
    ] = None,
    grid: Annotated[
        str | None,
        typer.Option("--grid", metavar="COLUMNSxROWS", help="An object a point, such as 3x3."),
    ] = None,
    grid_center: Annotated[
        int | None,
        typer.Option(
            "--grid-center", metavar="N",
            help="An object a point: one at the centre, the others on a circle of a quarter of the "
            "shorter side around it.",
        ),
    ] = None,
    multimask: Annotated[
        bool, typer.Option("--multimask", help="All three masks of each prompt, with scores.")
    ] = False,
    model: ModelOption = "demo",
    checkpoint: CheckpointOption = None,
    sha256: Sha256Option = None,
    device: DeviceOption = "auto",
    mask_threshold: ThresholdOption = 0.0,
    spacing: SpacingOption = None,
    out: OutOption = None,
    overwrite: OverwriteOption = False,
) -> None:  # fmt: skip
    """Segment pictures from points, boxes, a mask or a grid; coordinates are pixels.

    --point, --not, --mask and one --box together tell of one object.
    """
    from pipeline.offline.image_prompts import image_prompts
    from pipeline.offline.model import ModelOptions, spacing_of

    prompts = image_prompts(point or (), beside or (), box or (), mask, grid, grid_center)
    options = ModelOptions(model, checkpoint, sha256, device, mask_threshold)
    spacing_mm = spacing_of(spacing)
    from pipeline.offline.image import ImageJob, segment_images  # imports torch

    job = ImageJob(
        targets=tuple(images),
        prompts=prompts,
        mask_file=None if mask is None else mask.name,
        multimask=multimask,
        model=options,
        spacing_mm=spacing_mm,
        out=out,
        entry="overwrite" if overwrite else "new",
    )
    raise typer.Exit(segment_images(job))


def video(
    clip: Annotated[
        str,
        typer.Argument(
            metavar="CLIP", help="A video or DICOM file, a folder of pictures or DICOM files."
        ),
    ],
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt",
            metavar="'OBJECT@FRAME ...'",
            help="Points +X,Y on the object and -X,Y beside it, box=X1,Y1,X2,Y2, or mask=FILE; "
            "name=TEXT; repeatable.",
        ),
    ] = None,
    prompts: Annotated[Path | None, typer.Option("--prompts", help="A YAML file of them.")] = None,
    text: Annotated[
        list[str] | None,
        typer.Option("--text", metavar="WORDS", help="All that they name on a frame; repeatable."),
    ] = None,
    text_model: Annotated[
        str | None, typer.Option(metavar="FOLDER|ID", help="SAM3, which finds it.")
    ] = None,
    text_revision: Annotated[str | None, typer.Option(help="Commit of that id.")] = None,
    text_frame: Annotated[
        int | None, typer.Option(min=0, help="Where to look (default: 0).")
    ] = None,
    text_score: Annotated[
        float | None, typer.Option(min=0, max=1, help="What is surer counts (default: 0.5).")
    ] = None,
    direction: Annotated[
        str, typer.Option(help="forward, backward, or both: forward, then backward.")
    ] = "forward",
    start: Annotated[
        int | None,
        typer.Option(min=0, help="Frame to begin with (default: the first prompted; for "
                     "backward the last)."),
    ] = None,
    max_frames: Annotated[
        int | None, typer.Option(min=1, help="Track at most so many, in each direction.")
    ] = None,
    save: Annotated[
        str,
        typer.Option(help="Of frames, masks, overlays, video, logits, recording; commas between."),
    ] = "masks,video",
    model: ModelOption = "demo",
    checkpoint: CheckpointOption = None,
    sha256: Sha256Option = None,
    device: DeviceOption = "auto",
    mask_threshold: ThresholdOption = 0.0,
    spacing: SpacingOption = None,
    fps: Annotated[
        float | None,
        typer.Option(min=0.1, max=240, help="Default: what the clip tells, else 25."),
    ] = None,
    allow_burned_in: Annotated[
        bool, typer.Option("--allow-burned-in", help="Also DICOM with text in its pictures.")
    ] = False,
    out: OutOption = None,
    overwrite: OverwriteOption = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Finish what was interrupted in --out.")
    ] = False,
) -> None:  # fmt: skip
    """Track objects through a clip, from prompts on any of its frames."""
    from pipeline.offline.clip_prompts import clip_prompts
    from pipeline.offline.clip_words import words_of
    from pipeline.offline.model import ModelOptions, spacing_of
    from pipeline.offline.video_job import VideoJob, direction_of, entry_of, saved_of

    words = words_of(tuple(text or ()), text_model, text_revision, text_frame, text_score)
    told = bool(prompt or prompts) or words is None
    job = VideoJob(
        target=clip,
        allow_burned_in=allow_burned_in,
        direction=direction_of(direction),
        saved=saved_of(save),
        entry=entry_of(out, overwrite, resume),
        prompts=clip_prompts(prompt or (), prompts) if told else (),
        words=words,
        start=start,
        max_frames=max_frames,
        model=ModelOptions(model, checkpoint, sha256, device, mask_threshold),
        spacing_mm=spacing_of(spacing),
        fps=fps,
        out=out,
    )
    from pipeline.offline.video import track_clip  # imports torch

    raise typer.Exit(track_clip(job))
