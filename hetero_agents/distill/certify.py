# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""The error budget: which of a specialist's answers it may give alone, shown on calls that nothing else has seen.

What is bounded is the selective risk, the rate of wrong answers among those kept (Geifman and El-Yaniv 2017). It need not fall as the
threshold rises, so the threshold is found by Learn-then-Test (Angelopoulos et al. 2021): the select part fixes the calibrator and the
thresholds in their order, the certify part tests them one after the other until one fails, each at the whole level (fixed-sequence
testing), by the binomial tail, which is Clopper and Pearson's bound (1934).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from ..bindings import Calibrator, Certificate
from ..contract import Sha256
from ..routing import Signals, calibrated, scaled
from .intervals import wilson

BINS = 10
"""Of the reliability diagram, equally full."""

FURTHER = ("least", "margin", "weakest_field")
"""Signals that a calibrator weighs only where the data say that they help."""

FOLDS = 5
"""Of cross-validation."""

FEWEST_OF_EACH = 10
"""Right answers, and wrong ones, from which cross-validation can tell something."""

HOPELESS = 0.02
"""Chance to pass, by the select part, below which the certify part is not asked at all."""

_FIFTHS = (-1.2816, -0.5244, 0.0, 0.5244, 1.2816)
"""Standard normal quantiles in the middle of each fifth."""

LIKELY = 0.8
"""Chance to pass for which `missing` says how many calls are needed."""


@dataclass(frozen=True)
class Tried:
    """A specialist's answer to one call, and what became of it."""

    cluster: str
    """Calls of one cluster are not independent of each other."""
    signals: Signals | None
    wrong: bool
    refused: bool
    """By the contract or a check: it escalates, however sure."""


@dataclass(frozen=True)
class Bin:
    """Some answers that were about equally sure."""

    sure: float
    """Mean of their calibrated probabilities."""
    right: float
    n: int


def fit(tried: Sequence[Tried], further: Collection[str] = FURTHER) -> Calibrator | None:
    """Return a logistic calibrator of signals that all answers have; None where there are none.

    It weighs all of them but the further ones, which say much the same as the product: each of these is taken where cross-validation over clusters
    says that it lowers the log loss by more than a standard error. A signal that would count against answers is left out.

    With all right or all wrong there is no slope to fit: it is one for each unit of log-probability, about a share of right
    answers that one more answer of the other kind would give (Laplace).
    """
    known = [t for t in tried if t.signals is not None and not t.refused]
    if not known:
        return None
    import numpy as np

    have = set.intersection(*(set(t.signals or {}) for t in known))
    values = {name: np.array([scaled(name, (t.signals or {})[name]) for t in known]) for name in sorted(have)}
    names = [name for name in values if name not in further]
    if not names:
        return None
    right, clusters = np.array([not t.wrong for t in known]), [t.cluster for t in known]
    if right.all() or not right.any():
        odds = math.log(len(known) + 1) * (1 if right[0] else -1)
        return Calibrator(
            bias=odds - float(sum(values[name].mean() for name in names)), weights=dict.fromkeys(names, 1.0)
        )
    more: list[str] = [name for name in values if name in further]
    before = _losses(values, names, right, clusters) if more else None
    while more and before is not None:
        after: dict[str, Any] = {name: _losses(values, [*names, name], right, clusters) for name in more}
        best = min(more, key=lambda name: after[name].mean())
        gain = before - after[best]
        if not gain.mean() > gain.std() / math.sqrt(len(gain)):
            break
        names, before = [*names, best], after[best]
        more.remove(best)
    return _logistic({name: values[name] for name in names}, right)


