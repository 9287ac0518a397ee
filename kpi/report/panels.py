"""The panels of the device picture: which figures they draw, in which unit."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.axes import Axes

from kpi.history import DeviceTrack
from kpi.report.style import BLUE, GREEN, ORANGE, VIOLET, TimeAxis

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
        at = time.at(time.since(track.ts))
        for curve, colour in zip(self.curves, _COLOURS, strict=False):
            values = track.column(curve.column)
            if values is not None:
                axes.plot(at, values * self.scale, ".-", ms=2, lw=1, color=colour, label=curve.name)
        axes.set_ylabel(self.label)
        axes.set_ylim(bottom=0)
        if len(self.curves) > 1:
            axes.legend(loc="lower right", ncols=4)


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
