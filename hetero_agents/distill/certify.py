# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""The error budget: which of a specialist's answers it may give alone, shown on calls that nothing else has seen.

What is bounded is the selective risk, the rate of wrong answers among those kept (Geifman and El-Yaniv 2017). It need not fall as the
threshold rises, so the threshold is found by Learn-then-Test (Angelopoulos et al. 2021): the select part fixes the calibrator and the
thresholds in their order, the certify part tests them one after the other until one fails, each at the whole level (fixed-sequence
testing), by the binomial tail, which is Clopper and Pearson's bound (1934).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from ..bindings import Calibrator, Certificate
from ..bindings.lock import Shown
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
    slice: str = ""
    """For which part of the calls the error budget is shown on its own; one for all of them where it is not."""


@dataclass(frozen=True)
class Bin:
    """Some answers that were about equally sure."""

    sure: float
    """Mean of their calibrated probabilities."""
    right: float
    n: int


def fit(tried: Sequence[Tried], further: Collection[str] = FURTHER) -> Calibrator | None:
    """Return a logistic calibrator of signals that all answers have; None where there are none.

    It weighs all of them but the further ones, which say much the same as the text's: each of these is taken where cross-validation over clusters
    says that it lowers the log loss by more than a standard error. A signal that would count against answers is left out.

    With all right or all wrong there is no slope to fit: it is one for each unit of log-probability, about a share of right
    answers that one more answer of the other kind would give (Laplace).
    """
    known = [t for t in tried if t.signals is not None and not t.refused]
    if not known:
        return None
    import numpy as np

    have = set.intersection(*(set(t.signals or {}) for t in known))
    if "text" in have:  # it says the same as the product, and better
        have.discard("product")
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
    threshold = certificate.threshold_at(tried.slice)
    return threshold is not None and sureness(certificate.calibrator, tried) >= threshold


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
    kept = 0.0
    for part in _slices(select, calls, confidence):
        scored = scores_of(calibrator, part.select)
        planned = plan(scored, part.calls, error_budget, part.confidence)
        if planned.thresholds:
            kept += planned.chance * sum(score >= planned.thresholds[0] for score, _ in scored)
    return kept / len(select)


@dataclass(frozen=True)
class _Slice:
    """Calls of which something is shown on their own."""

    name: str
    select: list[Tried]
    calls: int
    """Of the certify part, about."""
    confidence: float
    """Of each, so that all hold together with the whole (the union bound)."""


def _slices(select: Sequence[Tried], calls: int, confidence: float) -> list[_Slice]:
    """The slices that the select part has, so that the certify part has no say in how many there are."""
    parts: dict[str, list[Tried]] = {}
    for t in select:
        parts.setdefault(t.slice, []).append(t)
    if len(parts) == 1:
        return [_Slice(name, part, calls, confidence) for name, part in parts.items()]
    each = 1 - (1 - confidence) / len(parts)
    return [_Slice(name, part, round(calls * len(part) / len(select)), each) for name, part in sorted(parts.items())]


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
    by: str | None = None,
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
        by: the parameter by whose values the answers are sliced.
        each_call: it must be shown of all calls too, not only of one of each cluster: where large clusters are answered more often than others.
        proved_on: what `kept_apart` is, in words.
    """
    calibrator = fit(select)
    available = kept_apart if isinstance(kept_apart, int) else len({(t.slice, t.cluster) for t in kept_apart})
    slices: dict[str, Shown] = {}
    if calibrator is None:
        calibrator = Calibrator(bias=0.0, weights={})
        missing = "the engine does not say how sure it is"
        slices[""] = Shown(threshold=None, calls=available, kept=0, wrong=0, upper_bound=1.0, missing=missing)
    else:
        for part in _slices(select, available, confidence):
            apart = None if isinstance(kept_apart, int) else [t for t in kept_apart if t.slice == part.name]
            slices[part.name] = _shown(calibrator, part, apart, error_budget, each_call, proved_on)
    certificate = Certificate(
        **_together(slices).model_dump(),
        error_budget=error_budget,
        confidence=confidence,
        against=against,
        samples=samples,
        calibrator=calibrator,
        by=by,
        slices={} if by is None else slices,
        checks_sha256=checks_sha256,
        compare=compare,
        share=wilson(0, len(test)),
        risk=None,
        calibration_error=calibration_error(reliability(calibrator, test)),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    alone = [t for t in test if keeps(certificate, t)]
    risk = wilson(sum(t.wrong for t in alone), len(alone)) if alone else None
    return certificate.model_copy(update={"share": wilson(len(alone), len(test)), "risk": risk})


def _shown(
    calibrator: Calibrator,
    part: _Slice,
    apart: Sequence[Tried] | None,
    error_budget: float,
    each_call: bool,
    proved_on: str,
) -> Shown:
    """What the certify part's answers show of one slice, or their absence where they were not asked."""
    calls = scores_of(calibrator, list({t.cluster: t for t in reversed(apart or [])}.values()))
    available = part.calls if apart is None else len(calls)
    select = scores_of(calibrator, part.select)
    planned = plan(select, available, error_budget, part.confidence)
    ways = [calls, scores_of(calibrator, apart)] if apart is not None and each_call else [calls]
    threshold, missing, (counted, kept, wrong) = None, None, (len(calls), 0, 0)
    for tried in planned.thresholds if apart is not None else []:
        shown, found = True, (0, 0, 0)
        for way in ways:
            some = [wrong for score, wrong in way if score >= tried]
            found = len(way), len(some), sum(some)
            shown = upper_bound(sum(some), len(some), part.confidence) <= error_budget
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
            seen += ", so they were not asked" if apart is None else ""
        more = needed(select, available, error_budget, part.confidence)
        missing = f"{seen}; {_needed(more, error_budget, part.confidence, proved_on)}"
    bound = upper_bound(wrong, kept, part.confidence)
    return Shown(threshold=threshold, calls=counted, kept=kept, wrong=wrong, upper_bound=bound, missing=missing)


def _together(slices: Mapping[str, Shown]) -> Shown:
    """What was shown of all slices that keep something; why nothing, where none does."""
    if len(slices) == 1:
        return next(iter(slices.values()))
    some = [shown for shown in slices.values() if shown.threshold is not None]
    missing = "; ".join(f"{name}: {shown.missing}" for name, shown in slices.items())
    return Shown(
        threshold=min((shown.threshold for shown in some if shown.threshold is not None), default=None),
        calls=sum(shown.calls for shown in slices.values()),
        kept=sum(shown.kept for shown in some),
        wrong=sum(shown.wrong for shown in some),
        upper_bound=max((shown.upper_bound for shown in some), default=1.0),
        missing=None if some else missing,
    )


def hopeless(select: Sequence[Tried], calls: int, error_budget: float, confidence: float) -> bool:
    """Return whether the select part says that so many calls would show nothing, so that they need not be asked."""
    calibrator = fit(select)
    if calibrator is None:
        return True
    parts = _slices(select, calls, confidence)
    plans = (plan(scores_of(calibrator, part.select), part.calls, error_budget, part.confidence) for part in parts)
    return all(planned.chance < HOPELESS for planned in plans)


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
