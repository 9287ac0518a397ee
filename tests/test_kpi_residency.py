"""KPI under the residency guard: it neither copies from the device nor waits for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from kpi_examples import BARE, FULL
from nvml_player import NvmlPlayer
from test_kpi_device import opener, told, until
from test_kpi_timing import FakeDevice

from kpi import emit
from kpi.device import DeviceSampler
from kpi.device_events import DeviceSample
from kpi.events import FramePublished, ObjectAdded
from kpi.logger import KpiLogger
from kpi.memory import MemorySink
from kpi.timing import StageTimer
from pipeline.audit import residency_guard
from stages.errors import ResidencyError

PRESENCE = torch.tensor([1.5, -0.5])


def test_every_event_is_emitted_without_a_copy_or_a_wait() -> None:
    logger = KpiLogger([sink := MemorySink()])
    with logger.use(), residency_guard() as report:
        for event in (*FULL, *BARE):
            emit(event)
    assert logger.close(timeout=30)
    assert report.violations == []
    assert sink.events[: len(FULL)] == list(FULL)


@pytest.mark.parametrize("cuda", [False, True])
def test_stages_are_timed_without_a_copy_or_a_wait(cuda: bool) -> None:
    device = FakeDevice()
    timer = StageTimer("cuda:0" if cuda else "cpu", new_event=device.event if cuda else None)
    with residency_guard() as report, torch.inference_mode():
        for _ in range(3):
            times = timer.frame()
            times.waits()
            times.goes_on()
            with times.stage("segment"):
                PRESENCE.sigmoid()
            assert times.ready() is not cuda
            device.run()
            assert times.stages_ms()["segment"].gpu == (1.0 if cuda else None)
    assert report.violations == []


def test_the_device_is_sampled_without_a_copy_or_a_wait() -> None:
    with residency_guard() as report:
        sampler = DeviceSampler(0.01, 0, open_gpu=opener(NvmlPlayer()))
        with told() as sink:
            sampler.start()
            until(lambda: any(sample.gpu_power_watts for sample in sink.of(DeviceSample)))
            sampler.close()
    assert report.violations == []


def of_an_item() -> None:
    emit(ObjectAdded("cam", 0, 0, int(PRESENCE[0].item()), 0))


def of_a_list() -> None:
    emit(FramePublished("cam", 0, 0, 1.0, 1.0, {}, 2, tuple(PRESENCE.tolist())))


def in_a_stage() -> None:
    with StageTimer("cpu").frame().stage("segment"):
        float(PRESENCE.sum())


@pytest.mark.parametrize("offence", [of_an_item, of_a_list, in_a_stage])
def test_an_event_that_is_read_off_the_device_is_caught(offence: Callable[[], None]) -> None:
    logger = KpiLogger([sink := MemorySink()])
    with logger.use(), pytest.raises(ResidencyError, match="test_kpi_residency"), residency_guard():
        offence()
    assert logger.close(timeout=30)
    assert len(sink.events) == 1, "nothing was told but the end"