def _logistic(values: dict[str, Any], right: Any) -> Calibrator:
    """Fit, and again without the signal that counts against answers most, until none does: less what it says, the others would not be right."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    names = list(values)
    scale = {name: max(float(values[name].std()), 1e-6) for name in names}
    while True:
        given = np.column_stack([values[name] / scale[name] for name in names])
        model: Any = cast(Any, LogisticRegression)(C=1.0, max_iter=1000).fit(given, right)
        found = dict(zip(names, map(float, model.coef_[0]), strict=True))
        worst = min(names, key=lambda name: found[name])
        if found[worst] >= 0:
            return Calibrator(bias=float(model.intercept_[0]), weights={n: w / scale[n] for n, w in found.items()})
        if len(names) == 1:
            share = float(right.mean())
            return Calibrator(bias=math.log(share / (1 - share)), weights={worst: 0.0})
        names.remove(worst)


def _losses(values: dict[str, Any], names: Sequence[str], right: Any, clusters: Sequence[str]) -> Any:
    """Each answer's log loss by a calibrator that is fitted to other clusters; None where there is too little to tell."""
    import numpy as np
    from sklearn.model_selection import GroupKFold

    few = min(int(right.sum()), len(right) - int(right.sum()))
    if few < FEWEST_OF_EACH or len(set(clusters)) < FOLDS:
        return None
    odds = np.zeros(len(right))
    for learn, held in GroupKFold(FOLDS).split(right, groups=clusters):
        if right[learn].all() or not right[learn].any():  # one cluster has all of a kind
            return None
        fitted = _logistic({name: values[name][learn] for name in names}, right[learn])
        odds[held] = fitted.bias + sum(weight * values[name][held] for name, weight in fitted.weights.items())
    return np.logaddexp(0.0, np.where(right, -odds, odds))


def sureness(calibrator: Calibrator, tried: Tried) -> float:
    """Return the calibrated probability of an answer; -1 where it escalates anyway."""
    sure = None if tried.refused else calibrated(calibrator, tried.signals)
    return -1.0 if sure is None else sure


def keeps(certificate: Certificate, tried: Tried) -> bool:
    """Return whether a specialist gives an answer alone."""
    return certificate.threshold is not None and sureness(certificate.calibrator, tried) >= certificate.threshold


def upper_bound(wrong: int, n: int, confidence: float) -> float:
    """Return Clopper and Pearson's one-sided upper bound on a rate; 1 of nothing."""
    from scipy.stats import beta

    return 1.0 if wrong >= n else float(beta.ppf(confidence, wrong + 1, n - wrong))


def fewest(error_budget: float, confidence: float) -> int:
    """Return how many answers, none wrong, show an error budget at least: 299, 149, 59, 29 for 0.01, 0.02, 0.05, 0.10 at 0.95."""
    return math.ceil(math.log(1 - confidence) / math.log(1 - error_budget))


@dataclass(frozen=True)
class Plan:
    """What the select part fixes: thresholds, strictest first."""

    thresholds: list[float]
    chance: float
    """Estimated chance that the first one passes."""


def plan(select: Sequence[tuple[float, bool]], calls: int, error_budget: float, confidence: float) -> Plan:
    """Return the order of the tests: from the threshold that is likeliest to pass, down.

    Stricter ones would keep too few answers to show anything, and one failure ends a fixed sequence.

    Args:
        select: calibrated probability, -1 for what escalates anyway, and whether the answer is wrong, of each call of the select part.
        calls: of the certify part.
        error_budget: what is to be shown.
        confidence: with which.
    """
    ranked = _Ranked.of(select)
    if not ranked.thresholds:
        return Plan([], 0.0)
    found = ranked.chances(calls, error_budget, confidence)
    first = int(found.argmax())
    return Plan(ranked.thresholds[first:] if found[first] > 0 else [], float(found[first]))


