"""`maskstream control`: what a run should follow, from the shell."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.keys_commands import OwnKey, ServerKey

if TYPE_CHECKING:  # `--help` needs no numpy
    from stages.control_client import Verb


@dataclass(frozen=True, slots=True)
class _Where:
    """What stands before the verb."""

    endpoint: str
    timeout_s: float
    key: Path | None
    server_key: Path | None
    as_json: bool


app = typer.Typer(
    help="Tell a live run what to follow. Coordinates are pixels of the source's picture.",
    no_args_is_help=True,
)

phrases = typer.Typer(
    help="What a detector that takes words looks for (detector.kind: sam3).", no_args_is_help=True
)
app.add_typer(phrases, name="phrase")

PhraseArgument = Annotated[str, typer.Argument(metavar="PHRASE", help='Such as "needle".')]
Number = Annotated[int, typer.Argument(metavar="OBJECT_ID", min=0)]
BoxOption = Annotated[str | None, typer.Option("--box", metavar="X1,Y1,X2,Y2")]
PointOption = Annotated[
    list[str] | None, typer.Option("--point", metavar="X,Y", help="On the object; repeatable.")
]
NotOption = Annotated[
    list[str] | None, typer.Option("--not", metavar="X,Y", help="Beside the object; repeatable.")
]
MaskOption = Annotated[
    Path | None, typer.Option("--mask", help="A PNG as large as the picture; not black is on it.")
]
TextOption = Annotated[
    str | None,
    typer.Option("--text", help="For segmenters that take words; none does yet, see phrase."),
]
FrameOption = Annotated[int | None, typer.Option("--frame", min=0, help="Default: the next.")]
EpochOption = Annotated[
    int | None, typer.Option("--epoch", min=0, help="Refused once another has begun.")
]


@app.callback()
def where(
    context: typer.Context,
    endpoint: Annotated[str, typer.Argument(metavar="ADDRESS")],
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for an answer.")] = 5.0,
    key: OwnKey = None,
    server_key: ServerKey = None,
    as_json: Annotated[bool, typer.Option("--json", help="The answer as one JSON object.")] = False,
) -> None:
    """ADDRESS is what the run printed as `control`, such as tcp://127.0.0.1:5557."""
    context.obj = _Where(endpoint, timeout, key, server_key, as_json)


@app.command()
def add(
    context: typer.Context,
    box: BoxOption = None,
    point: PointOption = None,
    beside: NotOption = None,
    mask: MaskOption = None,
    text: TextOption = None,
    class_id: Annotated[int, typer.Option("--class", min=0)] = 0,
    frame: FrameOption = None,
    epoch: EpochOption = None,
) -> None:
    """Follow a new object, told by a box, points, a mask or words."""
    shape = {"box": box, "point": point, "beside": beside, "mask": mask, "text": text}
    _say(context, "add", shape, class_id=class_id, frame_id=frame, epoch=epoch)


def _about_an_object(verb: Verb, what: str) -> None:
    """A command that takes an object and a shape."""

    def command(
        context: typer.Context,
        object_id: Number,
        box: BoxOption = None,
        point: PointOption = None,
        beside: NotOption = None,
        mask: MaskOption = None,
        text: TextOption = None,
        frame: FrameOption = None,
        epoch: EpochOption = None,
    ) -> None:
        shape = {"box": box, "point": point, "beside": beside, "mask": mask, "text": text}
        _say(context, verb, shape, object_id=object_id, frame_id=frame, epoch=epoch)

    app.command(verb, help=what)(command)


_about_an_object("correct", "Put an object's mask right.")
_about_an_object("reinit", "Follow an object from this alone, as if it were new.")


@app.command()
def remove(
    context: typer.Context,
    object_id: Number,
    frame: FrameOption = None,
    epoch: EpochOption = None,
) -> None:
    """Follow an object no longer."""
    _say(context, "remove", {}, object_id=object_id, frame_id=frame, epoch=epoch)


@app.command()
def rename(context: typer.Context, object_id: Number, name: str, epoch: EpochOption = None) -> None:
    """Give an object a label of its own."""
    _say(context, "rename", {}, object_id=object_id, name=name, epoch=epoch)


@app.command()
def reset(context: typer.Context, frame: FrameOption = None, epoch: EpochOption = None) -> None:
    """Remove all objects."""
    _say(context, "reset", {}, frame_id=frame, epoch=epoch)


@app.command()
def pause(context: typer.Context) -> None:
    """Let the detector look for nothing; objects are still followed."""
    _say(context, "pause", {})


@app.command()
def resume(context: typer.Context) -> None:
    """Let the detector look again."""
    _say(context, "resume", {})


@phrases.command("add")
def add_phrase(context: typer.Context, phrase: PhraseArgument) -> None:
    """Look for what a phrase names, and follow it."""
    _say(context, "add_phrase", {}, phrase=phrase)


@phrases.command("remove")
def remove_phrase(context: typer.Context, phrase: PhraseArgument) -> None:
    """Look for it no longer; its objects end."""
    _say(context, "remove_phrase", {}, phrase=phrase)


@app.command()
def boxes(
    context: typer.Context,
    box: Annotated[
        list[str] | None,
        typer.Option("--box", metavar="X1,Y1,X2,Y2,SCORE,CLASS", help="Repeatable; none: nothing."),
    ] = None,
    frame: FrameOption = None,
    epoch: EpochOption = None,
) -> None:
    """Tell a detector of kind boxes what there is in the next frame."""
    _say(context, "boxes", {"found": box or []}, frame_id=frame, epoch=epoch)


@app.command()
def snapshot(context: typer.Context) -> None:
    """Write the next frame with its masks into the run's folder."""
    _say(context, "snapshot", {})


@app.command()
def status(context: typer.Context) -> None:
    """Tell how the run is doing, and which objects there are."""
    _say(context, "status", {})


@app.command()
def ping(context: typer.Context) -> None:
    """See whether the run answers."""
    _say(context, "ping", {})


def _say(
    context: typer.Context, verb: Verb, shape: Mapping[str, object], **fields: int | str | None
) -> None:
    """Send, print the answer, and end with 0 where it was applied, else 1."""
    from pipeline.controlling import say

    where: _Where = context.obj
    code = say(
        where.endpoint,
        verb,
        shape,
        fields,
        timeout_s=where.timeout_s,
        key=where.key,
        server_key=where.server_key,
        as_json=where.as_json,
    )
    sys.stdout.flush()
    raise typer.Exit(code)
