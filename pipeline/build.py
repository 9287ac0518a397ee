"""The one file that names concrete stages: from configuration sections to the chain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stages.base import Detector, Segmenter, Source
from stages.registry import Member, Registry
from stages.sources.region import SourceConfig

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from pipeline.chain import Chain
    from pipeline.config import RunConfig
    from stages.mask_ring import MaskRing
    from stages.packets import Identity
    from stages.picture_tap import PictureTap
    from stages.proposals import Proposer
    from stages.recorder.recorder import Recorder
    from stages.segmenters.tracker_core import TrackerCore
    from stages.sinks.cuda_ipc import CudaIpc
    from stages.sinks.openigtlink_server import OpenIGTLinkServer
    from stages.sinks.zmq_publisher import ZmqPublisher

__all__ = [
    "DETECTORS",
    "FOLDER_KINDS",
    "SEGMENTERS",
    "SOURCES",
    "TRACKED_MODELS",
    "SourceConfig",
    "build_chain",
    "build_cuda_ipc",
    "build_openigtlink_out",
    "build_picture_tap",
    "build_proposer",
    "build_publisher",
    "build_recorder",
    "build_tracker_core",
    "sam2_model_of",
    "tracker_bytes",
    "video_decoder_missing",
    "weights_of",
]  # fmt: skip

SOURCES: Registry[Source] = Registry(
    {
        "phantom": Member("stages.sources.phantom", "PhantomConfig", "PhantomSource"),
        "dicom": Member("stages.sources.dicom", "DicomConfig", "DicomSource"),
        "camera": Member("stages.sources.camera", "CameraConfig", "CameraSource"),
        "rtsp": Member("stages.sources.rtsp", "RtspConfig", "RtspSource"),
        "images": Member("stages.sources.images", "ImagesConfig", "ImagesSource"),
        "zmq": Member("stages.sources.zmq_frames", "ZmqFramesConfig", "ZmqFrameSource"),
        "video": Member("stages.sources.video", "VideoConfig", "VideoSource"),
        "openigtlink": Member(
            "stages.sources.openigtlink", "OpenIGTLinkConfig", "OpenIGTLinkSource"
        ),
        "recorded": Member("stages.sources.recorded", "RecordedConfig", "RecordedSource"),
    }
)
DETECTORS: Registry[Detector] = Registry(
    {
        "yolo": Member("stages.detectors.yolo", "YoloConfig", "YoloDetector"),
        "sam3": Member("stages.detectors.sam3", "Sam3TextConfig", "Sam3TextDetector"),
        "dfine": Member("stages.detectors.dfine", "DfineConfig", "DfineDetector"),
        "boxes": Member("stages.detectors.boxes", "BoxesConfig", "BoxesDetector"),
        "none": Member("stages.detectors.none", "NoDetectorConfig", "NoDetector"),
        "recorded": Member(
            "stages.detectors.recorded", "RecordedDetectorConfig", "RecordedDetector"
        ),
    }
)
FOLDER_KINDS = {
    "sam3": "sam3", "sam3_video": "sam3",
    "d_fine": "dfine", "rt_detr": "dfine", "rt_detr_v2": "dfine",
}  # fmt: skip
"""Kind of detector by the `model_type` in a folder's config.json."""
SEGMENTERS: Registry[Segmenter] = Registry(
    {
        "sam2_image": Member(
            "stages.segmenters.sam2_image", "Sam2ImageConfig", "Sam2ImageSegmenter"
        ),
        "sam2_stream": Member(
            "stages.segmenters.sam2_stream", "Sam2StreamConfig", "Sam2StreamSegmenter"
        ),
    }
)


TRACKED_MODELS = {"demo": (128, 32, 128), "sam2.1": (1024, 64, 256)}
"""Side of the picture, channels of memory and of the model."""