def needed(select: Sequence[tuple[float, bool]], calls: int, error_budget: float, confidence: float) -> int | None:
    """Return the calls of a certify part for which the chance to pass would be `LIKELY`; None where no number helps.

    Args:
        select: as `plan` takes it.
        calls: of the certify part that there is.
        error_budget: what is to be shown.
        confidence: with which.
    """
    ranked = _Ranked.of(select)
    if not ranked.thresholds:
        return None
    sizes = (round(fewest(error_budget, confidence) * 1.1**step) for step in range(80))
    larger = (size for size in sizes if size > calls)
    likely = (s for s in larger if ranked.chances(s, error_budget, confidence, s / max(1, calls)).max() >= LIKELY)
    return next(likely, None)


@dataclass(frozen=True)
class _Ranked:
    """The select part, surest first, by what each threshold keeps of it."""

    thresholds: list[float]
    counts: Any
    """How many each keeps."""
    errors: Any
    """Wrong ones among those."""
    calls: int

    @classmethod
    def of(cls, select: Sequence[tuple[float, bool]]) -> _Ranked:
        import numpy as np

        ranked = sorted((pair for pair in select if pair[0] >= 0), reverse=True)
        ends = [n for n in range(1, len(ranked) + 1) if n == len(ranked) or ranked[n][0] < ranked[n - 1][0]]
        errors = np.cumsum([wrong for _, wrong in ranked])
        last = np.array(ends, dtype=int) - 1
        return cls([ranked[n - 1][0] for n in ends], last + 1, errors[last], len(select))

    def chances(self, calls: int, error_budget: float, confidence: float, more: float = 1.0) -> Any:
        """For each threshold, that the answers which it keeps of so many calls pass; with `more` times the select part."""
        import numpy as np
        from scipy.stats import binom

        shares = self.counts / (self.calls + 1)
        # Few calls say little of how often the surest are wrong: half an error more than there was.
        risks = (self.errors * more + 0.5) / (self.counts * more + 1)
        # How many will be kept is a matter of luck too: the mean over five values, one for each fifth of its distribution.
        spread = np.sqrt(calls * shares * (1 - shares))
        n = np.round(np.clip(calls * shares + np.outer(_FIFTHS, spread), 0, calls))
        allowed = binom.ppf(1 - confidence, n, error_budget)
        allowed = np.where(binom.cdf(allowed, n, error_budget) > 1 - confidence, allowed - 1, allowed)
        return np.where(allowed >= 0, binom.cdf(allowed, n, risks), 0.0).mean(axis=0)


def scores_of(calibrator: Calibrator, tried: Sequence[Tried]) -> list[tuple[float, bool]]:
    """Return each answer's calibrated probability, as `sureness`, and whether it is wrong."""
    return [(sureness(calibrator, t), t.wrong) for t in tried]


def promise(select: Sequence[Tried], calls: int, error_budget: float, confidence: float) -> float:
    """Return the share of calls that a policy may be expected to keep, by the select part alone."""
    calibrator = fit(select)
    if calibrator is None:
        return 0.0
    scored = scores_of(calibrator, select)
    planned = plan(scored, calls, error_budget, confidence)
    if not planned.thresholds:
        return 0.0
    return planned.chance * sum(score >= planned.thresholds[0] for score, _ in scored) / len(scored)


