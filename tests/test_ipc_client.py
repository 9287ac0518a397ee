"""Readers of the ring: what they get, and what they throw away. The ring lies in host memory."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zmq
from conftest import ROOT
from host_ring import OPENERS, HostMemory, HostView
from result_packets import random_result
from test_curve import DEAF_S, Keys

from pipeline.config import load_config
from pipeline.frame_flow import RunOptions
from pipeline.run import start
from stages.errors import ConfigError
from stages.ipc_client import IpcResult, IpcSubscriber
from stages.mask_ring import MaskRing
from stages.ring_block import Copied
from stages.ring_place import ASK, RingError
from stages.sinks.cuda_ipc import CudaIpc
from stages.sinks.zmq_publisher import ZmqPublisher, ZmqPublisherConfig
from stages.to_host import ToHost

SIZE_HW = (24, 35)
WAIT_S = 20.0


@dataclass
class Rig:
    """A run, as far as a reader sees it."""

    publisher: ZmqPublisher
    ipc: CudaIpc
    to_host: ToHost
    written: int = 0

    def step(self) -> None:
        """A result on its way from Pack to the subscribers."""
        packet, _ = random_result(np.random.default_rng(self.written), 5, SIZE_HW)
        packet = self.ipc.ring.put(packet)
        self.ipc.ring.prepare(packet)
        self.written += 1
        self.publisher.write(self.to_host.submit(packet, masks=False).host_packet())
        self.poll()

    def poll(self) -> None:
        self.publisher.poll()
        self.ipc.poll()

    def open(self, **options: object) -> IpcSubscriber:
        return IpcSubscriber(
            self.publisher.endpoint,
            self.ipc.endpoint,
            **{"openers": OPENERS, **options},  # type: ignore[arg-type]
        )


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    ring = MaskRing(lambda layout: HostMemory(tmp_path, layout), 4)
    publisher = ZmqPublisher(ZmqPublisherConfig(endpoint="tcp://127.0.0.1:0"), "cam1", ())
    ipc = CudaIpc(ring)
    try:
        yield Rig(publisher, ipc, ToHost(torch.device("cpu")))
    finally:
        ipc.close()
        publisher.close()


class Busy:
    """Steps the run in a thread of its own while a reader waits."""

    def __init__(self, rig: Rig, pause_s: float = 0.01) -> None:
        self._rig, self._pause_s = rig, pause_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._over.wait(self._pause_s):
            self._rig.step()

    def __enter__(self) -> Busy:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join(WAIT_S)


def expected(result: IpcResult) -> torch.Tensor:
    """bool (n, h, w): packets are numbered by their seq, which seeds them."""
    packet, valid = random_result(np.random.default_rng(result.message.seq), 5, SIZE_HW)
    bits = np.unpackbits(packet.masks.numpy()[valid], axis=-1, count=SIZE_HW[1])
    return torch.from_numpy(bits).bool()


def test_masks_come_as_tensors_bit_for_bit(rig: Rig) -> None:
    with rig.open() as reader, Busy(rig):
        for _ in range(10):
            result = reader.receive(WAIT_S)
            assert result is not None
            assert torch.equal(result.masks(), expected(result))
            assert len(result.packed) == len(result.message.objects)
            assert result.origin_yx == (0, 0)


def test_what_was_copied_stays_as_it_was(rig: Rig) -> None:
    with rig.open() as reader:
        with Busy(rig):
            result = reader.receive(WAIT_S)
        assert result is not None
        before = result.packed.clone()
        for _ in range(8):
            rig.step()
        assert torch.equal(result.packed, before)
        assert torch.equal(result.masks(), expected(result))


def test_a_reader_that_is_too_slow_throws_old_results_away(rig: Rig) -> None:
    with rig.open() as reader:
        with Busy(rig):
            assert reader.receive(WAIT_S) is not None
        for _ in range(4):  # what lay in the queue of the socket
            reader.receive(0.1)
        torn = reader.torn
        for _ in range(4):
            rig.step()
        time.sleep(0.3)  # they are there: four messages wait
        for _ in range(20):
            rig.ipc.ring.put(random_result(np.random.default_rng(0), 5, SIZE_HW)[0])
        assert reader.receive(0.2) is None
        assert reader.torn == torn + 4


class Torn(HostView):
    """The producer comes by while a slot is being copied."""

    changed: tuple[int, int] = (0, 0)

    def copy(self, slot: int, nbytes: int) -> Copied:
        copied = super().copy(slot, nbytes)
        before, after = Torn.changed
        return Copied(copied.data, copied.before + before, copied.after + after)


@pytest.mark.parametrize("changed", [(0, 4), (0, -10_000), (4, 4), (-10_000, 0)])
def test_a_torn_read_is_thrown_away(rig: Rig, changed: tuple[int, int]) -> None:
    Torn.changed = (0, 0)
    with rig.open(openers={"host": Torn}) as reader, Busy(rig):
        assert reader.receive(WAIT_S) is not None  # the control: untouched, it is taken
        Torn.changed = changed
        before = reader.torn
        assert reader.receive(0.5) is None
        assert reader.torn > before


def test_a_writer_in_the_middle_of_a_copy_is_noticed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For real: the slot is written while the reader is between its two looks."""
    clone, interrupted = torch.Tensor.clone, False

    def late(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        nonlocal interrupted
        copied = clone(self, *args, **kwargs)
        if self.dtype == torch.uint8 and not interrupted:  # the data; the second look follows
            interrupted = True
            for _ in range(4):  # round to this slot again
                rig.ipc.ring.put(random_result(np.random.default_rng(99), 5, SIZE_HW)[0])
            interrupted = False
        return copied

    monkeypatch.setattr(torch.Tensor, "clone", late)
    with rig.open() as reader:
        reader.receive(0.0)
        with Busy(rig):
            assert reader.receive(0.7) is None
        assert reader.torn > 0


def test_nothing_is_filled_before_a_reader_has_come(rig: Rig) -> None:
    for _ in range(3):
        rig.step()
    assert rig.ipc.ring.generation == 0
    assert not rig.ipc.wants_masks
    with rig.open() as reader, Busy(rig):
        assert reader.receive(WAIT_S) is not None
    assert rig.ipc.ring.generation > 0


def test_a_run_that_began_anew_is_found(rig: Rig, tmp_path: Path) -> None:
    with rig.open() as reader:
        with Busy(rig):
            assert reader.receive(WAIT_S) is not None
        rig.ipc.ring = MaskRing(lambda layout: HostMemory(tmp_path, layout), 4)
        rig.ipc.ring.wanted = True
        rig.written = 0
        with Busy(rig):
            deadline = time.monotonic() + WAIT_S
            ring = None
            while ring is None and time.monotonic() < deadline:
                result = reader.receive(0.5)
                ring = None if result is None else rig.ipc.ring.memory
        assert ring is not None


def test_a_killed_reader_harms_nobody(rig: Rig) -> None:
    command = [sys.executable, str(ROOT / "tests" / "host_ring.py")]
    command += [rig.publisher.endpoint, rig.ipc.endpoint, "1000000"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    with Busy(rig, 0.005), rig.open() as healthy:
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for _ in range(5):
                line = json.loads(process.stdout.readline())
                assert line["areas"] == line["told"]
            process.kill()
        for _ in range(10):
            result = healthy.receive(WAIT_S)
            assert result is not None
            assert torch.equal(result.masks(), expected(result))


# How the handles are given out


def test_nobody_else_may_enter_the_folder_of_the_handles(rig: Rig) -> None:
    path = Path(rig.ipc.endpoint.removeprefix("ipc://"))
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.parent.stat().st_uid == os.getuid()
    rig.ipc.close()
    assert not path.parent.exists()


@pytest.mark.parametrize(
    "junk", [b"", b"{}", b"\x80\x04.", ASK[:-1], ASK + b" ", b"x" * 1000, b"x" * 5000]
)
def test_junk_is_not_answered(rig: Rig, junk: bytes) -> None:
    rig.step()
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(rig.ipc.endpoint)
        socket.send(junk)
        for _ in range(20):
            rig.poll()
            time.sleep(0.005)
        assert not socket.poll(0)
        assert not rig.ipc.ring.wanted
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(rig.ipc.endpoint)
        socket.send(ASK)
        deadline = time.monotonic() + WAIT_S
        while not socket.poll(5) and time.monotonic() < deadline:
            rig.poll()
        assert json.loads(socket.recv())["kind"] == "host"


def told_by(rig: Rig, told: Mapping[str, object]) -> None:
    """Have the owner tell something else."""
    rig.ipc.ring.prepare(random_result(np.random.default_rng(0), 5, SIZE_HW)[0])
    memory = rig.ipc.ring.memory
    assert isinstance(memory, HostMemory)
    real = memory.tell()
    memory.tell = lambda: {**real, **told}  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"kind": "other"}, "a ring of kind 'other', expected one of host"),
        ({"slots": "x"}, "the ring's owner told what cannot be used"),
    ],
)
def test_an_owner_that_tells_nonsense_is_refused_in_one_line(
    rig: Rig, told: dict[str, object], said: str
) -> None:
    told_by(rig, told)
    with rig.open() as reader, Busy(rig), pytest.raises(RingError, match=said) as error:
        reader.receive(WAIT_S)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("answer", [b"", b"\xff", b"{", b"[1]", b"[" * 100_000])
