"""The interval of a mean: against SciPy's t-test, its coverage, and its refusals."""

import numpy as np
import pytest
from scipy import stats

from enough.book import mean_interval


def test_it_is_the_interval_of_scipys_t_test():
    sample = np.random.default_rng(0).normal(2.0, 3.0, 11)
    for level in (0.8, 0.95):
        mean, interval = mean_interval(sample, level)
        expected = stats.ttest_1samp(sample, 0.0).confidence_interval(level)
        assert mean == pytest.approx(sample.mean(), rel=1e-14)
        assert interval == pytest.approx((expected.low, expected.high), rel=1e-12)


def test_it_covers_the_mean_as_often_as_it_says():
    samples = np.random.default_rng(1).normal(0.5, 1.0, (4000, 6))
    inside = [low < 0.5 < high for _, (low, high) in map(mean_interval, samples)]
    assert abs(np.mean(inside) - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 4000)


def test_equal_values_have_no_width():
    assert mean_interval([3, 3, 3]) == (3.0, (3.0, 3.0))


@pytest.mark.parametrize(
    ("sample", "level", "match"),
    [
        ([1.0], 0.95, "sample: expected a vector of at least two"),
        ([[1.0, 2.0]], 0.95, "sample: expected a vector"),
        ([1.0, np.nan], 0.95, "sample: expected finite"),
        ([1.0, 2.0], 1.0, "level"),
    ],
)
def test_bad_input_is_named(sample, level, match):
    with pytest.raises(ValueError, match=match):
        mean_interval(sample, level)
