"""Everything a run is made of, put together before its first frame."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch

from kpi.http import HttpServer
from kpi.metrics import Expectations
from kpi.prometheus import PrometheusSink
from kpi.sometimes import Judge
from pipeline.announcer import Announcing
from pipeline.build import (
    DETECTORS,
    SEGMENTERS,
    SOURCES,
    build_chain,
    build_cuda_ipc,
    build_openigtlink_out,
    build_picture_tap,
    build_publisher,
)
from pipeline.chain import LEGACY_STAGES, RESIDENT_STAGES, Chain
from pipeline.config import RunConfig
from pipeline.control.build import Control, build_control
from pipeline.exposure import exposed
from pipeline.folder import RunFolder
from pipeline.header_reader import HeaderReader
from pipeline.health import Health
from pipeline.http_config import HttpConfig
from pipeline.quality import QualityCheck
from pipeline.serve import serve
from pipeline.status import RunStatus
from pipeline.tally import Tally
from pipeline.taps import Tap, recorder_of, taps_of
from pipeline.versions import versions
from pipeline.warm_up import warm_up
from stages.base import (
    Detector,
    DeviceSource,
    ListeningSource,
    PhraseDetector,
    Segmenter,
    Sink,
    Source,
    TruthSource,
)
from stages.class_names import LiveNames
from stages.copies import CopyCount
from stages.picture_tap import PictureTap
from stages.recorder.recorder import Recorder
from stages.sinks.cuda_ipc import CudaIpc
from stages.sinks.openigtlink_server import OpenIGTLinkServer
from stages.sinks.zmq_publisher import ZmqPublisher


@dataclass(frozen=True, slots=True, eq=False)
class Assembly:
    """The parts of one run; what must be released is on the stack that `assemble` was given."""

    config: RunConfig
    device: torch.device
    folder: RunFolder
    source: Source
    chain: Chain
    detector: Detector
    segmenter: Segmenter
    class_names: Sequence[str]
    publisher: ZmqPublisher | None
    openigtlink: OpenIGTLinkServer | None
    cuda_ipc: CudaIpc | None
    recorder: Recorder | None
    control: Control | None
    quality: QualityCheck | None
    taps: tuple[Tap, ...]
    pictures: PictureTap | None
    tally: Tally
    metrics: PrometheusSink
    http: HttpServer | None
    status: RunStatus

    @property
    def sinks(self) -> tuple[Sink, ...]:
        """The consumers of packets: the segmenter, whom a header tells who waits, then those
        outside."""
        seen = None if self.control is None else self.control.seen
        told = (seen, self.publisher, self.recorder, self.openigtlink, self.cuda_ipc)
        outside = (*told, self.quality, *self.taps)
        return (HeaderReader(self.segmenter), *(sink for sink in outside if sink is not None))

    @property
    def exits(self) -> tuple[CopyCount, ...]:
        """Those behind the upload."""
        pictures = () if self.pictures is None else (self.pictures.copies,)
        recorded = () if self.recorder is None else (self.recorder.looks.copies,)
        return (*self.chain.copies, *pictures, *recorded)

    @property
    def announcing(self) -> tuple[Announcing, ...]:
        """Those who tell others how the stream is."""
        return tuple(each for each in (self.publisher, self.openigtlink) if each is not None)

    @property
    def endpoints(self) -> dict[str, str]:
        """What was bound, by name."""
        found: dict[str, str] = {}
        if isinstance(self.source, ListeningSource):
            found["frames"] = self.source.endpoint
        if self.publisher is not None:
            found["results"] = self.publisher.endpoint
        if self.openigtlink is not None:
            found["openigtlink"] = self.openigtlink.endpoint
        if self.cuda_ipc is not None:
            found["cuda_ipc"] = self.cuda_ipc.endpoint
        if self.control is not None:
            found["control"] = self.control.channel.endpoint
        if self.http is not None:
            host = f"[{self.http.host}]" if ":" in self.http.host else self.http.host
            found["http"] = f"http://{host}:{self.http.port}"
        return found

    @property
    def open_to_all(self) -> tuple[str, ...]:
        """Names of the endpoints that anyone on the network may use."""
        return tuple(exposed(self.config, self.endpoints))


def assemble(
    config: RunConfig, device: torch.device, folder: RunFolder, stack: ExitStack
) -> Assembly:
    """Open the source, bind the ports, load the models, in the order of what fails fastest.

    Raises `ConfigError`, `SourceError` or another `MaskstreamError`; nothing is written.
    """
    cuda_ipc = _closed_by(stack, build_cuda_ipc(config, device))
    source = _closed_by(stack, SOURCES.create(config.source))
    if isinstance(source, DeviceSource):
        source.decode_on(device)
    tally = Tally(LEGACY_STAGES if config.as_numpy else RESIDENT_STAGES)
    status = RunStatus(config.name, source.source_id, tally, _health(config, tally))
    metrics = _metrics(config, device, source.source_id, tally, status)
    http = serve(config.http, metrics, status, stack)
    detector = DETECTORS.create(config.detector, device)
    # Egress closes it earlier, unless it hangs.
    segmenter = _closed_by(
        stack, SEGMENTERS.create(config.segmenter, device, len(detector.class_names))
    )
    names = LiveNames(lambda: (*detector.class_names, *segmenter.prompt_names))
    publisher = _closed_by(stack, build_publisher(config, source.source_id, names))
    recorder = recorder_of(config, publisher, segmenter)
    pictures = build_picture_tap(config, publisher, segmenter.identity)
    openigtlink = _closed_by(stack, build_openigtlink_out(config, source.source_id, names))
    ring = None if cuda_ipc is None else cuda_ipc.ring
    control = build_control(
        config.control,
        detector=detector,
        segmenter=segmenter,
        folder=folder.path,
        class_names=names,
        status=status.snapshot,
    )
    if control is not None:
        stack.callback(control.channel.close)
    chain = build_chain(config, device, detector, segmenter, ring)
    if source.size_hw is not None:
        roi = config.source.roi
        warm_up(chain, source.size_hw, device, (0, 0) if roi is None else (roi.y, roi.x))
    return Assembly(
        config=config,
        device=device,
        folder=folder,
        source=source,
        chain=chain,
        detector=detector,
        segmenter=segmenter,
        class_names=names,
        publisher=publisher,
        openigtlink=openigtlink,
        cuda_ipc=cuda_ipc,
        recorder=recorder,
        control=control,
        quality=_quality(source, detector),
        taps=taps_of(config, folder, names, pictures, control),
        pictures=pictures,
        tally=tally,
        metrics=metrics,
        http=http,
        status=status,
    )


class _Closes(Protocol):
    def close(self) -> None: ...


Part = TypeVar("Part", bound=_Closes | None)


def _closed_by(stack: ExitStack, part: Part) -> Part:
    if part is not None:
        stack.callback(part.close)
    return part


def _metrics(
    config: RunConfig, device: torch.device, source_id: str, tally: Tally, status: RunStatus
) -> PrometheusSink:
    return PrometheusSink(
        source_id,
        tuple(tally.host_ms),
        versions(),
        gpu_clock=device.type == "cuda",
        expected=_expected(config),
        judge=Judge(status.health.not_live, status.health.not_ready),
    )


def _quality(source: Source, detector: Detector) -> QualityCheck | None:
    """Phrases are not the truth's classes: their objects are judged whatever they are called."""
    classes = () if isinstance(detector, PhraseDetector) else detector.class_names
    return QualityCheck(source, classes) if isinstance(source, TruthSource) else None


def _health(config: RunConfig, tally: Tally) -> Health:
    http = config.http or HttpConfig()
    return Health(tally, stale_after_s=http.stale_after_s, hung_after_s=http.hung_after_s)


def _expected(config: RunConfig) -> Expectations:
    budget_ms, results = config.kpi.latency_budget_ms, config.results
    return Expectations(
        latency_budget_s=None if budget_ms is None else budget_ms / 1e3,
        subscribers=0 if results is None else results.expect_subscribers,
    )
