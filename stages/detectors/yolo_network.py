"""The only file that imports ultralytics (AGPL-3.0), and only when a network is built."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import nn

from stages.checkpoints import load_state, one_line
from stages.detectors.yolo_checkpoint import YoloWeights
from stages.errors import ConfigError

_STAY_LOCAL = {"YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "0"}
_FOR_IMPORT = {"YOLO_VERBOSE": "False", "ULTRALYTICS_SAFE_LOAD": "1"}


def build_network(weights: YoloWeights, max_detections: int) -> nn.Module:
    """The fused network on the CPU, set to its end-to-end (NMS-free) head where it has one.

    Called with float32 (1, 3, h, w) in 0..1, it returns a tuple whose first item is float32
    (1, max_detections, 6): x1, y1, x2, y2 in input pixels, score, class; best first. Without
    an end-to-end head the first item has another shape. Raises `ConfigError`.
    """
    detection_model = import_ultralytics().nn.tasks.DetectionModel
    try:
        network = detection_model(deepcopy(weights.structure), ch=3, verbose=False)
    except Exception as error:  # a wrong structure fails anywhere inside
        raise ConfigError(
            f"{weights.path}: its model structure cannot be built ({one_line(error)})"
        ) from error
    load_state(network, weights.tensors, weights.path, "its model structure, not fused")
    head = network.model[-1]
    if getattr(head, "one2one_cv2", None) is not None:
        # Before `fuse`, which deletes the head that is not selected.
        head.end2end = True
    head.max_det = max_detections
    head.agnostic_nms = True  # one class an anchor, so that no box appears twice
    network = network.fuse(verbose=False).eval().requires_grad_(False)
    # Convolutions then need no reordering of their input, on the CPU as on the GPU.
    return cast(nn.Module, network.to(memory_format=torch.channels_last))


def import_ultralytics() -> Any:  # noqa: ANN401 (an untyped module)
    """ultralytics with `nn.tasks` imported, kept from the network, the screen and the disk.

    Raises `ConfigError` where it is not installed.
    """
    with _contained():
        try:
            import ultralytics
            import ultralytics.nn.tasks
        except ImportError as error:
            raise ConfigError(
                f"detector.kind yolo needs ultralytics, which cannot be imported "
                f"({one_line(error)}): pip install ultralytics, or take detector.kind dfine"
            ) from error
    # In memory only: the setting's own setter would write the user's file.
    dict.__setitem__(ultralytics.settings, "sync", False)
    return ultralytics


@contextmanager
def _contained() -> Iterator[None]:
    """Undo what ultralytics changes in the process on import, and give it no home to write to.

    It sets environment variables (`OMP_NUM_THREADS` among them) and numpy's print options,
    writes a settings file, and replaces `PIL.Image.open` by a version that installs packages.
    """
    os.environ.update(_STAY_LOCAL)
    if "ultralytics.nn.tasks" in sys.modules:
        yield
        return
    environment, image_open = dict(os.environ), Image.open
    with tempfile.TemporaryDirectory() as home, np.printoptions():
        os.environ.update(_FOR_IMPORT, YOLO_CONFIG_DIR=home)
        try:
            yield
        finally:
            Image.open = image_open
            for name in set(os.environ) - set(environment):
                del os.environ[name]
            os.environ.update(environment)
