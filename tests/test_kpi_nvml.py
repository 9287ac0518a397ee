"""What NVML says, mapped to figures and faults; the NVML here is `nvml_player`."""

from __future__ import annotations

import os
from dataclasses import fields

import pynvml
import pytest
from nvml_player import GIB, NvmlPlayer, Process, Use
from services import require_cuda

from kpi.device_events import DeviceSample
from kpi.gpu import GpuLostError, NoFaultsToldError
from kpi.nvml import NvmlGpu, open_nvml

NOT_SUPPORTED = pynvml.NVML_ERROR_NOT_SUPPORTED


def opened(nvml: NvmlPlayer) -> NvmlGpu:
    gpu = open_nvml(0, nvml=nvml, uuid_of=lambda index: "GPU-ours")
    assert isinstance(gpu, NvmlGpu)
    return gpu


def test_every_figure_is_told_in_base_units() -> None:
    nvml = NvmlPlayer()
    nvml.throttling = 0x1 | 0x2 | 0x4 | 0x20 | 0x100
    gpu = opened(nvml)
    gpu.read()
    nvml.uses = [Use(os.getpid(), 30, 10), Use(1, 40, 90), Use(os.getpid(), 40, 30)]
    found = gpu.read()
    assert found == DeviceSample(
        gpu="GPU-ours",
        gpu_utilization=0.5,
        gpu_memory_utilization=0.25,
        gpu_memory_used_bytes=8 * GIB,
        gpu_memory_total_bytes=140 * GIB,
        gpu_process_memory_bytes=2 * GIB,
        gpu_process_utilization=0.2,
        gpu_power_watts=351.5,
        gpu_energy_joules=9000.5,
        gpu_temperature_celsius=61.0,
        gpu_sm_clock_hertz=1.98e9,
        gpu_memory_clock_hertz=3.201e9,
        gpu_throttle_reasons=("sw_power_cap", "sw_thermal_slowdown"),
        gpu_pcie_receive_bytes_per_second=300e3,
        gpu_pcie_transmit_bytes_per_second=40e3,
        gpu_decoder_utilization=0.3,
        gpu_encoder_utilization=0.0,
        gpu_ecc_corrected=3,
        gpu_ecc_uncorrected=0,
        gpu_sm_active=0.125,
        gpu_dram_active=0.75,
    )
    blank = [f.name for f in fields(found) if getattr(found, f.name) is None]
    assert all(name.startswith("process_") for name in blank), "the rest is the GPU's"


READINGS = {
    "nvmlDeviceGetUtilizationRates": ("gpu_utilization", "gpu_memory_utilization"),
    "nvmlDeviceGetMemoryInfo": ("gpu_memory_used_bytes", "gpu_memory_total_bytes"),
    "nvmlDeviceGetComputeRunningProcesses": ("gpu_process_memory_bytes",),
    "nvmlDeviceGetProcessUtilization": ("gpu_process_utilization",),
    "nvmlDeviceGetPowerUsage": ("gpu_power_watts",),
    "nvmlDeviceGetTotalEnergyConsumption": ("gpu_energy_joules",),
    "nvmlDeviceGetTemperature": ("gpu_temperature_celsius",),
    "nvmlDeviceGetClockInfo": ("gpu_sm_clock_hertz", "gpu_memory_clock_hertz"),
    "nvmlDeviceGetCurrentClocksEventReasons": ("gpu_throttle_reasons",),
    "nvmlDeviceGetPcieThroughput": (
        "gpu_pcie_receive_bytes_per_second",
        "gpu_pcie_transmit_bytes_per_second",
    ),
    "nvmlDeviceGetDecoderUtilization": ("gpu_decoder_utilization",),
    "nvmlDeviceGetEncoderUtilization": ("gpu_encoder_utilization",),
    "nvmlDeviceGetTotalEccErrors": ("gpu_ecc_corrected", "gpu_ecc_uncorrected"),
    "nvmlGpmQueryDeviceSupport": ("gpu_sm_active", "gpu_dram_active"),
    "nvmlGpmSampleGet": ("gpu_sm_active", "gpu_dram_active"),
    "nvmlGpmMetricsGet": ("gpu_sm_active", "gpu_dram_active"),
}
ASKED_ONCE = {"nvmlGpmQueryDeviceSupport"}


