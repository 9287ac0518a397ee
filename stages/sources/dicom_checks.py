"""What of a DICOM file cannot be shown, before anything is decoded: `refuse`. Imports pydicom."""

from __future__ import annotations

from typing import Final

from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

from stages.errors import SourceError

GREY: Final = ("MONOCHROME1", "MONOCHROME2")
PALETTE: Final = "PALETTE COLOR"
COLOUR: Final = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")  # all decode to RGB
_MAX_TOTAL_PIXELS: Final = 1 << 36


def frame_count(header: Dataset) -> int:
    """Frames that the file says it holds."""
    return int(header.get("NumberOfFrames") or 1)


def refuse(header: Dataset, name: str, *, allow_burned_in: bool, of_several: bool) -> None:
    """Raise `SourceError`, with ``name`` before it, for what cannot be shown.

    ``of_several``: the file is one of a folder, and holds a single frame.
    """
    burned_in = str(header.get("BurnedInAnnotation") or "").strip().upper() == "YES"
    if burned_in and not allow_burned_in:
        raise SourceError(
            f"{name}: the pictures have text burned in, which may name a person; "
            "expected a cleaned file, or allow_burned_in: true"
        )
    if header.get("Rows") is None or header.get("Columns") is None:
        raise SourceError(f"{name}: the file holds no picture size")
    count = frame_count(header)
    if of_several and count != 1:
        raise SourceError(
            f"{name}: the file holds {count} frames, expected one in each file of a folder"
        )
    if count < 2 and not of_several:
        told = header.get("NumberOfFrames")
        holds = "one frame" if told in (None, "", 1) else f"{told} frames by its header"
        raise SourceError(f"{name}: the file holds {holds}, expected a cine, or a folder of such")
    total = int(header.Rows) * int(header.Columns) * count
    if total > _MAX_TOTAL_PIXELS:
        raise SourceError(
            f"{name}: the header claims {total} pixels in all, expected at most {_MAX_TOTAL_PIXELS}"
        )
    _refuse_pixels(header, name)
    _refuse_codec(UID(header.file_meta.TransferSyntaxUID), name)


def _refuse_pixels(header: Dataset, name: str) -> None:
    kind, bits = header.PhotometricInterpretation, int(header.BitsStored)
    most_bits = 8 if kind in COLOUR else 16
    if kind not in (*GREY, PALETTE, *COLOUR) or not 1 <= bits <= most_bits:
        raise SourceError(
            f"{name}: pixels are {kind} with {bits} bits, expected grey or palette "
            "with at most 16 or colour with at most 8"
        )


def _refuse_codec(syntax: UID, name: str) -> None:
    try:
        readable = get_decoder(syntax).is_available
    except NotImplementedError:  # how pydicom says that it does not know the syntax
        readable = False
    if not readable:
        raise SourceError(
            f"{name}: pixels are compressed as {syntax.name}, for which no codec is installed"
        )
