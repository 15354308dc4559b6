"""Whether a specialist's live answers keep its error budget: tests that may be looked at after every answer.

Wealth of a gambler who bets against a hypothesis (Waudby-Smith and Ramdas 2024; Shafer 2021): while the hypothesis is true, it ever
reaches 1 / alpha with probability at most alpha, however often one looks (Ville's inequality). Bets are a mixture over a grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

ALPHA: Final = 0.05
"""Chance of a false alarm, ever, for one specialist; and of a false step forward."""

_BETS: Final = (0.1, 0.25, 0.5, 0.75, 0.95)
"""Shares of the largest bet that never loses all."""

_RESTART: Final = 25
"""A gambler begins anew after so many answers: one who has lost on a long good time would notice a change late."""


def wealth_against_good(wrong: Sequence[bool], error_budget: float) -> float:
    """Return the e-value against "at most `error_budget` of the answers are wrong": large where they are worse.

    Args:
        wrong: for each answer, in their order, whether it was wrong.
        error_budget: between 0 and 1.
    """
    gains = [math.log1p(bet / error_budget * (1 - error_budget)) for bet in _BETS]
    losses = [math.log1p(-bet) for bet in _BETS]
    errors = [0, *accumulate(wrong)]
    n, total = len(wrong), 0.0
    for number, start in enumerate(range(0, n, _RESTART)):
        wrongs = errors[n] - errors[start]
        rights = n - start - wrongs
        mixture = sum(_exp(g * wrongs + x * rights) for g, x in zip(gains, losses, strict=True)) / len(_BETS)
        total += mixture / ((number + 1) * (number + 2))
    # Gamblers who have not begun yet hold what they were given.
    return total + 1 / (math.ceil(n / _RESTART) + 1)


def _exp(value: float) -> float:
    """As large as a float can be, where it would be larger."""
    return math.exp(min(value, 700.0))


def wealth_against_bad(wrong: Sequence[bool], error_budget: float) -> float:
    """Return the e-value against "more than `error_budget` of the answers are wrong": large where they are better."""
    n, errors = len(wrong), sum(wrong)
    gain = error_budget / (1 - error_budget)  # of the largest bet, by a right answer
    total = sum(_exp(errors * math.log1p(-bet) + (n - errors) * math.log1p(bet * gain)) for bet in _BETS)
    return total / len(_BETS)
