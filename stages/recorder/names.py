"""What the recorder of a run calls what it adds to a recording."""

from __future__ import annotations

from typing import Final

RUN: Final = "run"
"""The state whose entry tells what run it is; the first one."""
ABOUT: Final = "frame"
"""The state whose entry tells of a frame what is needed to run it again; the frame's last one, so
that whoever finds it finds the others."""
ROWS: Final = ("row_boxes_xyxy", "row_scores", "row_class_ids", "row_valid")
"""Arrays of `Detections`, padding included: what is not valid takes part in nothing, but has its
place in every shape."""
CLASSES: Final = "row_classes"
"""`Detections.classes`, of a detector that is told what to look for."""
