"""Metrics that are left out while their value is unknown: absent is not 0."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kpi.device_events import DeviceSample
from kpi.edge_events import RecorderState

GAUGES = (
    ("process_cpu_cores", "process_cpu", "Cores in use by this process."),
    ("process_resident_memory_bytes", "process_rss_bytes", "Resident memory of this process."),
    ("process_threads", "process_threads", "Threads of this process."),
    ("gpu_utilization_ratio", "gpu_utilization", "Share of time in which a kernel ran."),
    ("gpu_memory_utilization_ratio", "gpu_memory_utilization", "Share of time with memory busy."),
    ("gpu_memory_used_bytes", "gpu_memory_used_bytes", "Memory in use on the GPU."),
    ("gpu_memory_total_bytes", "gpu_memory_total_bytes", "Memory of the GPU."),
    ("gpu_process_memory_bytes", "gpu_process_memory_bytes", "GPU memory of this process."),
    ("gpu_process_utilization_ratio", "gpu_process_utilization", "Share of this process in it."),
    ("gpu_power_watts", "gpu_power_watts", "Power drawn by the GPU."),
    ("gpu_temperature_celsius", "gpu_temperature_celsius", "Temperature of the GPU."),
    ("gpu_sm_clock_hertz", "gpu_sm_clock_hertz", "Clock of the GPU's processors."),
    ("gpu_memory_clock_hertz", "gpu_memory_clock_hertz", "Clock of the GPU's memory."),
    ("gpu_decoder_utilization_ratio", "gpu_decoder_utilization", "Share of time NVDEC worked."),
    ("gpu_encoder_utilization_ratio", "gpu_encoder_utilization", "Share of time NVENC worked."),
    ("gpu_sm_active_ratio", "gpu_sm_active", "Share of the SMs with work (GPM)."),
    ("gpu_dram_active_ratio", "gpu_dram_active", "Share of the peak memory bandwidth (GPM)."),
)
"""(metric, field of `DeviceSample`, help)."""
THROTTLE_REASONS = (
    "sw_power_cap",
    "hw_slowdown",
    "sync_boost",
    "sw_thermal_slowdown",
    "hw_thermal_slowdown",
    "hw_power_brake_slowdown",
    "board_limit",
    "reliability",
    "other",
)
"""NVML's names; one that is not here counts as `other`."""
RECORDERS = ("kpi", "masks")
"""The recorders that have series."""


@dataclass(frozen=True, slots=True)
class Judge:
    """Who says, at every scrape and from any thread, what is wrong with the run; None: nothing."""

    not_live: Callable[[], str | None]
    not_ready: Callable[[], str | None]


