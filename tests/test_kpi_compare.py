"""Two runs compared: equal ones are within noise, a slower stage is found, and only that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kpi_logs import Made, events, write_log

from kpi.bootstrap import Estimate, quantile, ratio
from kpi.compare import Change, compare
from kpi.detail import EverySecond
from kpi.gather import gather
from kpi.history import History
from kpi.jsonl import JsonlSink


def run(folder: Path, made: Made) -> History:
    return gather(write_log(folder, made))


def seconds(folder: Path, made: Made) -> History:
    folder.mkdir()
    sink = JsonlSink(folder / "kpi.jsonl", detail=EverySecond(made.source_id))
    for ts, event in events(made):
        sink.write(ts, event)
    sink.close()
    return gather(folder)


def changed(changes: tuple[Change, ...]) -> set[str]:
    return {change.name for change in changes if change.verdict == "more than noise"}


def named(changes: tuple[Change, ...], name: str) -> Change:
    (change,) = (change for change in changes if change.name == name)
    return change


def test_a_run_and_its_equal_are_within_noise(tmp_path: Path) -> None:
    """The two halves of what one program did, with noise of their own."""
    a = run(tmp_path / "a", Made(frames=900, seed=1, drop_every=25))
    b = run(tmp_path / "b", Made(frames=900, seed=2, drop_every=25))
    changes = compare(a, b)
    assert changed(changes) == set()
    assert all(change.low is not None for change in changes), "nothing was too short to tell"
    assert changed(compare(a, a)) == set()


def test_a_slower_stage_is_found_and_only_what_it_slows(tmp_path: Path) -> None:
    a = run(tmp_path / "a", Made(frames=900, seed=1))
    b = run(tmp_path / "b", Made(frames=900, seed=2, segment_ms=9.0))
    changes = compare(a, b)
    for name in ("segment host p50 (ms)", "segment gpu mean (ms)", "latency p50 (ms)"):
        change = named(changes, name)
        assert change.told.startswith("slower by "), name
        assert change.told.endswith(" %, more than noise"), name
        assert change.low is not None
        assert change.low > 0
    segment = named(changes, "segment host p50 (ms)")
    assert segment.share == pytest.approx(1.0 / 8.7, rel=0.2)
    assert not {name for name in changed(changes) if name.startswith(("detect", "waiting", "obj"))}
    back = compare(b, a)
    assert named(back, "segment host p50 (ms)").told.startswith("faster by ")


def test_more_drops_are_found_and_cost_frames_a_second(tmp_path: Path) -> None:
    a = run(tmp_path / "a", Made(frames=900, seed=1))
    b = run(tmp_path / "b", Made(frames=900, seed=2, drop_every=4))
    changes = compare(a, b)
    assert named(changes, "dropped share").told == "more by 0.25, more than noise"
    assert named(changes, "frames a second").told.startswith("slower by 2")


def test_too_few_frames_are_told_as_such(tmp_path: Path) -> None:
    a = run(tmp_path / "a", Made(frames=40, seed=1))
    b = run(tmp_path / "b", Made(frames=40, seed=2, segment_ms=20.0))
    changes = compare(a, b)
    assert changed(changes) == set()
    assert named(changes, "latency p50 (ms)").verdict == "too few to tell"
    assert named(changes, "latency p50 (ms)").b is not None


def test_a_percentile_wants_frames_beyond_it(tmp_path: Path) -> None:
    a = run(tmp_path / "a", Made(frames=400, seed=1))
    verdicts = [named(compare(a, a), f"latency {p} (ms)").verdict for p in ("p50", "p95", "p99")]
    assert verdicts == ["within noise", "within noise", "too few to tell"]


def test_what_only_one_run_has_is_told(tmp_path: Path) -> None:
    a = run(tmp_path / "a", Made(frames=300))
    b = run(tmp_path / "b", Made(frames=300, gpu=False))
    change = named(compare(a, b), "segment gpu p50 (ms)")
    assert change.verdict == "only in one"
    assert change.b is None
    empty = run(tmp_path / "c", Made(frames=0))
    assert {c.verdict for c in compare(a, empty)} == {"only in one"}
    assert compare(empty, empty), "two runs without frames have no figures and no error"


def test_frames_are_compared_with_seconds_as_seconds(tmp_path: Path) -> None:
    a = run(tmp_path / "a", Made(frames=9000, seed=1))
    b = seconds(tmp_path / "b", Made(frames=9000, seed=2))
    slow = seconds(tmp_path / "c", Made(frames=9000, seed=3, segment_ms=9.0))
    assert changed(compare(a, b)) == set()
    assert named(compare(a, b), "latency p99 (ms)").verdict == "within noise"
    assert "segment host p50 (ms)" in changed(compare(a, slow))
    assert "latency p99 (ms)" in changed(compare(b, slow))


def test_the_same_logs_give_the_same_answer(tmp_path: Path) -> None:
    a = run(tmp_path / "a", Made(frames=600, seed=1))
    b = run(tmp_path / "b", Made(frames=600, seed=2))
    assert compare(a, b) == compare(a, b)


# The bootstrap


def spread_of(estimate: Estimate | None) -> float:
    assert estimate is not None
    assert estimate.resampled is not None
    return float(np.std(estimate.resampled))


def test_the_mean_of_independent_values_moves_as_theory_says() -> None:
    values = np.random.default_rng(0).normal(10, 2, 3000)
    told = ratio(values, np.ones(3000), np.random.default_rng(1))
    assert spread_of(told) == pytest.approx(2 / np.sqrt(3000), rel=0.35)


def test_values_that_go_together_move_further() -> None:
    """What drawing single values instead of blocks would miss."""
    random = np.random.default_rng(0)
    together = np.repeat(random.normal(10, 2, 100), 30)
    apart = random.permutation(together)
    ones = np.ones(3000)
    wide, narrow = (ratio(values, ones, np.random.default_rng(1)) for values in (together, apart))
    assert spread_of(wide) > 3 * spread_of(narrow)


@pytest.mark.parametrize("rows", [300, 20_000])
def test_a_resampled_percentile_lies_around_the_true_one(rows: int) -> None:
    values = np.random.default_rng(0).gamma(4, 2, rows)
    told = quantile(values, 0.95, np.random.default_rng(1))
    assert told is not None
    assert told.value == np.quantile(values, 0.95, method="inverted_cdf")
    assert told.resampled is not None
    assert np.median(told.resampled) == pytest.approx(told.value, rel=0.05)
    assert told.resampled.min() < told.value < told.resampled.max()


def test_nothing_has_no_percentile_and_no_ratio() -> None:
    random = np.random.default_rng(0)
    assert quantile(np.empty(0), 0.5, random) is None
    assert ratio(np.empty(0), np.empty(0), random) is None