def test_an_answer_that_is_no_object_is_refused_in_one_line(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    send = rig.ipc._answer
    monkeypatch.setattr(rig.ipc, "_answer", lambda sender, _: send(sender, answer))
    with rig.open() as reader, Busy(rig), pytest.raises(RingError, match="expected an object"):
        reader.receive(WAIT_S)


@pytest.mark.parametrize("known", [True, False])
def test_results_with_keys_are_for_who_has_one(rig: Rig, tmp_path: Path, known: bool) -> None:
    keys = Keys(tmp_path / "keys")
    rig.publisher.close()
    config = ZmqPublisherConfig(endpoint="tcp://127.0.0.1:0", curve=keys.curve)
    rig.publisher = ZmqPublisher(config, "cam1", ())
    try:
        with rig.open(keys=keys.friend if known else None) as reader, Busy(rig):
            result = reader.receive(WAIT_S if known else DEAF_S)
            assert (result is not None) is known
    finally:
        rig.publisher.close()


def test_a_reader_without_an_owner_gets_nothing(rig: Rig) -> None:
    rig.ipc.close()
    with rig.open() as reader:
        began = time.monotonic()
        assert reader.receive(0.1) is None
        assert time.monotonic() - began < WAIT_S


def test_an_endpoint_that_is_none_is_told(rig: Rig) -> None:
    with pytest.raises(ConfigError, match="expected tcp://HOST:PORT"):
        IpcSubscriber("nonsense", rig.ipc.endpoint)


# A whole run


@dataclass
class Seen:
    """What a reader got while a run went on."""

    equal: list[bool]
    error: BaseException | None = None


def read_a_run(folder: Path, count: int, seen: Seen) -> None:
    """Compare `count` results with the masks that the message itself carries; then Ctrl-C."""
    try:
        deadline = time.monotonic() + 60.0
        while not (folder / "endpoints.json").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        where = json.loads((folder / "endpoints.json").read_text())
        with IpcSubscriber(where["results"], where["cuda_ipc"], openers=OPENERS) as reader:
            while len(seen.equal) < count:
                result = reader.receive(60.0)
                assert result is not None
                if result.message.mask_rows is not None and result.message.objects:
                    sent = torch.from_numpy(result.message.masks())
                    seen.equal.append(torch.equal(result.masks(), sent))
    except BaseException as error:
        seen.error = error
    finally:
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.timeout(180)
def test_a_whole_run_fills_the_ring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same chain as on a GPU, with the memory of the ring exchanged."""
    ipc = CudaIpc(MaskRing(lambda layout: HostMemory(tmp_path, layout), 8))
    monkeypatch.setattr("pipeline.assemble.build_cuda_ipc", lambda config, device: ipc)
    settings = (
        "source.size_hw=[120, 160]",
        "source.ahead=0",
        "source.fps=15",
        "results.endpoint=tcp://127.0.0.1:0",
        "http=null",
        "control=null",
        "preview=null",
    )
    folder, seen = tmp_path / "run", Seen([])
    reader = threading.Thread(target=read_a_run, args=(folder, 5, seen))
    reader.start()
    code = start(load_config("demo", settings), RunOptions(frames=3000, out=folder))
    reader.join(WAIT_S)
    assert seen.error is None
    assert seen.equal == [True] * 5
    assert code == 0
    summary = json.loads((folder / "summary.json").read_text())
    assert ipc.ring.generation >= 5
    assert all(summary["host_copies"][f"hot_path_{what}"] == 0 for what in ("d2h", "h2d", "syncs"))