def certify(
    select: Sequence[Tried],
    kept_apart: Sequence[Tried] | int,
    test: Sequence[Tried],
    *,
    error_budget: float,
    confidence: float,
    samples: int,
    against: str,
    checks_sha256: Sha256,
    compare: str,
    each_call: bool = False,
    proved_on: str = "the certify part",
) -> Certificate:
    """Return what can be shown of a specialist's answers.

    Args:
        select: answers that fix calibrator and thresholds.
        kept_apart: answers of the certify part, of which one of each cluster is tested; their number where it is hopeless to ask for them.
        test: answers on which share, risk and calibration are measured apart.
        error_budget: the largest accepted rate of wrong answers among those kept.
        confidence: with which it is to be shown.
        samples: answers that stand behind each, as `vote` takes them.
        against: what "wrong" means.
        checks_sha256: of the slot's checks.
        compare: what `hetero.toml` says of the comparison.
        each_call: it must be shown of all calls too, not only of one of each cluster: where large clusters are answered more often than others.
        proved_on: what `kept_apart` is, in words.
    """
    calibrator = fit(select)
    asked = not isinstance(kept_apart, int)
    calls = [] if isinstance(kept_apart, int) else list({t.cluster: t for t in reversed(kept_apart)}.values())
    available = kept_apart if isinstance(kept_apart, int) else len(calls)
    threshold, kept, wrong, missing, counted = None, 0, 0, None, len(calls)
    if calibrator is None:
        missing, calibrator = "the engine does not say how sure it is", Calibrator(bias=0.0, weights={})
    else:
        scored = scores_of(calibrator, calls)
        planned = plan(scores_of(calibrator, select), available, error_budget, confidence)
        ways = [scored] if isinstance(kept_apart, int) or not each_call else [scored, scores_of(calibrator, kept_apart)]
        for tried in planned.thresholds if asked else []:
            shown, found = True, (0, 0, 0)
            for way in ways:
                some = [wrong for score, wrong in way if score >= tried]
                found = len(way), len(some), sum(some)
                shown = upper_bound(sum(some), len(some), confidence) <= error_budget
                if not shown:
                    break
            if shown or threshold is None:
                counted, kept, wrong = found
            if not shown:
                break
            threshold = tried
        if threshold is None:
            seen = f"{wrong} of the {kept} surest of {counted} answers were wrong"
            if not kept:
                seen = f"{available} calls in {proved_on} could show nothing"
                seen += "" if asked else ", so they were not asked"
            more = needed(scores_of(calibrator, select), available, error_budget, confidence)
            missing = f"{seen}; {_needed(more, error_budget, confidence, proved_on)}"
    alone = [t for t in test if threshold is not None and sureness(calibrator, t) >= threshold]
    return Certificate(
        error_budget=error_budget,
        confidence=confidence,
        against=against,
        samples=samples,
        calibrator=calibrator,
        threshold=threshold,
        calls=counted,
        kept=kept,
        wrong=wrong,
        upper_bound=upper_bound(wrong, kept, confidence),
        missing=missing,
        checks_sha256=checks_sha256,
        compare=compare,
        share=wilson(len(alone), len(test)),
        risk=wilson(sum(t.wrong for t in alone), len(alone)) if alone else None,
        calibration_error=calibration_error(reliability(calibrator, test)),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def hopeless(select: Sequence[Tried], calls: int, error_budget: float, confidence: float) -> bool:
    """Return whether the select part says that so many calls would show nothing, so that they need not be asked."""
    calibrator = fit(select)
    if calibrator is None:
        return True
    return plan(scores_of(calibrator, select), calls, error_budget, confidence).chance < HOPELESS


def _needed(calls: int | None, error_budget: float, confidence: float, proved_on: str) -> str:
    if calls is None:
        return "by the select part it is too often wrong where it is surest for any number of calls like these"
    least = fewest(error_budget, confidence)
    return f"with about {calls} in {proved_on} it might be shown (it takes {least} without an error)"


def reliability(calibrator: Calibrator, tried: Sequence[Tried]) -> list[Bin]:
    """Return how often answers are right by how sure they are, in bins of equal size."""
    known = sorted((sure, not wrong) for sure, wrong in scores_of(calibrator, tried) if sure >= 0)
    size = max(1, math.ceil(len(known) / BINS))
    bins = (known[start : start + size] for start in range(0, len(known), size))
    return [Bin(sum(s for s, _ in b) / len(b), sum(r for _, r in b) / len(b), len(b)) for b in bins]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Return the expected calibration error of bins of equal size (Naeini et al. 2015), 0 to 1; 0 of none."""
    n = sum(b.n for b in bins)
    return sum(b.n * abs(b.sure - b.right) for b in bins) / n if n else 0.0
