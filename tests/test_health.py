"""When a run says that it is alive, that it can be relied on, and why not."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from test_frame_loop import CountingSource, FakeChain, FakeSink, Rig

from kpi.device_events import DeviceFault, DeviceFaultKind
from kpi.events import Event, SourceStateChanged
from kpi.prometheus import PrometheusSink
from pipeline.chain import RESIDENT_STAGES
from pipeline.health import Health, Heartbeat
from pipeline.http_config import HttpConfig
from pipeline.serve import serve
from pipeline.status import RunStatus
from pipeline.tally import Tally

HUNG_AFTER_S = 0.3
WAIT_S = 30.0


class Bench:
    """A health with a clock that is set by hand; frames are published on the real one."""

    def __init__(self) -> None:
        self.now = 100.0
        self.tally = Tally(RESIDENT_STAGES)
        self.heart = Heartbeat("the frame loop", self.clock)
        self.health = Health(self.tally, stale_after_s=5, hung_after_s=10, clock=self.clock)

    def clock(self) -> float:
        return self.now

    def told(self, *events: Event) -> Health:
        for event in events:
            self.health.write(0.0, event)
        return self.health

    def flowing(self) -> Health:
        """Frames flow: nothing is wrong."""
        self.health.loops = (self.heart,)
        now_ns = time.monotonic_ns()
        self.tally.publish(now_ns, now_ns, 1.0, {}, 0)
        return self.told(SourceStateChanged("cam", 0, "streaming"))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def fault(kind: DeviceFaultKind) -> DeviceFault:
    return DeviceFault("GPU-1", kind, "79")


def test_a_run_whose_frames_flow_is_ready_and_live(bench: Bench) -> None:
    assert bench.flowing().not_ready() is None
    assert bench.health.not_live() is None


def test_not_ready_until_the_models_are_loaded_and_a_frame_is_out(bench: Bench) -> None:
    assert bench.health.not_ready() == "the models are loading"
    bench.health.loops = (bench.heart,)
    assert bench.health.not_ready() == "no frame was published yet"


@pytest.mark.parametrize(
    "state", ["connecting", "stale", "frozen", "reconnecting", "failed", "ended"]
)
def test_not_ready_while_the_source_gives_nothing(bench: Bench, state: str) -> None:
    bench.flowing()
    bench.told(SourceStateChanged("cam", 0, state, "cable out"))  # type: ignore[arg-type]
    assert bench.health.not_ready() == f"the source is {state}: cable out"
    bench.told(SourceStateChanged("cam", 1, "streaming"))
    assert bench.health.not_ready() is None


def test_not_ready_without_a_recent_frame(bench: Bench) -> None:
    bench.flowing()
    bench.tally.last_publish_ns = time.monotonic_ns() - 6_000_000_000
    reason = bench.health.not_ready()
    assert reason is not None
    assert reason.startswith("no frame was published for 6.")


@pytest.mark.parametrize("kind", ["xid", "ecc"])
def test_a_fault_of_the_gpu_is_held_against_the_run_for_a_minute(
    bench: Bench, kind: DeviceFaultKind
) -> None:
    bench.flowing()
    bench.told(fault(kind))
    assert bench.health.not_ready() == f"the GPU reported a fault: {kind}: 79"
    bench.now += 61
    assert bench.health.not_ready() is None


def test_a_gpu_stays_lost_while_it_is_silent_and_a_slow_one_is_no_fault(bench: Bench) -> None:
    bench.flowing()
    bench.told(fault("throttling"))
    assert bench.health.not_ready() is None
    bench.told(fault("lost"), fault("xid"))
    bench.now += 3600
    assert bench.health.not_ready() == "the GPU reported a fault: lost: 79"


def test_a_loop_that_does_not_turn_is_not_live_while_it_should(bench: Bench) -> None:
    bench.flowing()
    bench.now += 3600
    assert bench.health.not_live() is None, "it has not begun"
    bench.heart.beat()
    bench.now += 10
    assert bench.health.not_live() is None
    bench.now += 1
    assert bench.health.not_live() == "the frame loop has not come round for 11.0 s"
    bench.heart.rest()
    assert bench.health.not_live() is None, "it is over"


# The real loops behind the real server


class Served:
    """A frame loop with fakes, watched over HTTP."""

    def __init__(self, rig: Rig, stack: ExitStack) -> None:
        self.rig = rig
        health = Health(rig.tally, stale_after_s=5, hung_after_s=HUNG_AFTER_S)
        health.loops = (rig.loop.heart, rig.egress.heart)
        metrics = PrometheusSink("fake", RESIDENT_STAGES, {})
        status = RunStatus("t", "fake", rig.tally, health)
        server = serve(HttpConfig(port=0), metrics, status, stack)
        assert server is not None
        self._port = server.port

    def ask(self, path: str) -> tuple[int, dict[str, object]]:
        client = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            client.request("GET", path)
            answer = client.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            client.close()

    def await_livez(self, status: int) -> str:
        deadline = time.monotonic() + WAIT_S
        while (answer := self.ask("/livez"))[0] != status:
            assert time.monotonic() < deadline, answer
            time.sleep(0.02)
        return str(answer[1].get("reason"))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


class HangingSink(FakeSink):
    def __init__(self, release: threading.Event) -> None:
        super().__init__()
        self._release = release

    def poll(self) -> None:
        if len(self.frame_ids) > 3:
            self._release.wait(WAIT_S)


def hanging(where: str, release: threading.Event) -> Rig:
    if where == "sink":
        return Rig(FakeChain(), HangingSink(release))
    chain = FakeChain(lambda frame: frame.frame_id == 3 and release.wait(WAIT_S), half=where)
    return Rig(chain, FakeSink())


@pytest.mark.parametrize(
    ("where", "name"),
    [("look", "the frame loop"), ("finish", "the frame loop"), ("sink", "egress")],
)
def test_livez_tells_which_loop_hangs_and_when_it_is_over(
    stack: ExitStack, where: str, name: str
) -> None:
    release = threading.Event()
    stack.callback(release.set)
    rig = hanging(where, release)
    served = Served(rig, stack)
    assert served.ask("/livez") == (200, {"live": True})
    running = threading.Thread(target=rig.run, args=(CountingSource(-1),))
    running.start()
    assert f"{name} has not come round for " in served.await_livez(503)
    assert served.ask("/status")[1]["not_live"] is not None
    release.set()
    served.await_livez(200)
    rig.stop.set()
    running.join(WAIT_S)
    assert not running.is_alive()
    assert served.ask("/livez")[0] == 200, "a run that is over does not hang"


class PausingSource(CountingSource):
    """Gives three pictures and then none until it is closed."""

    def __init__(self) -> None:
        super().__init__(3)
        self._closed = threading.Event()

    def read(self, buffer: object) -> object:  # type: ignore[override]
        if self._left == 0:
            self._closed.wait(WAIT_S)
        return super().read(buffer)  # type: ignore[arg-type]

    def close(self) -> None:
        self._closed.set()


def test_a_source_that_gives_nothing_does_not_make_the_loop_hang(stack: ExitStack) -> None:
    rig = Rig(FakeChain(), FakeSink())
    served = Served(rig, stack)
    running = threading.Thread(target=rig.run, args=(PausingSource(),))
    running.start()
    seen = set()
    deadline = time.monotonic() + 4 * HUNG_AFTER_S
    while time.monotonic() < deadline:
        seen.add(served.ask("/livez")[0])
    rig.stop.set()
    running.join(WAIT_S)
    assert seen == {200}


def test_readyz_says_why(stack: ExitStack) -> None:
    served = Served(Rig(FakeChain(), FakeSink()), stack)
    assert served.ask("/readyz") == (503, {"ready": False, "reason": "no frame was published yet"})
