import numpy as np
import pytest

from pipeline.percentiles import Percentiles


@pytest.mark.parametrize("quantile", [0.5, 0.95, 0.99])
def test_a_percentile_is_within_one_percent_of_the_exact_one(quantile: float) -> None:
    values = np.random.default_rng(3).lognormal(3.0, 0.8, 20_000)
    series = Percentiles()
    for value in values:
        series.add(float(value))
    exact = float(np.quantile(values, quantile, method="inverted_cdf"))
    assert series.at(quantile) == pytest.approx(exact, rel=0.011)


def test_max_is_exact_and_bounds_the_percentiles() -> None:
    series = Percentiles()
    series.add(12.345)
    summary = series.summary()
    assert summary["max"] == 12.345
    assert summary["p50"] == pytest.approx(12.345, rel=0.011)
    assert summary["p99"] == summary["p50"]


def test_without_values_nothing_is_claimed() -> None:
    assert Percentiles().summary() == {"p50": None, "p95": None, "p99": None, "max": None}


@pytest.mark.parametrize("value", [0.0, 1e-9, 1e9])
def test_values_outside_the_buckets_are_counted(value: float) -> None:
    series = Percentiles()
    series.add(value)
    found = series.at(0.5)
    assert found is not None
    assert found <= value
