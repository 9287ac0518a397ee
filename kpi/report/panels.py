"""The panels of the device picture: which figures they draw, in which unit."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.axes import Axes

from kpi.frame_columns import Floats
from kpi.history import DeviceTrack
from kpi.report.style import BLUE, GREEN, ORANGE, SPANS, VIOLET, TimeAxis
from kpi.stats import along

_SINGLE_SAMPLES = 1000
_COLOURS = (BLUE, ORANGE, GREEN, VIOLET)


@dataclass(frozen=True, slots=True)
class Curve:
    column: str
    """A field of `DeviceSample`."""
    name: str


@dataclass(frozen=True, slots=True)
class Panel:
    """Curves that share a unit."""

    label: str
    scale: float
    """What a value is multiplied with to be in the label's unit."""
    curves: tuple[Curve, ...]

    def shown(self, track: DeviceTrack) -> bool:
        return any(track.column(curve.column) is not None for curve in self.curves)

    def draw(self, axes: Axes, track: DeviceTrack, time: TimeAxis) -> None:
        since = time.since(track.ts)
        for curve, colour in zip(self.curves, _COLOURS, strict=False):
            values = track.column(curve.column)
            if values is not None:
                self._curve(axes, time, since, values * self.scale, colour, curve.name)
        axes.set_ylabel(self.label)
        axes.set_ylim(bottom=0)
        if len(self.curves) > 1:
            axes.legend(loc="lower right", ncols=4)

    @staticmethod
    def _curve(
        axes: Axes, time: TimeAxis, since: Floats, values: Floats, colour: str, name: str
    ) -> None:
        """Every sample of a short run; of a long one medians, and maxima in a lighter shade."""
        if len(values) <= _SINGLE_SAMPLES:
            axes.plot(time.at(since), values, ".-", ms=2, lw=1, color=colour, label=name)
            return
        bins = along(since, values, time.seconds, SPANS)
        axes.plot(time.at(bins.seconds), bins.max, lw=0.6, color=colour, alpha=0.4)
        axes.plot(time.at(bins.seconds), bins.p50, lw=1, color=colour, label=name)


PANELS = (
    Panel("process\nCPU (cores)", 1, (Curve("process_cpu", "CPU"),)),
    Panel("process\nRSS (GiB)", 2**-30, (Curve("process_rss_bytes", "RSS"),)),
    Panel(
        "GPU busy\n(%)",
        100,
        (
            Curve("gpu_utilization", "kernels"),
            Curve("gpu_process_utilization", "of this process"),
            Curve("gpu_sm_active", "SMs with work"),
            Curve("gpu_dram_active", "memory bandwidth"),
        ),
    ),
    Panel(
        "GPU memory\n(GiB)",
        2**-30,
        (
            Curve("gpu_memory_used_bytes", "used"),
            Curve("gpu_process_memory_bytes", "of this process"),
        ),
    ),
    Panel("GPU power\n(W)", 1, (Curve("gpu_power_watts", "power"),)),
    Panel("GPU\n(°C)", 1, (Curve("gpu_temperature_celsius", "temperature"),)),
    Panel("SM clock\n(GHz)", 1e-9, (Curve("gpu_sm_clock_hertz", "clock"),)),
    Panel(
        "video units\n(%)",
        100,
        (Curve("gpu_decoder_utilization", "decoder"), Curve("gpu_encoder_utilization", "encoder")),
    ),
    Panel(
        "PCIe\n(MB/s)",
        1e-6,
        (
            Curve("gpu_pcie_receive_bytes_per_second", "to the GPU"),
            Curve("gpu_pcie_transmit_bytes_per_second", "from the GPU"),
        ),
    ),
)