def tracker_bytes(slots: int, conditioning: int) -> dict[str, int]:
    """What `sam2_stream` holds for its objects, by model: see `BankShape.nbytes` and
    `SlotTable.nbytes`."""
    from stages.segmenters.memory_bank import BankShape
    from stages.segmenters.slot_table import SlotTable

    found: dict[str, int] = {}
    for name, (side, memory_dim, model_dim) in TRACKED_MODELS.items():
        shape = BankShape(slots, conditioning, 6, 15, (side // 16) ** 2, memory_dim, model_dim)
        found[name] = shape.nbytes + SlotTable.nbytes(slots, side // 4)
    return found


def video_decoder_missing(device: torch.device) -> str | None:
    """What `rtsp` lacks to decode on ``device``; None: nothing."""
    from stages.sources.nvdec import why_no_nvdec

    return why_no_nvdec(device)


def build_chain(
    config: RunConfig,
    device: torch.device,
    detector: Detector,
    segmenter: Segmenter,
    ring: MaskRing | None = None,
) -> Chain:
    """Detect → Segment → Pack → ToHost, or the legacy chain where `as_numpy` is set."""
    from pipeline.chain import LegacyChain, ResidentChain
    from stages.as_numpy import AsNumpy
    from stages.pack import Pack
    from stages.pack_numpy import PackNumpy
    from stages.to_host import ToHost

    threshold, identity = config.mask_threshold, segmenter.identity
    kept = config.recorder is not None and config.recorder.wants_logits
    logits = kept or (config.results is not None and config.results.masks == "logits")
    if config.as_numpy:
        return LegacyChain(detector, segmenter, AsNumpy(threshold), PackNumpy(identity))
    pack = Pack(threshold, identity, logits)
    return ResidentChain(detector, segmenter, pack, ToHost(device), ring)


def build_publisher(
    config: RunConfig, source_id: str, class_names: Sequence[str]
) -> ZmqPublisher | None:
    """The results socket, bound; None where the configuration has none."""
    from stages.sinks.zmq_publisher import ZmqPublisher

    if config.results is None:
        return None
    return ZmqPublisher(
        config.results, source_id, class_names, mask_threshold=config.mask_threshold
    )


def build_picture_tap(
    config: RunConfig, publisher: ZmqPublisher | None, identity: Identity
) -> PictureTap | None:
    """The tap for viewers; None where the configuration has none."""
    from stages.picture_tap import PictureTap
    from stages.wire import encode_picture

    if config.pictures is None or publisher is None:
        return None
    return PictureTap(
        config.pictures,
        identity,
        lambda: publisher.wants("frame"),
        lambda info, jpeg: publisher.offer("frame", encode_picture(info, jpeg)),
    )


def build_recorder(config: RunConfig) -> Recorder | None:
    """The recorder, not yet open; None where the configuration has none."""
    from stages.recorder.recorder import Recorder

    recorder = config.recorder
    if recorder is None:
        return None
    sent = config.results.masks if config.results and "packets" in recorder.record else "none"
    masks = "masks" in recorder.record or sent in ("bits", "rle")
    return Recorder(recorder, masks=masks, logits=recorder.wants_logits or sent == "logits")


def build_openigtlink_out(
    config: RunConfig, source_id: str, class_names: Sequence[str]
) -> OpenIGTLinkServer | None:
    """The OpenIGTLink server of the results, listening; None where the configuration has none."""
    from stages.sinks.openigtlink_server import OpenIGTLinkServer

    if config.openigtlink_out is None:
        return None
    return OpenIGTLinkServer(config.openigtlink_out, source_id, class_names)


def build_cuda_ipc(config: RunConfig, device: torch.device) -> CudaIpc | None:
    """The ring of masks for GPU programs, and where they ask for it; None where the configuration
    has none. Raises `ConfigError` where it cannot be."""
    from stages.errors import ConfigError
    from stages.sinks.cuda_ipc import make_cuda_ipc

    if config.cuda_ipc is None:
        return None
    if config.as_numpy or config.results is None:
        reason = "as_numpy is true" if config.as_numpy else "results is null"
        raise ConfigError(
            f"cuda_ipc: {reason} (expected masks that stay on the device, and an endpoint of "
            "results that tells where they are)"
        )
    return make_cuda_ipc(config.cuda_ipc, device)


def build_proposer(
    model: str,
    checkpoint: Path | None,
    sha256: str | None,
    device: torch.device,
    mask_threshold: float,
) -> Proposer:
    """What segments single pictures from prompts: see `build_sam2`. Raises `ConfigError`."""
    from stages.proposals import Proposer
    from stages.segmenters.sam2_checkpoint import build_sam2

    return Proposer(build_sam2(model, checkpoint, sha256, device), mask_threshold)


def weights_of(model: str, checkpoint: Path | None) -> Path:
    """The file of SAM2 weights that these name; raises `ConfigError`."""
    from stages.segmenters.sam2_checkpoint import weights_path

    return weights_path(model, checkpoint)


def sam2_model_of(checkpoint: Path) -> str | None:
    """The `model` that goes with SAM2 weights: see `model_of`."""
    from stages.segmenters.sam2_checkpoint import model_of

    return model_of(checkpoint)


def build_tracker_core(
    model: str | torch.nn.Module,
    checkpoint: Path | None,
    sha256: str | None,
    device: torch.device,
    frames: int,
    bf16: bool | None = None,
) -> TrackerCore:
    """SAM2's step for a clip of so many frames; see `pipeline.clip.open_clip`. Raises
    `ConfigError`."""
    from stages.segmenters.sam2_checkpoint import build_sam2
    from stages.segmenters.tracker_core import TrackerCore

    if isinstance(model, str):
        model = build_sam2(model, checkpoint, sha256, device)
    low = device.type == "cuda" if bf16 is None else bf16
    return TrackerCore(model, slots=1, conditioning=2, bf16=low, frames=frames)
