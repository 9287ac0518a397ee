"""How soon the control channel answers, left alone and while it is flooded with what is no command.

    python -m benchmarks.control [--quick] [--json FILE]

The channel runs in a process of its own beside a stream of 50 frames/s that applies every prompt,
what attacks it in another; a controller pings it about 30 times a second. `alone`: nothing else.
`mutants`: seeded mutants of valid commands (tests/mutants.py), as fast as they are answered.
`flood`: one peer that sends commands without a pause, far beyond its limit. `junk`: connections
that speak no ZMTP, 100 a second. `ping_ms_*` are round trips; `rss_mb` is what the process of the
channel gained meanwhile. Modes take turns; figures are medians of rounds (`ping_ms_max`: of all),
and `ratio` compares p99 with that of `alone` in the same run. Exit
code 1 where any ping of any mode took longer than 100 ms.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import socket as sockets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.synchronize import Event
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import zmq

from benchmarks.report import parser, print_table, write_json
from stages.control_client import Controller

ROOT = Path(__file__).parent.parent
SEED = 20261121
MOST_PING_MS = 100.0
MODES = ("alone", "mutants", "flood", "junk")
RATE = 10_000
"""Commands a second that the mutants' sender is allowed."""
SERVER = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests"]
from pathlib import Path
from control_rig import rig
from pipeline.settled import settled
with rig(Path(sys.argv[2]), endpoint="tcp://127.0.0.1:0", rate_per_s=float(sys.argv[3]),
         burst=int(float(sys.argv[3]))) as live, settled():
    print(live.channel.endpoint, flush=True)
    sys.stdin.read()
    print(dict(live.channel.counts), flush=True)
"""


@contextmanager
def serving(rate: float) -> Iterator[tuple[str, psutil.Process]]:
    """A channel's address and its process."""
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(ROOT), folder, str(rate)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), psutil.Process(process.pid)
        finally:
            process.communicate()


def mutants(endpoint: str, over: Event) -> int:
    """Mutants sent until it is over, never more than 200 ahead of the answers."""
    sys.path[:0] = [str(ROOT / "tests")]
    from mutants import mutants as made

    count, ahead = 0, 0
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(endpoint)
        while not over.is_set():
            for message in made(SEED + count, 500):
                socket.send(message)
                count, ahead = count + 1, ahead + 1
                while ahead > 200 and socket.poll(1000):
                    socket.recv()
                    ahead -= 1
                if over.is_set():
                    break
    return count


def flood(endpoint: str, over: Event) -> int:
    """Commands sent without a pause."""
    count = 0
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(endpoint)
        while not over.is_set():
            with suppress(zmq.Again):
                socket.send(b'{"id": "f%d", "verb": "reset"}' % count, zmq.NOBLOCK)
                count += 1
            while socket.poll(0):
                socket.recv()
    return count


def junk(endpoint: str, over: Event) -> int:
    """Connections with random bytes, 100 a second."""
    dice, count = random.Random(SEED), 0  # noqa: S311 (to be repeated)
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    while not over.wait(0.01):
        with suppress(OSError), sockets.create_connection((host, int(port)), timeout=5) as one:
            one.sendall(dice.randbytes(500))
        count += 1
    return count


def nothing(endpoint: str, over: Event) -> int:
    """The baseline."""
    over.wait()
    return 0


ATTACKS: dict[str, Callable[[str, Any], int]] = {
    "alone": nothing,
    "mutants": mutants,
    "flood": flood,
    "junk": junk,
}


def attack(mode: str, endpoint: str, over: Event, sent: Any) -> None:  # noqa: ANN401 (a c_int64)
    """In a process of its own."""
    sent.value = ATTACKS[mode](endpoint, over)


def measured(mode: str, seconds: float) -> dict[str, float]:
    """One round of one mode."""
    spawned = multiprocessing.get_context("spawn")
    over, sent = spawned.Event(), spawned.Value("q", 0)
    with serving(RATE if mode == "mutants" else 50) as (endpoint, process):
        attacker = spawned.Process(target=attack, args=(mode, endpoint, over, sent))
        attacker.start()
        with Controller(endpoint, timeout_s=20) as controller:
            _pings(controller, 3.0)  # warm-up, and the attacker's start
            before = process.memory_info().rss
            times = _pings(controller, seconds)
        grown = (process.memory_info().rss - before) / 1e6
        over.set()
        attacker.join()
    p50, p99 = np.percentile(times, (50, 99))
    return {
        "ping_ms_p50": float(p50),
        "ping_ms_p99": float(p99),
        "ping_ms_max": max(times),
        "rss_mb": grown,
        "sent": float(sent.value),
    }


def _pings(controller: Controller, seconds: float) -> list[float]:
    """Round trips in milliseconds; about 30 a second, below what one controller may send."""
    times, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.perf_counter()
        controller.send("ping")
        times.append((time.perf_counter() - began) * 1e3)
        time.sleep(0.03)
    return times


def judged(results: Mapping[str, Mapping[str, float]]) -> int:
    """1 where a single ping of any mode took longer than it may, else 0; says so."""
    slow = [mode for mode in results if results[mode]["ping_ms_max"] > MOST_PING_MS]
    limit = f"{MOST_PING_MS:.0f} ms"
    print(f"pings took longer than {limit}: {' '.join(slow)}" if slow else f"each within {limit}")
    return 1 if slow else 0


def main() -> None:
    arguments = parser((__doc__ or "").splitlines()[0]).parse_args()
    rounds, seconds = (1, 2.0) if arguments.quick else (5, 6.0)
    found: dict[str, list[dict[str, float]]] = {mode: [] for mode in MODES}
    for _ in range(rounds):
        for mode in MODES:
            found[mode].append(measured(mode, seconds))
    results: dict[str, dict[str, float]] = {}
    for mode in MODES:
        one = {key: median(r[key] for r in found[mode]) for key in found[mode][0]}
        one["ping_ms_max"] = max(r["ping_ms_max"] for r in found[mode])
        results[mode] = one
    for one in results.values():
        one["ratio"] = one["ping_ms_p99"] / results["alone"]["ping_ms_p99"]
    columns = list(results["alone"])
    rows = [[mode, *(results[mode][key] for key in columns)] for mode in MODES]
    print_table("The control channel", ["mode", *columns], rows)
    write_json(arguments.json, "control", results)
    sys.exit(judged(results))


if __name__ == "__main__":
    main()