@pytest.mark.parametrize("function", READINGS)
@pytest.mark.parametrize("code", [NOT_SUPPORTED, pynvml.NVML_ERROR_UNKNOWN])
def test_what_nvml_cannot_tell_is_absent_and_the_rest_is_there(function: str, code: int) -> None:
    nvml = NvmlPlayer()
    nvml.failing[function] = code
    gpu = opened(nvml)
    gpu.read()
    nvml.uses = [Use(os.getpid(), 50, 50)]
    told = gpu.read().as_dict()
    absent = {f.name for f in fields(DeviceSample) if f.name.startswith("gpu")} - set(told)
    assert absent == set(READINGS[function])


def test_every_reading_has_been_made_to_fail() -> None:
    figures = {f.name for f in fields(DeviceSample) if f.name.startswith("gpu_")}
    assert {name for names in READINGS.values() for name in names} == figures


@pytest.mark.parametrize("processes", [[], [Process(1, 5)], [Process(os.getpid(), None)]])
def test_a_process_that_nvml_does_not_know_has_no_memory_figure(processes: list[Process]) -> None:
    nvml = NvmlPlayer()
    nvml.processes = processes
    assert opened(nvml).read().gpu_process_memory_bytes is None


def test_old_samples_of_a_process_count_once() -> None:
    nvml = NvmlPlayer()
    gpu = opened(nvml)
    assert gpu.read().gpu_process_utilization == 0.5
    assert gpu.read().gpu_process_utilization is None, "nothing new"


def test_activity_needs_two_samples_and_reuses_them() -> None:
    nvml = NvmlPlayer()
    gpu = opened(nvml)
    assert gpu.read().gpu_sm_active is None
    for _ in range(5):
        assert gpu.read().gpu_sm_active == 0.125
    assert nvml.calls.count("nvmlGpmSampleAlloc") == 2
    nvml.sm_busy = NOT_SUPPORTED
    only_dram = gpu.read()
    assert (only_dram.gpu_sm_active, only_dram.gpu_dram_active) == (None, 0.75)
    gpu.close()
    assert nvml.calls.count("nvmlGpmSampleFree") == 2


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED])
@pytest.mark.parametrize("function", sorted(READINGS.keys() - ASKED_ONCE))
def test_a_lost_gpu_is_not_taken_for_a_missing_figure(function: str, code: int) -> None:
    nvml = NvmlPlayer()
    gpu = opened(nvml)
    gpu.read()
    nvml.failing[function] = code
    with pytest.raises(GpuLostError, match=r"lost|restart"):
        gpu.read()


@pytest.mark.parametrize(
    ("event", "data", "told"),
    [
        (pynvml.nvmlEventTypeXidCriticalError, 79, ("xid", "79")),
        (pynvml.nvmlEventTypeDoubleBitEccError, 0, ("ecc", "double-bit")),
        (pynvml.nvmlEventTypeSingleBitEccError, 0, ("ecc", "single-bit")),
    ],
)
def test_a_fault_is_named(event: int, data: int, told: tuple[str, str]) -> None:
    nvml = NvmlPlayer()
    gpu = opened(nvml)
    nvml.faults.put((event, data))
    fault = gpu.wait_fault(0.5)
    assert fault is not None
    assert (fault.gpu, fault.kind, fault.detail) == ("GPU-ours", *told)
    assert gpu.wait_fault(0.001) is None
    assert nvml.registered & event
    assert not nvml.registered & pynvml.nvmlEventTypeClock, "a change of clocks is no fault"


