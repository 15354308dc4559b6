# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Shares, means and paired differences with their 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..bindings import Score

Z95 = 1.959963984540054


def wilson(right: int, n: int) -> Score:
    """Return a share with its 95 % Wilson score interval (Wilson 1927).

    Args:
        right: right answers.
        n: all answers; with 0 the interval is [0, 1].
    """
    if n == 0:
        return Score(score=0.0, low=0.0, high=1.0, n=0)
    share, z2 = right / n, Z95 * Z95
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return Score(score=share, low=max(0.0, middle - half), high=min(1.0, middle + half), n=n)


def mean_score(values: Sequence[float]) -> Score:
    """Return the mean of values from 0 to 1 with its 95 % interval.

    Wilson's where each is 0 or 1, else the bootstrap's (percentiles of 9,999 resamples).
    """
    if set(values) <= {0.0, 1.0}:
        return wilson(sum(value == 1.0 for value in values), len(values))
    if len(values) < 2:
        return Score(score=values[0], low=0.0, high=1.0, n=len(values))
    import numpy as np
    from scipy import stats

    low, high = stats.bootstrap((values,), np.mean, method="percentile", rng=0).confidence_interval
    return Score(score=float(np.mean(values)), low=float(low), high=float(high), n=len(values))


def paired_difference(first: Sequence[bool], second: Sequence[bool]) -> tuple[float, float, float]:
    """Return the difference of two shares on the same items, with its 95 % interval (low, high).

    Adjusted Wald interval for paired proportions (Bonett and Price 2012).

    Args:
        first: whether the first contestant was right, n items.
        second: the same for the second.

    Raises:
        ValueError: the lengths differ or are 0.
    """
    n = len(first)
    if n == 0 or n != len(second):
        raise ValueError("both sequences need the same items, at least one")
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    p1, p2 = (only_first + 1) / (n + 2), (only_second + 1) / (n + 2)
    half = Z95 * math.sqrt(max(0.0, p1 + p2 - (p1 - p2) ** 2) / (n + 2))
    return (only_first - only_second) / n, max(-1.0, p1 - p2 - half), min(1.0, p1 - p2 + half)


@dataclass(frozen=True)
class Paired:
    """What one contestant has over another on the same items."""

    difference: float
    low: float
    high: float
    p: float
    """That the difference is none: McNemar's exact test, or a permutation test where answers are right in part."""


def paired(first: Sequence[float], second: Sequence[float]) -> Paired:
    """Compare two contestants' values, 0 to 1, on the same items.

    Of right and wrong: Bonett and Price's interval and McNemar's exact test (McNemar 1947). Of shares: the bootstrap's interval
    (percentiles of 9,999 resamples) and a permutation test by changed signs.

    Raises:
        ValueError: the lengths differ or are 0.
    """
    import numpy as np
    from scipy import stats

    n = len(first)
    if n == 0 or n != len(second):
        raise ValueError("both sequences need the same items, at least one")
    if set(first) | set(second) <= {0.0, 1.0}:
        marks = [value == 1.0 for value in first], [value == 1.0 for value in second]
        difference, low, high = paired_difference(*marks)
        only_first = sum(a > b for a, b in zip(first, second, strict=True))
        differ = only_first + sum(a < b for a, b in zip(first, second, strict=True))
        p = float(stats.binomtest(only_first, differ).pvalue) if differ else 1.0
        return Paired(difference, low, high, p)
    over = np.subtract(first, second)
    if n < 2:
        return Paired(float(over[0]), -1.0, 1.0, 1.0)
    interval = stats.bootstrap((over,), np.mean, method="percentile", rng=0).confidence_interval
    test = stats.permutation_test((over,), np.mean, permutation_type="samples", rng=0)
    return Paired(float(over.mean()), float(interval.low), float(interval.high), float(test.pvalue))
