"""Whether a specialist's live answers are what was asked of it: tests that may be looked at after every answer.

Wealth of a gambler who bets against a hypothesis (Waudby-Smith and Ramdas 2024; Shafer 2021): while the hypothesis is true, it ever
reaches 1 / alpha with probability at most alpha, however often one looks (Ville's inequality). Bets are a mixture over a grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean
from typing import Final

from ..bindings import SlotConfig

ALPHA: Final = 0.05
"""Chance of a false alarm, ever, for one specialist in one stage; and of a false step forward."""

LATE: Final = 0.05
"""Share of the answers that may take longer than `p95_seconds`, which is what a 95th percentile says."""

DOUBLE: Final = 2.0
"""A call that costs more than twice what its teacher's answer costs counts as one that costs twice: bets need a bound."""

_BETS: Final = (0.1, 0.25, 0.5, 0.75, 0.95)
"""Shares of the largest bet that never loses all."""

_RESTART: Final = 25
"""A gambler begins anew after so many answers: one who has lost on a long good time would notice a change late."""


@dataclass(frozen=True)
class Seen:
    """One answer of a specialist beside that of the model below it."""

    kept: bool
    """Sure enough to be given alone."""
    wrong: bool
    """Not what the model below answered; False where it was not compared, because it is not kept."""
    seconds: float
    cost: float | None = None
    """What the call costs with the specialist, as a share of what its teacher's answer costs: its own cost, and the teacher's too
    where it is not kept. None where a price is not known."""
    slice: str = ""
    """To which part of the calls it belongs, where the error budget is asked of each on its own (`slice_of`)."""


@dataclass(frozen=True)
class Promise:
    """What is asked of a specialist while it answers."""

    error_budget: float
    """Of the answers that it gives alone at most so many are wrong, as a share."""
    p95_seconds: float | None = None
    """95 of 100 of them take at most so long."""
    cost: float | None = None
    """With it a call costs at most this share of what its teacher's answer costs, in the mean of the calls that are seen."""
    by: str | None = None
    """The parameter for each of whose values the error budget is asked on its own."""

    @classmethod
    def of(cls, entry: SlotConfig) -> Promise | None:
        """Return what `hetero.toml` says of a slot; None without an error budget."""
        return (
            None
            if entry.error_budget is None
            else cls(entry.error_budget, entry.p95_seconds, entry.cost, entry.error_budget_by)
        )

    def met_by(self, seen: Seen) -> bool:
        """Return whether one call alone is no evidence against it: no alarm begins with such a one."""
        late = self.p95_seconds is not None and seen.seconds > self.p95_seconds
        dear = self.cost is not None and seen.cost is not None and seen.cost > self.cost
        return not (seen.kept and (seen.wrong or late)) and not dear


@dataclass(frozen=True)
class Finding:
    """What the evidence says of one thing that is asked."""

    asked: str
    """What it is, in words."""
    told: str
    """What was seen, in words."""
    kept: bool
    """It is shown to hold."""
    broken: bool
    """It is shown not to hold."""


def findings(seen: Sequence[Seen], promise: Promise) -> list[Finding]:
    """Return what the evidence says of each thing that is asked of a specialist, errors first.

    That all are kept is shown where each is, at `ALPHA` (an intersection of hypotheses needs no correction); that one is broken is
    an alarm, so they share `ALPHA` (the union bound): equally errors, seconds and cost, and of errors' part the k-th value that is seen of the parameter
    of `error_budget_by` has 1 / (k (k + 1)), since nobody knows how many there will be.

    Args:
        seen: of one specialist in one stage, in its order.
        promise: what is asked.
    """
    kept = [one for one in seen if one.kept]
    values = list(dict.fromkeys(one.slice for one in kept)) if promise.by else []
    parts = [(f" for {promise.by} = {value}", [one for one in kept if one.slice == value]) for value in values]
    tests: list[tuple[str, str, tuple[Sequence[float], float, float], float]] = []
    for number, (name, part) in enumerate(parts or [("", kept)], 1):
        wrong = [float(one.wrong) for one in part]
        told = f"{sum(wrong):.0f} of {len(wrong)} kept answers{name} were wrong, of {len(seen)} that were compared"
        share = 1 / (number * (number + 1)) if promise.by else 1.0
        asked = f"the error budget of {promise.error_budget:g}{name}"
        tests.append((asked, told, (wrong, promise.error_budget, 1.0), share))
    if promise.p95_seconds is not None:
        late = [float(one.seconds > promise.p95_seconds) for one in kept]
        told = f"{sum(late):.0f} of {len(late)} took longer than {promise.p95_seconds:g} s"
        tests.append((f"p95_seconds = {promise.p95_seconds:g}", told, (late, LATE, 1.0), 1.0))
    if promise.cost is not None:
        shares = [min(one.cost, DOUBLE) for one in seen if one.cost is not None]
        told = "what calls cost is not known, since a model has no price"
        if shares:
            told = f"{len(shares)} calls cost {fmean(shares):.3g} of what the teacher's answers cost"
        tests.append((f"cost = {promise.cost:g}", told, (shares, promise.cost, DOUBLE), 1.0))
    kinds = 1 + (promise.p95_seconds is not None) + (promise.cost is not None)
    return [
        Finding(
            asked,
            told,
            kept=wealth_against_bad(*bet) >= 1 / ALPHA,
            broken=wealth_against_good(bet[0], bet[1]) >= kinds / (ALPHA * share),
        )
        for asked, told, bet, share in tests
    ]


def wealth_against_good(values: Sequence[float], bound: float) -> float:
    """Return the e-value against "their mean is at most `bound`": large where it is larger.

    Args:
        values: for each answer, in their order, a number from 0 on: 1 for a wrong one.
        bound: above 0.
    """
    n, total = len(values), 0.0
    paths = [[0.0, *accumulate(math.log1p(bet * (value / bound - 1)) for value in values)] for bet in _BETS]
    for number, start in enumerate(range(0, n, _RESTART)):
        mixture = sum(_exp(path[n] - path[start]) for path in paths) / len(_BETS)
        total += mixture / ((number + 1) * (number + 2))
    # Gamblers who have not begun yet hold what they were given.
    return total + 1 / (math.ceil(n / _RESTART) + 1)


def _exp(value: float) -> float:
    """As large as a float can be, where it would be larger."""
    return math.exp(min(value, 700.0))


def wealth_against_bad(values: Sequence[float], bound: float, most: float = 1.0) -> float:
    """Return the e-value against "their mean is more than `bound`": large where it is smaller.

    Args:
        values: for each answer a number from 0 to `most`.
        bound: above 0 and below `most`.
        most: above which none lies.
    """
    gain = 1 / (most - bound)  # of the largest bet, for each unit below the bound
    total = sum(_exp(sum(math.log1p(bet * gain * (bound - value)) for value in values)) for bet in _BETS)
    return total / len(_BETS)
