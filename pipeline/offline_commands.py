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