class SometimesKnown(Collector):
    """What is exported once it is known. `clock` is monotonic seconds, `latency_budget_s` None
    where nothing was promised, `judge` None where nobody judges the run."""

    def __init__(
        self,
        source: str,
        clock: Callable[[], float],
        latency_budget_s: float | None,
        judge: Judge | None,
    ) -> None:
        self.device: DeviceSample | None = None
        self._source = source
        self._clock = clock
        self._budget_s = latency_budget_s
        self._judge = judge
        self._captured: float | None = None
        self._streams_since: float | None = None
        self._recorders: tuple[RecorderState, ...] = ()

    def frame_published(self, age_s: float) -> None:
        """Note that a frame captured `age_s` seconds ago was published now."""
        self._captured = self._clock() - age_s

    def source_streams(self) -> None:
        """Note that the source gives pictures from now on."""
        if self._streams_since is None:
            self._streams_since = self._clock()

    def recorder(self, event: RecorderState) -> None:
        """Note how a recorder is; one of `RECORDERS`."""
        others = (state for state in self._recorders if state.recorder != event.recorder)
        self._recorders = (*others, event)

    def collect(self) -> Iterator[Metric]:
        yield from self._collect_source()
        yield from self._collect_recorders()
        sample = self.device or DeviceSample()
        yield from _gauges(sample)
        if sample.gpu is not None:
            yield from _gpu(sample, sample.gpu)

    def _collect_source(self) -> Iterator[Metric]:
        labels = {"source": self._source}
        since = self._streams_since if self._captured is None else self._captured
        text = "Time since the capture of the newest result; before the first, since pictures come."
        age = None if since is None else self._clock() - since
        yield _gauge("frame_age_seconds", text, labels, age)
        text = "What the configuration promises from grab to packet."
        yield _gauge("latency_budget_seconds", text, labels, self._budget_s)
        if self._judge is not None:
            live, ready = self._judge.not_live() is None, self._judge.not_ready() is None
            yield _gauge("live", "1 while no loop of the run hangs: /livez.", labels, live)
            yield _gauge("ready", "1 while clients may rely on the run: /readyz.", labels, ready)

    def _collect_recorders(self) -> Iterator[Metric]:
        states = self._recorders
        text = "1 while the recorder writes, 0 while it is paused."
        recording = GaugeMetricFamily("maskstream_recorder_recording", text, labels=("recorder",))
        text = "Records that were not written."
        lost = CounterMetricFamily("maskstream_recorder_lost_records", text, labels=("recorder",))
        for state in states:
            recording.add_metric((state.recorder,), state.state == "recording")
            lost.add_metric((state.recorder,), state.lost)
        yield from (recording, lost)


def _gauges(sample: DeviceSample) -> Iterator[Metric]:
    for name, field, text in GAUGES:
        labels = {"gpu": sample.gpu or ""} if name.startswith("gpu_") else {}
        yield _gauge(name, text, labels, getattr(sample, field))


def _gpu(sample: DeviceSample, gpu: str) -> Iterator[Metric]:
    """What a GPU tells with more labels than its name, and what only rises."""
    text = "1 while the GPU slows itself down for the reason."
    throttled = GaugeMetricFamily("maskstream_gpu_throttled", text, labels=("gpu", "reason"))
    yield _filled(throttled, gpu, _throttled(sample.gpu_throttle_reasons))
    name, text = "maskstream_gpu_pcie_bytes_per_second", "Bytes a second over PCIe."
    pcie = GaugeMetricFamily(name, text, labels=("gpu", "direction"))
    received, transmitted = (
        sample.gpu_pcie_receive_bytes_per_second,
        sample.gpu_pcie_transmit_bytes_per_second,
    )
    yield _filled(pcie, gpu, {"h2d": received, "d2h": transmitted})
    text = "Memory errors since the driver was loaded."
    ecc = CounterMetricFamily("maskstream_gpu_ecc_errors", text, labels=("gpu", "kind"))
    corrected, uncorrected = sample.gpu_ecc_corrected, sample.gpu_ecc_uncorrected
    yield _filled(ecc, gpu, {"corrected": corrected, "uncorrected": uncorrected})
    text = "Energy drawn since the driver was loaded."
    energy = CounterMetricFamily("maskstream_gpu_energy_joules", text, labels=("gpu",))
    if sample.gpu_energy_joules is not None:
        energy.add_metric((gpu,), sample.gpu_energy_joules)
    yield energy


def _throttled(reasons: tuple[str, ...] | None) -> dict[str, float | None]:
    if reasons is None:
        return {}
    known = {reason if reason in THROTTLE_REASONS else "other" for reason in reasons}
    return {reason: float(reason in known) for reason in THROTTLE_REASONS}


def _filled(
    family: GaugeMetricFamily | CounterMetricFamily, gpu: str, values: Mapping[str, float | None]
) -> Metric:
    """The family with a series for each known value, by its second label."""
    for label, value in values.items():
        if value is not None:
            family.add_metric((gpu, label), value)
    return family


def _gauge(name: str, text: str, labels: dict[str, str], value: float | None) -> Metric:
    family = GaugeMetricFamily(f"maskstream_{name}", text, labels=tuple(labels))
    if value is not None:
        family.add_metric(tuple(labels.values()), value)
    return family
