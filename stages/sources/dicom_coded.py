"""What size the compressed frames of a DICOM file have, before one is decoded: `coded_sizes`.

Imports pydicom and Pillow.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from itertools import repeat
from typing import BinaryIO, Final

from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from pydicom import dcmread
from pydicom.encaps import generate_frames, get_frame
from pydicom.uid import JPEG2000TransferSyntaxes, JPEGTransferSyntaxes

_OFFSETS: Final = ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")
_ELEMENT_BYTES: Final = 12  # tag, VR and length before the first item


def coded_sizes(
    file: BinaryIO, count: int, index: int | None = None
) -> Iterator[tuple[int, int] | None]:
    """(height, width) of each of the ``count`` frames of ``file``, or of the one at ``index``
    (from 0), as its own JPEG or JPEG 2000 header tells; None for frames that are stored otherwise,
    or not there.

    Raises whatever a damaged header makes Pillow raise, and StopIteration where frames are missing.
    """
    header = dcmread(file, stop_before_pixels=True, specific_tags=list(_OFFSETS))
    coded = header.file_meta.TransferSyntaxUID in JPEGTransferSyntaxes + JPEG2000TransferSyntaxes
    if not coded or len(file.read(_ELEMENT_BYTES)) < _ELEMENT_BYTES:
        yield from repeat(None, count)
        return
    told = [header.get(name) for name in _OFFSETS]
    offsets = None if None in told else (told[0], told[1])
    if index is not None:
        yield _size(get_frame(file, index, number_of_frames=count, extended_offsets=offsets))
        return
    for data in generate_frames(file, number_of_frames=count, extended_offsets=offsets):
        yield _size(data)


def _size(data: bytes) -> tuple[int, int]:
    """By Pillow, which allocates what it finds here; not by its `open`, which warns."""
    kind = JpegImageFile if data.startswith(b"\xff\xd8") else Jpeg2KImageFile
    with kind(BytesIO(data)) as picture:
        return picture.height, picture.width
