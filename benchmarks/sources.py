"""What receiving pictures costs: 1080p grey over OpenIGTLink, 60 messages a second, on loopback.

    python -m benchmarks.sources [--quick] [--json FILE] [--seconds 60] [--rounds 3]

The stream comes from a process of its own, to one receiver at a time: `copy`, which only moves the
bytes from the kernel into arrays; `feed`, ours with every check sum looked at; `source`, the same
with what watches over it; and `pyigtl`. They take turns, `--rounds` times, each over the whole
time. A core's share is the processor time of the receiver's process (all of its threads), from its
first picture to its last, so it depends little on what else the machine does. `beyond`: more than
`copy`'s, in per cent of a core; `igtl_core_pct` is that of `source`, `igtl_lost` its pictures lost
over all rounds. `crc_gb_per_s`: how fast a picture's check sum is made.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.igtl_stream import bodies
from benchmarks.report import parser, print_table, write_json

NAMES = ("copy", "feed", "source", "pyigtl")
MOST_CORE_PCT = 15.0
START_S = 60.0


@dataclass(frozen=True, slots=True)
class Turn:
    """One receiver over one stream."""

    sent: int
    sent_per_s: float
    sender_late_ms_p99: float
    received: int
    core_pct: float
    ms_per_picture: float
    waits_per_picture: float


def turn(name: str, rate: float, seconds: float) -> Turn:
    """Start sender and receiver, and wait for both."""
    words = ["-m", "benchmarks.igtl_stream", str(rate), str(seconds)]
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True) as sender:
        assert sender.stdout is not None
        try:
            port = sender.stdout.readline().strip()
            words = ["-m", "benchmarks.igtl_receivers", name, port]
            ended = subprocess.run(
                [sys.executable, *words],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
                timeout=seconds + START_S,
            )
            told = json.loads(sender.stdout.readline())
        finally:
            sender.kill()
    got = json.loads(ended.stdout)
    spent_s = got["user_s"] + got["system_s"]
    return Turn(
        sent=told["sent"],
        sent_per_s=told["per_s"],
        sender_late_ms_p99=told["late_ms_p99"],
        received=got["pictures"],
        core_pct=spent_s / got["seconds"] * 100,
        ms_per_picture=spent_s / (got["pictures"] - 1) * 1e3,
        waits_per_picture=got["switches"] / (got["pictures"] - 1),
    )


def crc_gb_per_s() -> float:
    """Of the check sum alone, on the body of a picture."""
    from stages.sources.igtl_header import crc64

    body, expected = bodies()[0]
    times = []
    for _ in range(50):
        began = time.perf_counter()
        found = crc64(body)
        times.append(time.perf_counter() - began)
        assert found == expected
    return len(body) / median(times) / 1e9


def summarize(turns: dict[str, list[Turn]]) -> dict[str, Any]:
    """Medians, and what was lost in all."""
    results: dict[str, Any] = {}
    copied = median(one.core_pct for one in turns["copy"])
    for name, of in turns.items():
        core = median(one.core_pct for one in of)
        results |= {
            f"{name}_core_pct": core,
            f"{name}_beyond_pct": core - copied,
            f"{name}_ms_per_picture": median(one.ms_per_picture for one in of),
            f"{name}_waits_per_picture": median(one.waits_per_picture for one in of),
            f"{name}_sent": sum(one.sent for one in of),
            f"{name}_lost": sum(one.sent - one.received for one in of),
            f"{name}_sent_per_s": min(one.sent_per_s for one in of),
            f"{name}_sender_late_ms_p99": max(one.sender_late_ms_p99 for one in of),
        }
    return results


def main() -> None:
    """Measure, print, write; exit 1 where receiving costs too much, or loses anything."""
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--rate", type=float, default=60.0, help="messages a second")
    made.add_argument("--seconds", type=float, default=60.0, help="of each turn")
    made.add_argument("--rounds", type=int, default=3, help="turns of each receiver")
    options = made.parse_args()
    seconds, rounds = (5.0, 1) if options.quick else (options.seconds, options.rounds)
    load = os.getloadavg()[0]
    turns: dict[str, list[Turn]] = {name: [] for name in NAMES}
    for _ in range(rounds):
        for name in NAMES:
            turns[name].append(turn(name, options.rate, seconds))
    measured = summarize(turns)
    results = {
        "igtl_core_pct": measured["source_beyond_pct"],
        "igtl_lost": measured["source_lost"],
        "crc_gb_per_s": crc_gb_per_s(),
        "load_before": load,
        "rate": options.rate,
        "seconds": seconds,
        "rounds": rounds,
        **measured,
    }
    columns = ("core_pct", "beyond_pct", "ms_per_picture", "waits_per_picture", "sent", "lost")
    rows = [(name, *(measured[f"{name}_{column}"] for column in columns)) for name in NAMES]
    print_table("OpenIGTLink, 1080p grey", ("", *columns), rows)
    results["fine"] = results["igtl_core_pct"] <= MOST_CORE_PCT and results["igtl_lost"] == 0
    shown = {k: round(v, 4) if isinstance(v, float) else v for k, v in results.items()}
    write_json(options.json, "sources", shown)
    sys.exit(0 if results["fine"] else 1)


if __name__ == "__main__":
    main()