def test_an_event_that_was_not_asked_for_is_no_fault() -> None:
    nvml = NvmlPlayer()
    nvml.faults.put((pynvml.nvmlEventTypePState, 0))
    assert opened(nvml).wait_fault(0.1) is None


def test_a_gpu_without_events_says_so() -> None:
    nvml = NvmlPlayer()
    nvml.failing["nvmlDeviceGetSupportedEventTypes"] = NOT_SUPPORTED
    with pytest.raises(NoFaultsToldError, match="Not Supported"):
        opened(nvml).wait_fault(0.1)
    assert nvml.calls.count("nvmlEventSetCreate") == 0


def test_a_refused_registration_leaves_no_event_set_behind() -> None:
    nvml = NvmlPlayer()
    nvml.failing["nvmlDeviceRegisterEvents"] = pynvml.NVML_ERROR_NO_PERMISSION
    with pytest.raises(pynvml.NVMLError, match="Permission"):
        opened(nvml).wait_fault(0.1)
    assert nvml.calls.count("nvmlEventSetFree") == 1


def test_waiting_for_a_fault_of_a_lost_gpu_says_lost() -> None:
    nvml = NvmlPlayer()
    gpu = opened(nvml)
    nvml.failing["nvmlEventSetWait_v2"] = pynvml.NVML_ERROR_GPU_IS_LOST
    with pytest.raises(GpuLostError):
        gpu.wait_fault(0.1)


def test_closing_a_lost_gpu_still_ends_nvml() -> None:
    nvml = NvmlPlayer()
    gpu = opened(nvml)
    gpu.read()
    gpu.wait_fault(0.001)
    nvml.lose()
    gpu.close()
    assert nvml.calls[-1] == "nvmlShutdown"
    assert "nvmlEventSetFree" in nvml.calls


def test_the_gpu_is_found_by_its_uuid_not_its_number() -> None:
    nvml = NvmlPlayer()
    other = open_nvml(0, nvml=nvml, uuid_of=lambda index: "GPU-other")
    assert other is not None
    assert other.read().gpu_utilization == 0.01, "the player's first GPU is hardly used"
    assert opened(nvml).read().gpu_utilization == 0.5


def test_a_gpu_that_nvml_does_not_know_has_no_figures(caplog: pytest.LogCaptureFixture) -> None:
    nvml = NvmlPlayer()
    assert open_nvml(3, nvml=nvml, uuid_of=lambda index: "MIG-x") is None
    assert "does not know cuda:3" in caplog.text
    assert nvml.calls[-1] == "nvmlShutdown"


def test_a_torch_that_knows_no_uuid_costs_only_the_figures(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def unknown(index: int) -> str:
        raise AttributeError("uuid")

    assert open_nvml(0, nvml=NvmlPlayer(), uuid_of=unknown) is None
    assert "uuid" in caplog.text


def test_without_a_driver_there_are_no_gpu_figures(caplog: pytest.LogCaptureFixture) -> None:
    nvml = NvmlPlayer()
    nvml.failing["nvmlInit"] = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    assert open_nvml(0, nvml=nvml) is None
    assert "Driver Not Loaded" in caplog.text
    assert "nvmlShutdown" not in nvml.calls


def test_the_player_knows_every_function_that_is_called() -> None:
    """And pynvml has each of them: the player invents none."""
    played = [name for name in dir(NvmlPlayer) if name.startswith("nvml")]
    assert len(played) > 20
    assert [name for name in played if not callable(getattr(pynvml, name, None))] == []


@pytest.mark.gpu
def test_nvml_tells_of_torchs_device() -> None:
    require_cuda()
    import torch

    held = torch.zeros(1 << 28, device="cuda:0")
    gpu = open_nvml(0)
    assert gpu is not None
    sample = gpu.read()
    gpu.close()
    assert str(torch.cuda.get_device_properties(0).uuid) in gpu.name
    assert sample.gpu_memory_used_bytes is not None
    assert sample.gpu_memory_used_bytes >= held.nbytes
