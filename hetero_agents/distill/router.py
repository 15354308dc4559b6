# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""A specialist's router: by an input's embedding, whether asking it pays (win-rate routing, Ong et al. 2024, with our own labels).

It is fitted on the select part alone. The train part would tell where the specialist has learnt its lesson by heart, not where it is
right; the certify part must not be looked at before the policy is fixed, or the certificate would be on calls that shaped it; the
test part is measured once. The level is chosen by chances that each call got from the calls of other clusters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from ..bindings import Router
from ..routing import chance
from .certify import FEWEST_OF_EACH, FOLDS, Tried, promise

STRENGTHS = (0.1, 1.0, 10.0, 100.0)
"""Inverse strengths of the regularisation, among which cross-validation chooses."""

LEVELS = 20
"""Levels that are tried: one for each twentieth of the select part that is not asked."""

NOTICEABLE = 0.02
"""Share of what may be expected to be kept that a router may cost."""


@dataclass(frozen=True)
class Costs:
    """Seconds of what a router weighs against each other."""

    call: float
    """A call of the specialist."""
    look: float
    """An embedding of one input."""


def fit_router(
    select: Sequence[Tried],
    vectors: Sequence[Sequence[float]],
    calls: int,
    error_budget: float,
    confidence: float,
    *,
    embedder: str,
    costs: Costs | None,
) -> Router | str:
    """Return the router that asks for fewest calls while no less may be expected to be kept, or why there is none.

    Args:
        select: the specialist's answers to the select part.
        vectors: embeddings of its inputs, in the same order.
        calls: of the certify part.
        error_budget: what is to be shown.
        confidence: with which.
        embedder: what made the vectors.
        costs: what a look must not cost more than it spares; None where that is not known.
    """
    right = [not t.wrong and not t.refused for t in select]
    few = min(sum(right), len(right) - sum(right))
    if few < FEWEST_OF_EACH:
        kind = "right" if sum(right) == few else "wrong"
        return f"{few} of the {len(select)} answers of the select part were {kind}, and it takes {FEWEST_OF_EACH}"
    found = cross_fitted(vectors, right, [t.cluster for t in select])
    if found is None:
        return "the inputs do not tell where it is right"
    strength, apart = found
    promised = {0.0: promise(select, calls, error_budget, confidence)}
    for level in sorted(apart)[:: max(1, len(apart) // LEVELS)][1:]:
        promised[level] = promise(past(select, apart, level), calls, error_budget, confidence)
    most = max(promised.values())
    if not most:
        return "nothing may be expected to be kept, with one or without"
    level = max(level for level, kept in promised.items() if kept >= (1 - NOTICEABLE) * most)
    spared = sum(one < level for one in apart) / len(apart)
    if not spared:
        return "no calls could be spared without keeping less"
    if costs and spared * costs.call < costs.look:
        return f"it would spare {spared:.0%} of calls of {costs.call:.3f} s, which a look of {costs.look:.3f} s does not pay"
    bias, weights = _fitted(vectors, right, strength)
    return Router(embedder=embedder, bias=bias, weights=weights, level=round(level, 4))


def routed(router: Router, tried: Sequence[Tried], vectors: Sequence[Sequence[float]]) -> list[Tried]:
    """Return answers as they count behind a router: those to calls for which the specialist is not asked escalate."""
    return past(tried, [chance(router, vector) for vector in vectors], router.level)


def past(tried: Sequence[Tried], chances: Sequence[float], level: float) -> list[Tried]:
    """Return answers of which those to calls with a chance below a level escalate, however sure."""
    return [replace(t, refused=t.refused or right < level) for t, right in zip(tried, chances, strict=True)]


def cross_fitted(
    vectors: Sequence[Sequence[float]], right: Sequence[bool], clusters: Sequence[str]
) -> tuple[float, list[float]] | None:
    """Return the strength that cross-validation chooses, and each call's chance by the calls of other clusters; None where the base rate says as much."""
    import numpy as np
    from sklearn.metrics import log_loss
    from sklearn.model_selection import GroupKFold

    folds = min(FOLDS, len(set(clusters)))
    if folds < 2:
        return None
    given, labels = np.array(vectors), np.array(right)
    made = {strength: np.zeros(len(right)) for strength in (None, *STRENGTHS)}
    for learn, held in GroupKFold(folds).split(labels, groups=clusters):
        if len(set(labels[learn])) < 2:  # one cluster has all of a kind
            return None
        made[None][held] = labels[learn].mean()
        for strength in STRENGTHS:
            made[strength][held] = logistic_model(given[learn], labels[learn], strength).predict_proba(given[held])[
                :, 1
            ]
    losses = {strength: float(log_loss(labels, chances)) for strength, chances in made.items()}
    best = min(losses, key=lambda strength: losses[strength])
    return None if best is None else (best, [float(one) for one in made[best]])


def _fitted(vectors: Sequence[Sequence[float]], right: Sequence[bool], strength: float) -> tuple[float, list[float]]:
    model = logistic_model(vectors, right, strength)
    return round(float(model.intercept_[0]), 5), [round(float(weight), 5) for weight in model.coef_[0]]


def logistic_model(vectors: Any, right: Any, strength: float) -> Any:
    """Return a logistic regression of right answers on vectors, with an inverse strength of its regularisation."""
    from sklearn.linear_model import LogisticRegression

    return cast(Any, LogisticRegression)(C=strength, max_iter=1000).fit(vectors, right)
